"""Gold labels: read a JSONL file of graded or paired answers, and fold what several annotators
say.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_rows
from dpo_video.core.names import did_you_mean
from dpo_video.core.records import Candidate, Sample
from dpo_video.judge.scorer import Scorer

GRADED = ("candidate_id", "sample_id", "text", "score", "label", "annotator")
PAIRED = ("chosen_id", "rejected_id", "sample_id", "chosen", "rejected", "tie", "annotator")
TWO_CLASSES = {
    "good": 1.0,
    "bad": 0.0,
    "yes": 1.0,
    "no": 0.0,
    "true": 1.0,
    "false": 0.0,
    "correct": 1.0,
    "incorrect": 0.0,
    "right": 1.0,
    "wrong": 0.0,
}
"""Labels that need no scorer to be numbers."""

LabelledAnswer = tuple[Sample, Candidate]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldGrade:
    """One annotator's score of one answer."""

    candidate_id: str
    score: float
    annotator: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """One annotator's choice between two answers to one sample."""

    chosen_id: str
    rejected_id: str
    annotator: str = ""
    where: str = ""
    tie: bool = False
    """Neither is preferred."""
    both_bad: bool = False
    """Neither, for both are bad."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """Gold labels with the answers that they are about; either grades or preferences."""

    source: str
    answers: dict[str, LabelledAnswer]
    """Every labelled answer by candidate id, in the order of the labels."""
    grades: list[GoldGrade] = field(default_factory=list)
    preferences: list[Preference] = field(default_factory=list)

    @property
    def annotators(self) -> list[str]:
        """The names of the annotators; one empty name where the file gives none."""
        return sorted(
            {row.annotator for row in self.grades} | {row.annotator for row in self.preferences}
        )

    def scores(self) -> dict[str, float]:
        """Return each graded answer's score, the mean over its annotators."""
        by_answer: dict[str, list[float]] = defaultdict(list)
        for grade in self.grades:
            by_answer[grade.candidate_id].append(grade.score)
        return {name: sum(scores) / len(scores) for name, scores in by_answer.items()}

    def pairs(self) -> list[tuple[str, str, int]]:
        """Return (id, other id, sign): 1 where gold prefers the first, -1 the second, 0 where it
        ties them.

        Grades make every pair of a sample's answers; preferences are decided by the majority of
        annotators.
        """
        if self.preferences:
            votes: Counter[tuple[str, str]] = Counter()
            for row in self.preferences:
                forward = row.chosen_id < row.rejected_id
                key = (
                    (row.chosen_id, row.rejected_id)
                    if forward
                    else (row.rejected_id, row.chosen_id)
                )
                votes[key] += 0 if row.tie else 1 if forward else -1
            return [(*key, int(np.sign(balance))) for key, balance in votes.items()]
        scores, of_sample = self.scores(), defaultdict(list)
        for name in scores:
            of_sample[self.answers[name][0].id].append(name)
        pairs = []
        for names in of_sample.values():
            for left, right in itertools.combinations(names, 2):
                pairs.append((left, right, int(np.sign(scores[left] - scores[right]))))
        return pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTargets:
    """The samples and candidates that gold labels may speak of."""

    samples: Mapping[str, Sample]
    candidates: Mapping[str, Candidate]

    def by_text(self) -> dict[tuple[str, str], Candidate]:
        """Return the candidates by sample and text; the first of equal ones."""
        candidates: dict[tuple[str, str], Candidate] = {}
        for candidate in self.candidates.values():
            candidates.setdefault((candidate.sample_id, candidate.text), candidate)
        return candidates


