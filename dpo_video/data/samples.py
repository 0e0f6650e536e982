"""Load the samples of a run: JSONL files or the toy world, ids unique, cleaned, up to the limit."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from dpo_video.core.control_tokens import NO_TOKENS, ControlTokens
from dpo_video.core.errors import UserError
from dpo_video.core.names import did_you_mean
from dpo_video.core.records import Pair, Sample
from dpo_video.data.lines import (
    PairLine,
    SampleLine,
    check_pairs,
    check_samples,
    read_pairs,
    read_samples,
    removed_row,
)
from dpo_video.data.removed import Removed
from dpo_video.data.sample_filters import SampleLines, clean_samples, is_on, looks_at_frames
from dpo_video.recipe import EvaluationSetSettings, Recipe
from dpo_video.store import RunStore, row_key

TOY_CLIPS: dict[str, int] = {"toy:train": 80, "toy:heldout": 120}
"""Clips per split of the toy world: at least 200 training and 300 held-out questions."""
TOY_SETS: dict[str, Literal["choices", "yes_no"]] = {
    "toy:choices": "choices",
    "toy:yes_no": "yes_no",
}
"""Questions about the held-out clips of the toy world whose answers a rule decides."""
DataLine = TypeVar("DataLine", SampleLine, PairLine)


@dataclass(frozen=True, kw_only=True)
class LoadedSamples:
    """The samples of a split."""

    samples: list[Sample]
    root: Path
    """The folder that their video paths start from."""
    removed: list[Removed]
    """What was left out."""
    num_stripped: int = 0
    """Answers that lost the end token which closed them."""
    meta_fields: tuple[str, ...] = ()
    """Fields of the file that only `meta` keeps."""
    pairs: Sequence[Pair] | None = None
    """Those of `data.pairs`, where the samples are their questions."""

    @property
    def num_records(self) -> int:
        """How many samples there are, or pairs of `data.pairs`."""
        return len(self.samples if self.pairs is None else self.pairs)


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Questions that both models answer: those of `data.heldout`, or of one of `evaluate.sets`."""

    name: str
    loaded: LoadedSamples


def load_samples(
    recipe: Recipe,
    split: Literal["samples", "heldout"],
    *,
    heldout: Sequence[Sample] = (),
    store: RunStore | None = None,
    clean: bool = True,
    tokens: ControlTokens = NO_TOKENS,
) -> LoadedSamples:
    """Return the samples of a split, training samples as cleaning leaves them.

    `data.limit` counts samples that cleaning keeps. Raises UserError when the file is missing or
    wrong (up to twenty lines, each with file:line), or there is no sample.

    Args:
        heldout: samples that no training sample may repeat, under `clean.heldout_similarity`.
        store: keeps what is found out about clips.
        clean: False loads what the file holds.
        tokens: the policy's control tokens: a sample with one of them is left out.
    """
    source = recipe.data.samples if split == "samples" else recipe.data.heldout
    limit = recipe.data.limit if split == "samples" else recipe.data.heldout_limit
    if split == "samples" and recipe.data.pairs is not None:
        return load_pairs(recipe, tokens)
    if not source:
        return LoadedSamples(samples=[], root=Path(), removed=[])
    path, root = _located(source, recipe, recipe.data.video_root, "data.video_root")
    meta_fields = check_samples(
        path, inside=_inside(recipe, root), needs_caption=split == "samples"
    )
    lines: SampleLines = read_samples(path, tokens)
    if split == "samples" and recipe.data.part is not None:
        lines = _part(lines, recipe.data.part)
    if clean and split == "samples" and is_on(recipe.clean):
        from dpo_video.video.facts import probe_clips  # here: it brings a decoder

        frames = recipe.clean.frames if looks_at_frames(recipe.clean) else None
        probe = probe_clips(recipe.video, frames=frames, store=store)
        lines = clean_samples(lines, recipe.clean, root=root, probe=probe, heldout=heldout)
    screened = _up_to(limit, lines)
    lines.close()  # stops the processes that look at clips
    samples = [line.sample for line in screened if line.fault is None]
    removed = [removed_row(line) for line in screened if line.fault is not None]
    if not samples:
        raise UserError(_why_none(path, removed))
    return LoadedSamples(
        samples=samples,
        root=root,
        removed=removed,
        num_stripped=_num_stripped(screened),
        meta_fields=meta_fields,
    )


def load_set(
    recipe: Recipe, settings: EvaluationSetSettings, tokens: ControlTokens = NO_TOKENS
) -> EvaluationSet:
    """Return the questions of a set of `evaluate.sets`; errors as those of `load_samples`."""
    path, root = _located(
        settings.samples, recipe, settings.video_root, f"video_root of set {settings.name!r}:"
    )
    meta_fields = check_samples(path, inside=_inside(recipe, root), needs_caption=False)
    lines = list(read_samples(path, tokens))
    samples = [line.sample for line in lines if line.fault is None]
    removed = [removed_row(line) for line in lines if line.fault is not None]
    if not samples:
        raise UserError(_why_none(path, removed))
    return EvaluationSet(
        name=settings.name,
        loaded=LoadedSamples(
            samples=samples,
            root=root,
            removed=removed,
            num_stripped=_num_stripped(lines),
            meta_fields=meta_fields,
        ),
    )


