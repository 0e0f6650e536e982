"""The answers of each question with their scores: joined by candidate id, the unusable ones left
out and counted.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_lines
from dpo_video.core.records import Candidate, Judgment, Sample
from dpo_video.core.text import normalised_text
from dpo_video.pair.rules import ScoredAnswer

SURE = 0.5
"""Probability of the likeliest label from which the judge is sure of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """What was left out of one question, and why: a line of drops.jsonl."""

    sample_id: str
    unit: Literal["answer", "pair", "question"]
    """`question`: nothing of it was paired."""
    reason: str
    count: int
    """Answers or pairs of the question that were dropped for this reason."""
    detail: str


def read_judged(
    folder: Path, samples: Iterable[Sample]
) -> tuple[list[Candidate], dict[str, Judgment]]:
    """Return a run's candidates and their judgments by candidate id.

    Raises UserError with file and line for a row that is there twice, that belongs to nothing, and
    for a candidate without a judgment: one of the files was changed since it was written.
    """
    candidates_path, judgments_path = folder / "candidates.jsonl", folder / "judgments.jsonl"
    sample_ids = {sample.id for sample in samples}
    candidates: list[Candidate] = []
    line_of: dict[str, int] = {}
    for line, candidate in read_lines(candidates_path, Candidate):
        where = f"{candidates_path}:{line}: candidate {candidate.id!r}"
        if candidate.id in line_of:
            raise _edited(f"{where} stands in line {line_of[candidate.id]} already", "generate")
        if candidate.sample_id not in sample_ids:
            raise _edited(
                f"{where} answers {candidate.sample_id!r}, which is not among the samples",
                "generate",
            )
        line_of[candidate.id] = line
        candidates.append(candidate)
    judgments: dict[str, Judgment] = {}
    judged_line_of: dict[str, int] = {}
    for line, judgment in read_lines(judgments_path, Judgment):
        name = judgment.candidate_id
        where = f"{judgments_path}:{line}: the judgment of {name!r}"
        if name in judgments:
            raise _edited(f"{where} stands in line {judged_line_of[name]} already", "judge")
        if name not in line_of:
            raise _edited(f"{where} is of no candidate in {str(candidates_path)!r}", "judge")
        judgments[name] = judgment
        judged_line_of[name] = line
    unjudged = [name for name in line_of if name not in judgments]
    if unjudged:
        raise _edited(
            f"{judgments_path}: no judgment of {len(unjudged)} of the {len(line_of)} candidates, "
            f"first {unjudged[0]!r} ({candidates_path}:{line_of[unjudged[0]]})",
            "judge",
        )
    return candidates, judgments


def _edited(fault: str, command: str) -> UserError:
    file = {"generate": "candidates.jsonl", "judge": "judgments.jsonl"}[command]
    return UserError(
        f"{fault}. The file was changed since it was written: delete {file} and run dpo-video "
        f"{command} RECIPE again; what is stored is not paid for again"
    )


def by_sample(
    samples: Sequence[Sample], candidates: Iterable[Candidate]
) -> dict[str, list[Candidate]]:
    """Group candidates by question, each question's in the order of their numbers."""
    groups: dict[str, list[Candidate]] = {sample.id: [] for sample in samples}
    candidate_ids: set[str] = set()
    for candidate in candidates:
        if candidate.sample_id not in groups:
            raise UserError(
                f"candidate {candidate.id!r} answers {candidate.sample_id!r}, which is not among "
                f"the samples. Make candidates again: dpo-video generate RECIPE"
            )
        if candidate.id in candidate_ids:
            raise UserError(
                f"two candidates have the id {candidate.id!r}. Make them again: dpo-video generate "
                f"RECIPE"
            )
        candidate_ids.add(candidate.id)
        groups[candidate.sample_id].append(candidate)
    for group in groups.values():
        group.sort(key=number_of)
    return groups


def number_of(candidate: Candidate) -> int:
    """Return k of `<sample id>#<k>`."""
    number = candidate.id.removeprefix(f"{candidate.sample_id}#")
    if not number.isdecimal():
        raise UserError(
            f"candidate id {candidate.id!r} must be its sample id {candidate.sample_id!r}, # and a "
            f"number"
        )
    return int(number)


def sampler_of(candidate: Candidate) -> str:
    """Return which sampler of a mix drew an answer, or else the model."""
    return candidate.sampler or candidate.model