def read_gold(path: Path, targets: LabelTargets, scorer: Scorer) -> Gold:
    """Return the labels of a JSONL file; UserError names file and line of the first that is wrong.

    Graded: `candidate_id`, or `sample_id` with the `text` of an answer (without it where the sample
        has one candidate),
    and `score`, or a `label` of the scorer or such as good and bad. Paired: `chosen_id` and
    `rejected_id`, or `sample_id` with the texts `chosen` and `rejected`; `tie: true` where neither
    is better. Either may name its `annotator`.
    """
    reader = _Reader(targets, scorer)
    for number, row in read_rows(path, "gold labels"):
        reader.read(f"{path}:{number}", row)
    if not reader.grades and not reader.preferences:
        raise UserError(f"{path}: no labels in it")
    if reader.grades and reader.preferences:
        raise UserError(
            f"{path}: graded and paired labels in one file (first {reader.grades[0].where} and "
            f"{reader.preferences[0].where}). Give them as two files, one at a time"
        )
    return Gold(
        source=str(path),
        answers=reader.answers,
        grades=reader.grades,
        preferences=reader.preferences,
    )


class _Reader:
    """Rows read so far; `read` takes the next."""

    def __init__(self, targets: LabelTargets, scorer: Scorer) -> None:
        self.targets, self.scorer = targets, scorer
        self.by_text = targets.by_text()
        self.of_sample: dict[str, list[Candidate]] = defaultdict(list)
        for candidate in targets.candidates.values():
            self.of_sample[candidate.sample_id].append(candidate)
        self.answers: dict[str, LabelledAnswer] = {}
        self.grades: list[GoldGrade] = []
        self.preferences: list[Preference] = []
        self.seen: dict[tuple[str, ...], str] = {}

    def read(self, where: str, row: Mapping[str, Any]) -> None:
        paired = any(key in row for key in ("chosen_id", "rejected_id", "chosen", "rejected"))
        keys = PAIRED if paired else GRADED
        for key in row:
            if key not in keys:
                raise UserError(
                    f"{where}: unknown field `{key}`.{did_you_mean(key, keys)} "
                    f"A {'paired' if paired else 'graded'} label has: {', '.join(keys)}"
                )
        annotator = _text(where, row, "annotator") if "annotator" in row else ""
        if paired:
            self._paired(where, row, annotator)
            return
        name = self._answer(where, row, "candidate_id", "text")
        self._once(where, (name, annotator))
        score = _score(where, row, self.scorer)
        self.grades.append(
            GoldGrade(candidate_id=name, score=score, annotator=annotator, where=where)
        )

    def _paired(self, where: str, row: Mapping[str, Any], annotator: str) -> None:
        chosen = self._answer(where, row, "chosen_id", "chosen")
        rejected = self._answer(where, row, "rejected_id", "rejected")
        if chosen == rejected:
            raise UserError(f"{where}: chosen and rejected are the same answer, {chosen!r}")
        chosen_sample, rejected_sample = self.answers[chosen][0].id, self.answers[rejected][0].id
        if chosen_sample != rejected_sample:
            raise UserError(
                f"{where}: chosen answers sample {chosen_sample!r}, rejected sample "
                f"{rejected_sample!r}; a pair is about one"
            )
        self._once(where, (*sorted((chosen, rejected)), annotator))
        tie = row.get("tie", False)
        if not isinstance(tie, bool):
            raise UserError(f"{where}: `tie` must be true or false, got {tie!r}")
        self.preferences.append(
            Preference(
                chosen_id=chosen, rejected_id=rejected, annotator=annotator, where=where, tie=tie
            )
        )

    def _once(self, where: str, key: tuple[str, ...]) -> None:
        if key in self.seen:
            raise UserError(
                f"{where}: the same label as in {self.seen[key]}. If two people gave them, name "
                f"each in "
                "`annotator`"
            )
        self.seen[key] = where

    def _answer(self, where: str, row: Mapping[str, Any], id_key: str, text_key: str) -> str:
        """Note the answer that a row speaks of; return its candidate id."""
        if id_key in row:
            name = _text(where, row, id_key)
            if name not in self.targets.candidates:
                near = did_you_mean(name, self.targets.candidates)
                raise UserError(
                    f"{where}: no candidate {name!r} in this run.{near} Is it the gold of another "
                    "run? Or give `sample_id` and the text of the answer"
                )
            candidate = self.targets.candidates[name]
        else:
            candidate = self._by_sample(where, row, id_key, text_key)
        self.answers.setdefault(
            candidate.id, (self.targets.samples[candidate.sample_id], candidate)
        )
        return candidate.id

    def _by_sample(
        self, where: str, row: Mapping[str, Any], id_key: str, text_key: str
    ) -> Candidate:
        if "sample_id" not in row:
            raise UserError(
                f"{where}: missing `{id_key}`, or `sample_id` with `{text_key}`: which answer is "
                f"it about?"
            )
        sample_id = _text(where, row, "sample_id")
        if sample_id not in self.targets.samples:
            near = did_you_mean(sample_id, self.targets.samples)
            raise UserError(f"{where}: no sample {sample_id!r} in this run.{near}")
        if text_key in row:
            text = _text(where, row, text_key)
            written = Candidate(
                id=f"{sample_id}#gold:{text}",
                sample_id=sample_id,
                text=text,
                model="gold",
                settings="gold",
                seed=0,
            )
            return self.by_text.get((sample_id, text), written)
        candidates = self.of_sample[sample_id]
        if len(candidates) != 1:
            raise UserError(
                f"{where}: sample {sample_id!r} has {len(candidates)} candidates in this run: "
                f"say which by `{id_key}`, or give the `{text_key}`"
            )
        return candidates[0]


