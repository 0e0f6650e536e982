"""No second of a training clip among the held-out ones."""

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from dpo_video.core.errors import UserError
from dpo_video.core.records import Sample
from dpo_video.video.sources import find_path, real_path


def check_disjoint(
    samples: Sequence[Sample],
    heldout: Sequence[Sample],
    *,
    video_root: Path,
    heldout_root: Path,
    name: str = "data.heldout",
) -> None:
    """Refuse a held-out clip that shows any second of a training clip: its numbers would not be
    held out; `name` says whose it is.
    """
    if not heldout:
        return
    training_samples: dict[Path, list[Sample]] = defaultdict(list)
    for sample in samples:
        training_samples[_file(sample, video_root)].append(sample)
    for sample in heldout:
        file = _file(sample, heldout_root)
        for training_sample in training_samples.get(file, []):
            if _overlap(sample, training_sample):
                raise UserError(
                    f"the clip {str(file)!r} of held-out sample {sample.id!r} is also trained on, "
                    f"by sample {training_sample.id!r}. Split data.samples and {name} by clip"
                )


def _file(sample: Sample, root: Path) -> Path:
    """Return the video file, or the folder that holds the frames."""
    if isinstance(sample.video, str):
        return _real_file(sample.video, root)
    return _real_file(sample.video[0], root).parent


@lru_cache(maxsize=4096)
def _real_file(name: str, root: Path) -> Path:
    """Return a file with all links followed; several questions are about one clip."""
    return Path(real_path(find_path(name, root)))


def _overlap(first: Sample, second: Sample) -> bool:
    begin, end = _span(first)
    other_begin, other_end = _span(second)
    return begin < other_end and other_begin < end


def _span(sample: Sample) -> tuple[float, float]:
    """Return where in its file a sample's clip begins and ends, in seconds."""
    return sample.start or 0.0, math.inf if sample.end is None else sample.end