def by_candidate(
    answers: Mapping[str, Sequence[Candidate]], judgments: Iterable[Judgment]
) -> dict[str, Judgment]:
    """Return judgments by candidate id; refuse those of other candidates, a second one, and those
    of two scorers.
    """
    candidate_ids: set[str] = set()
    for group in answers.values():
        candidate_ids.update(candidate.id for candidate in group)
    judgment_of: dict[str, Judgment] = {}
    remedy = "Judge the candidates again: dpo-video judge RECIPE"
    for judgment in judgments:
        if judgment.candidate_id not in candidate_ids:
            raise UserError(
                f"a judgment names {judgment.candidate_id!r}, which is not among the candidates. "
                f"{remedy}"
            )
        if judgment.candidate_id in judgment_of:
            raise UserError(f"candidate {judgment.candidate_id!r} has two judgments. {remedy}")
        judgment_of[judgment.candidate_id] = judgment
    scorers = sorted({judgment.scorer for judgment in judgment_of.values()})
    if len(scorers) > 1:
        raise UserError(
            f"the judgments come from several scorers ({', '.join(scorers)}), whose scores do not "
            f"compare. {remedy}"
        )
    return judgment_of


def usable_answers(
    sample_id: str,
    candidates: Sequence[Candidate],
    judgment_of: Mapping[str, Judgment],
    *,
    seed: int,
    side_of: Mapping[str | None, str],
) -> tuple[list[ScoredAnswer], list[Drop]]:
    """Return a question's answers that a rule may use, and the others as drops.

    Of answers with the same text, or judged as one, that are on one side, one that was not cut
    stays, else the first.

    Args:
        side_of: by sampler, on which side of a pair its answers may be; the others have one in
            common.
    """
    usable: dict[int, ScoredAnswer] = {}
    details: dict[str, list[str]] = defaultdict(list)  # by reason
    first_of: dict[tuple[str, str | int], int] = {}  # by side and text, or number that was judged
    complete_first = sorted(
        candidates, key=lambda candidate: (candidate.finish == "length", number_of(candidate))
    )
    for candidate in complete_first:
        number, text = number_of(candidate), normalised_text(candidate.text)
        side = side_of.get(candidate.sampler, "")
        judgment = judgment_of.get(candidate.id)
        reason, detail = _why_unusable(candidate, judgment)
        if reason:
            details[reason].append(f"#{number}{detail}")
            continue
        assert judgment is not None and judgment.score is not None, "a usable answer has a score"
        twin = _judged_number(candidate, judgment)
        known_as = first_of.get((side, text), first_of.get((side, twin)))
        if known_as is not None:
            details["duplicate"].append(f"#{number} of #{known_as}")
        else:
            first_of[side, text] = first_of[side, twin] = number
            rank = hashlib.sha256(strict_json.dumps([seed, sample_id, number]).encode()).hexdigest()
            usable[number] = ScoredAnswer(candidate, judgment.score, rank, _is_sure(judgment))
    drops = [
        Drop(
            sample_id=sample_id,
            unit="answer",
            reason=reason,
            count=len(texts),
            detail="; ".join(texts),
        )
        for reason, texts in sorted(details.items())
    ]
    return [usable[number] for number in sorted(usable)], drops


def _judged_number(candidate: Candidate, judgment: Judgment) -> int:
    """Return the number of the answer that was judged for this one: its own, or one alike's."""
    if judgment.taken_from is None:
        return number_of(candidate)
    return int(judgment.taken_from.removeprefix(f"{candidate.sample_id}#"))


def _is_sure(judgment: Judgment) -> bool:
    """Return whether a label has at least half of the judge's probability, where it gave any."""
    return not judgment.distribution or max(judgment.distribution.values()) >= SURE


def _why_unusable(candidate: Candidate, judgment: Judgment | None) -> tuple[str, str]:
    """Return why an answer has no score to be used, and the detail; two empty texts where it
    has.
    """
    if not candidate.text.strip():
        return "empty", ""
    if judgment is None:
        return "unscored", ": not judged"
    if judgment.status in ("failed", "refused", "dropped"):
        reason = "cleaned" if judgment.status == "dropped" else judgment.status
        return reason, f": {judgment.reason}"
    if judgment.status != "scored" or judgment.score is None or not math.isfinite(judgment.score):
        return "unscored", f": {judgment.reason}"
    return "", ""