def _text(where: str, row: Mapping[str, Any], key: str) -> str:
    if not isinstance(row[key], str):
        raise UserError(f"{where}: `{key}` must be a string, got {row[key]!r}")
    return str(row[key])


def _score(where: str, row: Mapping[str, Any], scorer: Scorer) -> float:
    if ("score" in row) == ("label" in row):
        raise UserError(f"{where}: give `score` (a number) or `label`, one of them")
    if "score" in row:
        value = row["score"]
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise UserError(f"{where}: `score` must be a number, got {value!r}")
        return float(value)
    label = row["label"]
    if isinstance(label, bool):
        return float(label)
    scores = TWO_CLASSES | {name.casefold(): score for name, score in scorer.labels.items()}
    for name, meaning in scorer.label_names.items():
        scores[meaning.casefold()] = scorer.labels[name]
    if not isinstance(label, str) or label.casefold() not in scores:
        near = did_you_mean(str(label), scores)
        raise UserError(
            f"{where}: unknown `label` {label!r}.{near} Known: {', '.join(scores)}; or give a "
            f"`score`"
        )
    return scores[label.casefold()]


def annotator_alpha(gold: Gold) -> tuple[float | None, int]:
    """Return Krippendorff's alpha among the annotators and the number of units that two or more of
    them labelled.

    Ordinal for grades, and for preferences, between whose two orders a tie lies: what no judge can
    be expected to beat by much.
    """
    units: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for grade in gold.grades:
        units[grade.candidate_id,].append(grade.score)
    for row in gold.preferences:
        key = tuple(sorted((row.chosen_id, row.rejected_id)))
        units[key].append(0.5 if row.tie else float(row.chosen_id == key[0]))
    several = [values for values in units.values() if len(values) > 1]
    return (krippendorff_alpha(several) if several else None), len(several)


def krippendorff_alpha(units: Iterable[Sequence[float]]) -> float | None:
    """Return Krippendorff's alpha of the values that each unit got, with ordinal distances; None
    where all are equal.

    Krippendorff (2011), Computing Krippendorff's alpha-reliability: 1 - observed / expected
    disagreement over pairs of values. Two categories have one distance, so nominal data of two
    classes need no other form.
    """
    rows = [values for values in units if len(values) > 1]
    levels = sorted(set(itertools.chain.from_iterable(rows)))
    code = {level: index for index, level in enumerate(levels)}
    coincidences = np.zeros((len(levels), len(levels)))
    for values in rows:
        codes = [code[value] for value in values]
        counts = np.bincount(codes, minlength=len(levels)).astype(float)
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(values) - 1)
    totals = coincidences.sum(axis=1)
    below = np.cumsum(totals) - totals / 2  # the middle rank of each level
    distance = (below[:, None] - below[None, :]) ** 2
    pairs = np.outer(totals, totals) - np.diag(totals)
    expected = float((pairs * distance).sum()) / (totals.sum() - 1) if len(levels) > 1 else 0.0
    return None if expected == 0 else 1 - float((coincidences * distance).sum()) / expected
