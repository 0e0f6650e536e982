"""The answers of each question with their scores: joined by candidate id, the unusable ones left
out and counted.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dpo_video.core.errors import UserError
from dpo_video.core.records import Candidate, Judgment, Sample
from dpo_video.core.text import normalised_text
from dpo_video.pair.rules import Answer


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


def by_sample(
    samples: Sequence[Sample], candidates: Iterable[Candidate]
) -> dict[str, list[Candidate]]:
    """Group candidates by question, each question's in the order of their numbers."""
    groups: dict[str, list[Candidate]] = {sample.id: [] for sample in samples}
    seen: set[str] = set()
    for candidate in candidates:
        if candidate.sample_id not in groups:
            raise UserError(
                f"candidate {candidate.id!r} answers {candidate.sample_id!r}, which is not among "
                f"the "
                "samples. Make candidates again: dpo-video generate RECIPE"
            )
        if candidate.id in seen:
            raise UserError(
                f"two candidates have the id {candidate.id!r}. Make them again: dpo-video generate "
                f"RECIPE"
            )
        seen.add(candidate.id)
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
    known = {candidate.id for group in answers.values() for candidate in group}
    judged: dict[str, Judgment] = {}
    again = "Judge the candidates again: dpo-video judge RECIPE"
    for judgment in judgments:
        if judgment.candidate_id not in known:
            raise UserError(
                f"a judgment names {judgment.candidate_id!r}, which is not among the candidates. "
                f"{again}"
            )
        if judgment.candidate_id in judged:
            raise UserError(f"candidate {judgment.candidate_id!r} has two judgments. {again}")
        judged[judgment.candidate_id] = judgment
    scorers = sorted({judgment.scorer for judgment in judged.values()})
    if len(scorers) > 1:
        raise UserError(
            f"the judgments come from several scorers ({', '.join(scorers)}), whose scores do not "
            f"compare. "
            f"{again}"
        )
    return judged


def usable_answers(
    sample_id: str,
    candidates: Sequence[Candidate],
    judged: Mapping[str, Judgment],
    *,
    seed: int,
    drops: list[Drop],
) -> list[Answer]:
    """Return a question's answers that a rule may use; the others are added to `drops`.

    Of answers with the same text one that was not cut stays, else the first.
    """
    usable: dict[int, Answer] = {}
    dropped: dict[str, list[str]] = defaultdict(list)
    texts: dict[str, int] = {}
    for candidate in sorted(
        candidates, key=lambda candidate: (candidate.finish == "length", number_of(candidate))
    ):
        number = number_of(candidate)
        judgment = judged.get(candidate.id)
        reason, detail = _unusable(candidate, judgment)
        same = texts.get(normalised_text(candidate.text))
        if reason:
            dropped[reason].append(f"#{number}{detail}")
        elif judgment is not None and judgment.taken_from is not None:
            dropped["duplicate"].append(
                f"#{number} of #{judgment.taken_from.removeprefix(f'{sample_id}#')}"
            )
        elif same is not None:
            dropped["duplicate"].append(f"#{number} of #{same}")
        else:
            assert judgment is not None and judgment.score is not None, (
                "a usable answer has a score"
            )
            texts[normalised_text(candidate.text)] = number
            rank = hashlib.sha256(json.dumps([seed, sample_id, number]).encode()).hexdigest()
            usable[number] = Answer(candidate, judgment.score, rank)
    drops += [
        Drop(
            sample_id=sample_id,
            unit="answer",
            reason=reason,
            count=len(each),
            detail="; ".join(each),
        )
        for reason, each in sorted(dropped.items())
    ]
    return [usable[number] for number in sorted(usable)]


def _unusable(candidate: Candidate, judgment: Judgment | None) -> tuple[str, str]:
    """Return why an answer has no score to be used, and the detail; two empty texts where it
    has.
    """
    if not candidate.text.strip():
        return "empty", ""
    if judgment is None:
        return "unscored", ": not judged"
    if judgment.status in ("failed", "refused", "dropped"):
        return (
            "cleaned" if judgment.status == "dropped" else judgment.status
        ), f": {judgment.reason}"
    if judgment.status != "scored" or judgment.score is None or not math.isfinite(judgment.score):
        return "unscored", f": {judgment.reason}"
    return "", ""
