"""Load the samples of a run: JSONL files or the toy world, ids unique, train and held-out clips apart."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dpo_video.errors import UserError
from dpo_video.names import did_you_mean
from dpo_video.recipe import Recipe
from dpo_video.records import Pair, Sample, read_jsonl

TOY_CLIPS: dict[str, int] = {"toy:train": 80, "toy:heldout": 120}
"""Clips per split of the toy world: at least 200 training and 300 held-out questions."""


def load_samples(recipe: Recipe, split: Literal["samples", "heldout"]) -> tuple[list[Sample], Path]:
    """Return the samples of a split and the folder that their video paths start from.

    Raises UserError when the file is missing or wrong (file:line), an id stands twice, or there is no sample.
    """
    source = recipe.data.samples if split == "samples" else recipe.data.heldout
    limit = recipe.data.limit if split == "samples" else recipe.data.heldout_limit
    if split == "samples" and recipe.data.pairs is not None:
        pairs, root = load_pairs(recipe)
        return samples_of(pairs), root
    if not source:
        return [], Path()
    path = _toy(source, recipe) if source.startswith("toy:") else Path(source).expanduser()
    root = Path(recipe.data.video_root).expanduser() if recipe.data.video_root else path.parent
    if source.startswith("toy:"):
        root = path.parent
    elif not root.is_dir():
        raise UserError(f"no folder at data.video_root {str(root)!r}: it is where relative video paths start from")
    samples: list[Sample] = []
    seen: dict[str, int] = {}
    for number, sample in enumerate(read_jsonl(path, Sample), start=1):
        if sample.id in seen:
            raise UserError(f"{path}: sample {number} has the id {sample.id!r} of sample {seen[sample.id]}; "
                            "ids must be unique")
        seen[sample.id] = number
        if limit is None or len(samples) < limit:
            samples.append(sample)
    if not samples:
        raise UserError(f"{path}: no samples in it")
    return samples, root


def load_pairs(recipe: Recipe) -> tuple[list[Pair], Path]:
    """Return the pairs of `data.pairs` and the folder that their video paths start from.

    Raises UserError when the file is missing or wrong (file:line), or has no pair.
    """
    path = Path(recipe.data.pairs or "").expanduser()
    pairs = list(read_jsonl(path, Pair))[:recipe.data.limit]
    if not pairs:
        raise UserError(f"{path}: no pairs in it")
    root = Path(recipe.data.video_root).expanduser() if recipe.data.video_root else path.parent
    if not root.is_dir():
        raise UserError(f"no folder at data.video_root {str(root)!r}: it is where relative video paths start from")
    return pairs, root


def samples_of(pairs: Sequence[Pair]) -> list[Sample]:
    """Return the questions that pairs are about; they have no captions."""
    return list({pair.sample_id: Sample(id=pair.sample_id, video=pair.video, prompt=pair.prompt, caption="",
                                        start=pair.start, end=pair.end) for pair in pairs}.values())


def _toy(source: str, recipe: Recipe) -> Path:
    from dpo_video.toy import write_split

    if source not in TOY_CLIPS:
        raise UserError(f"unknown toy data {source!r}.{did_you_mean(source, TOY_CLIPS)} Known: {', '.join(TOY_CLIPS)}")
    name: Literal["train", "heldout"] = "train" if source == "toy:train" else "heldout"
    return write_split(name, recipe.run_folder / "toy" / name, num_clips=TOY_CLIPS[source], seed=recipe.seed)


def check_disjoint(samples: Sequence[Sample], heldout: Sequence[Sample], *, video_root: Path,
                   heldout_root: Path) -> None:
    """Refuse a held-out clip that shows any second of a training clip: its numbers would not be held out."""
    trained: dict[Path, list[Sample]] = defaultdict(list)
    for sample in samples:
        trained[_file(sample, video_root)].append(sample)
    for sample in heldout:
        file = _file(sample, heldout_root)
        for other in trained.get(file, []):
            if _overlap(sample, other):
                raise UserError(f"the clip {str(file)!r} of held-out sample {sample.id!r} is also trained on, by "
                                f"sample {other.id!r}. Split data.samples and data.heldout by clip")


def _file(sample: Sample, root: Path) -> Path:
    """Return the video file, or the folder that holds the frames."""
    first = sample.video if isinstance(sample.video, str) else sample.video[0]
    path = (root / Path(first).expanduser()).resolve()
    return path if isinstance(sample.video, str) else path.parent


def _overlap(one: Sample, other: Sample) -> bool:
    def part(sample: Sample) -> tuple[float, float]:
        return sample.start or 0.0, math.inf if sample.end is None else sample.end

    (begin, end), (other_begin, other_end) = part(one), part(other)
    return begin < other_end and other_begin < end