def _located(
    source: str, recipe: Recipe, video_root: str | None, setting: str
) -> tuple[Path, Path]:
    """Return the file of samples, written now where it is the toy world's, and the folder that its
    video paths start from; `setting` names that folder in errors.
    """
    if source.startswith("toy:"):
        path = _toy(source, recipe)
        return path, path.parent
    path = Path(source).expanduser()
    return path, _video_root(video_root, path, setting)


def _part(lines: SampleLines, part: str) -> SampleLines:
    """Yield the lines whose clip is in a part `K/N`: clips are dealt by the hash of their file."""
    number, count = map(int, part.split("/"))
    if not 1 <= number <= count:
        raise UserError(f"data.part is {part!r}: it is K/N, with K from 1 to N")
    for line in lines:
        if int(row_key(video=line.sample.video)[:8], 16) % count == number - 1:
            yield line


def _up_to(limit: int | None, lines: Iterable[DataLine]) -> list[DataLine]:
    """Return the lines up to the `limit`th that is not left out."""
    screened: list[DataLine] = []
    num_kept = 0
    for line in lines:
        screened.append(line)
        num_kept += line.fault is None
        if num_kept == limit:
            break
    return screened


def _num_stripped(lines: Iterable[SampleLine | PairLine]) -> int:
    return sum(line.num_stripped for line in lines if line.fault is None)


def _why_none(path: Path, removed: Sequence[Removed]) -> str:
    if not removed:
        return f"{path}: no samples in it"
    reasons = Counter(row.reason for row in removed)
    why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    remedy = (
        "Remove the model's control tokens from the texts"
        if reasons.keys() == {"control token"}
        else "Loosen the settings in `clean`"
    )
    return f"{path}: cleaning left none of {len(removed)} samples ({why}). {remedy}"


def load_pairs(recipe: Recipe, tokens: ControlTokens = NO_TOKENS) -> LoadedSamples:
    """Return the pairs of `data.pairs` and their questions, without those that hold a control token
    of the policy.

    An end token that closes an answer is stripped. Raises UserError when the file is missing or
    wrong (up to twenty lines, each with file:line), or has no pair.
    """
    path = Path(recipe.data.pairs or "").expanduser()
    folder = recipe.data.video_root
    root = _video_root(folder, path, "data.video_root") if path.exists() else path.parent
    check_pairs(path, inside=_inside(recipe, root))
    screened = _up_to(recipe.data.limit, read_pairs(path, tokens))
    pairs = [line.pair for line in screened if line.fault is None]
    removed = [removed_row(line) for line in screened if line.fault is not None]
    if not pairs:
        why = f": all {len(removed)} hold control tokens of the model" if removed else ""
        raise UserError(f"{path}: no pairs in it{why}")
    return LoadedSamples(
        samples=samples_of(pairs),
        root=root,
        removed=removed,
        num_stripped=_num_stripped(screened),
        pairs=pairs,
    )


def _video_root(folder: str | None, path: Path, setting: str) -> Path:
    """Return the folder that relative video paths start from: the recipe's, else the file's."""
    root = Path(folder).expanduser() if folder else path.parent
    if not root.is_dir():
        raise UserError(
            f"no folder at {setting} {str(root)!r}: it is where relative video paths start from"
        )
    return root


def _inside(recipe: Recipe, root: Path) -> Path | None:
    """Return the folder that clips must not lie outside of; None where they may."""
    return None if recipe.data.outside_root else root


def samples_of(pairs: Sequence[Pair]) -> list[Sample]:
    """Return the questions that pairs are about; they have no captions."""
    samples: dict[str, Sample] = {}
    for pair in pairs:
        samples[pair.sample_id] = Sample(
            id=pair.sample_id,
            video=pair.video,
            prompt=pair.prompt,
            history=pair.history,
            start=pair.start,
            end=pair.end,
        )
    return list(samples.values())


def _toy(source: str, recipe: Recipe) -> Path:
    """Return the file of a split of the toy world, or of questions about its held-out clips,
    written unless already there.
    """
    from dpo_video.toy.clips import write_split
    from dpo_video.toy.question_sets import write_question_set

    names = [*TOY_CLIPS, *TOY_SETS]
    if source not in names:
        raise UserError(
            f"unknown toy data {source!r}.{did_you_mean(source, names)} Known: {', '.join(names)}"
        )
    split: Literal["train", "heldout"] = "train" if source == "toy:train" else "heldout"
    num_clips = TOY_CLIPS[f"toy:{split}"]
    folder = recipe.store_folder / "toy" / split
    samples = write_split(split, folder, num_clips=num_clips, seed=recipe.seed)
    return write_question_set(TOY_SETS[source], folder) if source in TOY_SETS else samples
