"""Load the samples of a run: JSONL files or the toy world, ids unique, cleaned, train and held-out
clips apart.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_lines
from dpo_video.core.names import did_you_mean
from dpo_video.core.records import Pair, Sample
from dpo_video.core.text import TAG
from dpo_video.data.removed import Removed
from dpo_video.data.sample_filters import Row, Rows, clean_samples, is_on, left_out, looks_at_frames
from dpo_video.recipe import Recipe
from dpo_video.store import RunStore
from dpo_video.video.facts import probe_clips
from dpo_video.video.sources import local_path

TOY_CLIPS: dict[str, int] = {"toy:train": 80, "toy:heldout": 120}
"""Clips per split of the toy world: at least 200 training and 300 held-out questions."""


class Loaded(NamedTuple):
    """The samples of a split; the folder that their video paths start from; what cleaning left
    out.
    """

    samples: list[Sample]
    root: Path
    cleaned: list[Removed]


def load_samples(
    recipe: Recipe,
    split: Literal["samples", "heldout"],
    *,
    heldout: Sequence[Sample] = (),
    store: RunStore | None = None,
    clean: bool = True,
) -> Loaded:
    """Return the samples of a split, training samples as cleaning leaves them.

    `data.limit` counts samples that cleaning keeps. Raises UserError when the file is missing or
    wrong (file:line), an id stands twice, or there is no sample.

    Args:
        heldout: samples that no training sample may repeat, under `clean.heldout_similarity`.
        store: keeps what is found out about clips.
        clean: False loads what the file holds.
    """
    source = recipe.data.samples if split == "samples" else recipe.data.heldout
    limit = recipe.data.limit if split == "samples" else recipe.data.heldout_limit
    if split == "samples" and recipe.data.pairs is not None:
        pairs, root = load_pairs(recipe)
        return Loaded(samples_of(pairs), root, [])
    if not source:
        return Loaded([], Path(), [])
    path = _toy(source, recipe) if source.startswith("toy:") else Path(source).expanduser()
    root = Path(recipe.data.video_root).expanduser() if recipe.data.video_root else path.parent
    if source.startswith("toy:"):
        root = path.parent
    elif not root.is_dir():
        raise UserError(
            f"no folder at data.video_root {str(root)!r}: it is where relative video paths start "
            f"from"
        )
    rows = _unique(path)
    rejected: list[tuple[int, Removed]] = []
    passed: Rows = rows
    if clean and split == "samples" and is_on(recipe.clean):
        frames = recipe.clean.frames if looks_at_frames(recipe.clean) else None
        passed = clean_samples(
            rows,
            recipe.clean,
            root=root,
            look=probe_clips(recipe.video, frames=frames, store=store),
            heldout=heldout,
            reject=lambda row, reason, detail: rejected.append(
                (row.line, left_out(path, row, reason, detail))
            ),
        )
    kept = list(islice(passed, limit))
    end = (
        math.inf if limit is None or len(kept) < limit else kept[-1].line
    )  # filters read ahead of the limit
    cleaned = [each for line, each in sorted(rejected, key=lambda pair: pair[0]) if line <= end]
    if passed is not rows:
        passed.close()  # stops the processes that look at clips
    for _ in rows:  # the rest of the file is still checked
        pass
    if not kept:
        reasons = Counter(each.reason for each in cleaned)
        why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        raise UserError(
            f"{path}: no samples in it"
            if not cleaned
            else f"{path}: cleaning left none of {len(cleaned)} samples ({why}). Loosen the "
            f"settings in `clean`"
        )
    return Loaded([row.sample for row in kept], root, cleaned)


def _unique(path: Path) -> Rows:
    """Yield the samples of a file; refuse an id that stands twice, and a sample that says
    nothing.
    """
    seen: dict[str, int] = {}
    for line, sample in read_lines(path, Sample):
        if sample.id in seen:
            raise UserError(
                f"{path}:{line}: the id {sample.id!r} stands in line {seen[sample.id]} already; "
                f"ids must "
                "be unique"
            )
        seen[sample.id] = line
        _check_content(sample, f"{path}:{line}", needed=("id", "video", "prompt", "caption"))
        yield Row(line, sample)


def _check_content(record: Sample | Pair, where: str, *, needed: Sequence[str]) -> None:
    """Refuse a field that says nothing, a text that is no prompt, and a clip that ends before it
    starts.
    """
    row = asdict(record)
    for name in needed:
        value = row[name]
        if not (
            value.strip()
            if isinstance(value, str)
            else value and all(part.strip() for part in value)
        ):
            why = ". The judge scores answers against it" if name == "caption" else ""
            raise UserError(f"{where}: `{name}` is empty{why}. Fill it in, or leave the line out")
    if (tag := TAG.search(record.prompt)) is not None:
        raise UserError(
            f"{where}: `prompt` contains {tag[0].strip()!r}, which other projects write for the "
            f"clip; "
            "the model would read it as text, or as its own video token. Remove it: the chat "
            "template "
            "puts the clip of `video` into the prompt"
        )
    start, end = record.start or 0.0, record.end
    if start < 0 or (end is not None and end <= start):
        raise UserError(
            f"{where}: the clip starts at {start:g} and ends at "
            f"{end if end is None else format(end, 'g')} "
            "seconds: `start` must be 0 or later, and `end` after it"
        )


def load_pairs(recipe: Recipe) -> tuple[list[Pair], Path]:
    """Return the pairs of `data.pairs` and the folder that their video paths start from.

    Raises UserError when the file is missing or wrong (file:line), or has no pair.
    """
    path = Path(recipe.data.pairs or "").expanduser()
    pairs = []
    for line, pair in read_lines(path, Pair):
        _check_content(pair, f"{path}:{line}", needed=("video", "prompt", "chosen"))
        pairs.append(pair)
    pairs = pairs[: recipe.data.limit]
    if not pairs:
        raise UserError(f"{path}: no pairs in it")
    root = Path(recipe.data.video_root).expanduser() if recipe.data.video_root else path.parent
    if not root.is_dir():
        raise UserError(
            f"no folder at data.video_root {str(root)!r}: it is where relative video paths start "
            f"from"
        )
    return pairs, root


def samples_of(pairs: Sequence[Pair]) -> list[Sample]:
    """Return the questions that pairs are about; they have no captions."""
    return list(
        {
            pair.sample_id: Sample(
                id=pair.sample_id,
                video=pair.video,
                prompt=pair.prompt,
                caption="",
                start=pair.start,
                end=pair.end,
            )
            for pair in pairs
        }.values()
    )


def _toy(source: str, recipe: Recipe) -> Path:
    from dpo_video.toy.clips import write_split

    if source not in TOY_CLIPS:
        raise UserError(
            f"unknown toy data {source!r}.{did_you_mean(source, TOY_CLIPS)} Known: "
            f"{', '.join(TOY_CLIPS)}"
        )
    name: Literal["train", "heldout"] = "train" if source == "toy:train" else "heldout"
    return write_split(
        name, recipe.run_folder / "toy" / name, num_clips=TOY_CLIPS[source], seed=recipe.seed
    )


def check_disjoint(
    samples: Sequence[Sample], heldout: Sequence[Sample], *, video_root: Path, heldout_root: Path
) -> None:
    """Refuse a held-out clip that shows any second of a training clip: its numbers would not be
    held out.
    """
    if not heldout:
        return
    trained: dict[Path, list[Sample]] = defaultdict(list)
    for sample in samples:
        trained[_file(sample, video_root)].append(sample)
    for sample in heldout:
        file = _file(sample, heldout_root)
        for other in trained.get(file, []):
            if _overlap(sample, other):
                raise UserError(
                    f"the clip {str(file)!r} of held-out sample {sample.id!r} is also trained on, "
                    f"by "
                    f"sample {other.id!r}. Split data.samples and data.heldout by clip"
                )


def _file(sample: Sample, root: Path) -> Path:
    """Return the video file, or the folder that holds the frames."""
    first = sample.video if isinstance(sample.video, str) else sample.video[0]
    path = (root / local_path(first)).resolve()
    return path if isinstance(sample.video, str) else path.parent


def _overlap(one: Sample, other: Sample) -> bool:
    def part(sample: Sample) -> tuple[float, float]:
        return sample.start or 0.0, math.inf if sample.end is None else sample.end

    (begin, end), (other_begin, other_end) = part(one), part(other)
    return begin < other_end and other_begin < end
