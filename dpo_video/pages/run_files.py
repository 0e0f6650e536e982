"""What a run folder holds, read for a page: whatever is not there, or cannot be read, is named."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, read_object, read_rows
from dpo_video.core.records import Candidate, Judgment, Pair, Sample
from dpo_video.data.samples import LoadedSamples, load_samples, load_set
from dpo_video.evaluate.answer_rows import FILE, EvaluatedAnswer, read_evaluated
from dpo_video.evaluate.report import Metrics, read_metrics
from dpo_video.judge.scorer import Scorer, load_scorer
from dpo_video.recipe import Recipe
from dpo_video.recipe.evaluate import HELDOUT
from dpo_video.run import recipe_of

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Split:
    """The questions of a split, and the folder that their clips lie in."""

    samples: Mapping[str, Sample]
    """By id."""
    root: Path


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The files of a run folder as records."""

    folder: Path
    recipe: Recipe
    manifest: Mapping[str, Any]
    train: Split
    sets: Mapping[str, Split]
    """The questions that were evaluated, by the name of their set; `heldout` is data.heldout."""
    answers: Sequence[EvaluatedAnswer]
    pairs: Sequence[Pair]
    candidates: Mapping[str, Candidate]
    """By id."""
    judgments: Mapping[str, Judgment]
    """By candidate id."""
    drops: Sequence[Mapping[str, Any]]
    cleaned: Sequence[Mapping[str, Any]]
    train_log: Sequence[Mapping[str, Any]]
    metrics: Metrics | None
    agreement: Mapping[str, Any]
    audit: Mapping[str, Any]
    scorer: Scorer | None
    """The judge's; None where its file is gone or changed beyond reading."""
    claims_scorer: Scorer | None
    """The hallucination scorer's, which takes evaluated answers apart; None without one."""
    faults: Sequence[str]
    """What could not be read, a sentence each."""

    def stage(self, name: str) -> Mapping[str, Any]:
        """Return what a finished stage counted; empty where it is not finished."""
        return ((self.manifest.get("stages") or {}).get(name) or {}).get("summary") or {}


def read_run_files(folder: Path) -> RunFiles:
    """Return what a run folder holds; UserError where it is no run's folder."""
    recipe = recipe_of(folder)
    reader = _FolderReader(folder)
    support_scorer = recipe.evaluate.hallucination_scorer
    candidates: list[Candidate] = reader.records("candidates.jsonl", Candidate)
    judgments: list[Judgment] = reader.records("judgments.jsonl", Judgment)
    return RunFiles(
        folder=folder,
        recipe=recipe,
        manifest=read_object(folder / "manifest.json"),
        train=reader.split(recipe, "samples"),
        sets=reader.sets(recipe),
        answers=reader.read(FILE, read_evaluated, []),
        pairs=reader.records("pairs.jsonl", Pair),
        candidates={row.id: row for row in candidates},
        judgments={row.candidate_id: row for row in judgments},
        drops=reader.rows("drops.jsonl"),
        cleaned=reader.rows("cleaned.jsonl"),
        train_log=reader.rows("train_log.jsonl"),
        metrics=reader.read("metrics.json", read_metrics, None),
        agreement=reader.read("agreement.json", read_object, {}),
        audit=reader.read("audit.json", read_object, {}),
        scorer=reader.attempt(lambda: load_scorer(recipe.judge.scorer), None),
        claims_scorer=reader.attempt(lambda: _scorer(support_scorer), None),
        faults=list(dict.fromkeys(reader.faults)),
    )


def _scorer(name: str | None) -> Scorer | None:
    return None if name is None else load_scorer(name)


class _FolderReader:
    """Reads files of a run folder; why one could not be read is among the faults."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: list[str] = []

    def attempt(self, read: Callable[[], T], otherwise: T) -> T:
        """Return what can be read, or what stands in for it."""
        try:
            return read()
        except UserError as error:
            self.faults.append(str(error))
            return otherwise

    def read(self, name: str, read: Callable[[Path], T], otherwise: T) -> T:
        """Return what a file holds, or what stands in for it, also where there is no file."""
        path = self.folder / name
        return self.attempt(lambda: read(path), otherwise) if path.is_file() else otherwise

    def records(self, name: str, kind: Any) -> list[Any]:
        """Return the records of a file; none where there is no file."""
        return self.read(name, lambda path: list(read_jsonl(path, kind)), [])

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return the objects of a file; none where there is no file."""
        return self.read(name, lambda path: [row for _, row in read_rows(path, "rows")], [])

    def sets(self, recipe: Recipe) -> dict[str, Split]:
        """Return the questions of every set that is evaluated; none of one that cannot be read."""
        splits = {HELDOUT: self.split(recipe, "heldout")}
        for settings in recipe.evaluate.sets:
            loaded = self.attempt(partial(load_set, recipe, settings), None)
            if loaded is not None:
                splits[settings.name] = _split_of(loaded.loaded)
        return splits

    def split(self, recipe: Recipe, name: Literal["samples", "heldout"]) -> Split:
        """Return the questions of a split; none where they cannot be read."""
        loaded = self.attempt(lambda: load_samples(recipe, name, clean=False), None)
        if loaded is None:
            return Split(samples={}, root=Path())
        return _split_of(loaded)


def _split_of(loaded: LoadedSamples) -> Split:
    return Split(samples={sample.id: sample for sample in loaded.samples}, root=loaded.root)
