"""Pairs from answers and their scores, with every drop and its reason; pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from dpo_video.core.errors import UserError
from dpo_video.core.names import choose
from dpo_video.core.records import Candidate, Judgment, Pair, Sample
from dpo_video.judge.modes.pairwise import Compare
from dpo_video.pair.answers import Drop, by_candidate, by_sample, number_of, usable_answers
from dpo_video.pair.rules import (
    PAIR_RULES,
    REASONS,
    Answer,
    Choice,
    Ruling,
    hardest,
    implicit_margin,
    length_offenders,
)
from dpo_video.pair.statistics import pair_statistics
from dpo_video.pair.tie_break import FAILED, SOURCE, TOO_CLOSE, Tie, break_ties, tie_of
from dpo_video.recipe import PairSettings

UNDECIDED: tuple[Literal["pair", "question"], ...] = ("pair", "question")
"""What an undecided tie-break drops."""


class Paired(NamedTuple):
    """The pairs of all questions in sample order, every drop, and counts and statistics."""

    pairs: list[Pair]
    drops: list[Drop]
    summary: dict[str, Any]


class _Kept(NamedTuple):
    sample: Sample
    choice: Choice
    source: str


def build_pairs(
    samples: Sequence[Sample],
    candidates: Iterable[Candidate],
    judgments: Iterable[Judgment],
    *,
    settings: PairSettings,
    threshold: float,
    seed: int,
    rewards: Mapping[str, float] | None = None,
    compare: Compare | None = None,
) -> Paired:
    """Return the pairs of the samples, the same whatever the order of candidates and judgments.

    Args:
        threshold: the score from which an answer is good where `settings.threshold` is None.
        rewards: the policy's implicit reward by candidate id; without it no pair is chosen by its
            implicit margin.
        compare: breaks the ties of questions that the rule would drop; None drops them.
    """
    answers = by_sample(samples, candidates)
    judged = by_candidate(answers, judgments)
    rule = choose(PAIR_RULES, settings.rule, "pair rule")
    limit = threshold if settings.threshold is None else settings.threshold
    drops: list[Drop] = []
    kept: list[_Kept] = []
    ties: list[Tie] = []
    num_cut = 0
    for sample in samples:
        usable = usable_answers(sample.id, answers[sample.id], judged, seed=seed, drops=drops)
        num_cut += sum(answer.cut for answer in usable)
        if len(usable) < 2:
            reason = "too few answers" if answers[sample.id] else "no answers"
            drops.append(_drop(sample.id, "question", reason, usable))
            continue
        ruling = rule(usable, settings, limit)
        kept += [_Kept(sample, choice, settings.rule) for choice in ruling.choices]
        tied = compare is not None and _is_tied(ruling)
        ties += [tie_of(sample, usable)] if tied else []
        drops += _not_paired(sample.id, usable, ruling, tied=tied)
    if compare is not None:
        kept = _in_order(samples, kept + _broken(ties, compare, drops))
    if rewards is not None:
        _check_rewards(kept, rewards, settings)
        easy = hardest([item.choice for item in kept], rewards, settings.keep_hardest)
        kept = _leave_out(kept, easy, "easy", drops)
    if settings.balance_length:
        kept = _leave_out(
            kept, length_offenders([item.choice for item in kept]), "length balance", drops
        )
    pairs = [_to_pair(item, rewards) for item in kept]
    summary = _count(len(samples), sum(map(len, answers.values())), pairs, drops)
    summary["answers"]["cut"] = num_cut
    failed = summary["questions_dropped"].get(FAILED, 0)
    summary |= {"failed": failed} if failed else {}  # so that the stage stays open
    return Paired(
        pairs, drops, summary | {"min_margin": settings.min_margin} | pair_statistics(pairs)
    )


def _broken(ties: Sequence[Tie], compare: Compare, drops: list[Drop]) -> list[_Kept]:
    """Return the pairs that tie-breaks make; the questions that stay undecided are added to
    `drops`.
    """
    kept = []
    for tie, found in zip(ties, break_ties(ties, compare), strict=True):
        if isinstance(found, str):
            drops += [_drop(tie.sample.id, unit, found, (tie.high, tie.low)) for unit in UNDECIDED]
        else:
            kept.append(_Kept(tie.sample, found, SOURCE))
    return kept


def _in_order(samples: Sequence[Sample], kept: Sequence[_Kept]) -> list[_Kept]:
    places = {sample.id: place for place, sample in enumerate(samples)}
    return sorted(kept, key=lambda item: places[item.sample.id])


def _is_tied(ruling: Ruling) -> bool:
    """Return whether a rule made no pair of a question for want of a margin."""
    return not ruling.choices and _first_reason(ruling) in TOO_CLOSE


def _first_reason(ruling: Ruling) -> str:
    return next((reason for reason in REASONS if ruling.dropped.get(reason)), "")


def _not_paired(
    sample_id: str, usable: Sequence[Answer], ruling: Ruling, *, tied: bool
) -> list[Drop]:
    """Return what a rule did not pair of a question; of a tied one, without the two answers that
    are compared.
    """
    reason = _first_reason(ruling)
    left = {
        why: ruling.dropped.get(why, 0) - (tied and why == reason)
        for why in REASONS
        if why != "uniform"
    }
    drops = [
        _drop(sample_id, "pair", why, usable, count=count)
        for why, count in left.items()
        if count > 0
    ]
    if not ruling.choices and not tied:
        drops.append(_drop(sample_id, "question", reason, usable))
    return drops


def _check_rewards(
    kept: Sequence[_Kept], rewards: Mapping[str, float], settings: PairSettings
) -> None:
    without = sorted(
        {answer.candidate.id for item in kept for answer in item.choice} - rewards.keys()
    )
    if without:
        raise UserError(
            f"{len(without)} of the paired candidates have no reward in "
            f"{settings.implicit_rewards!r}, "
            f"first {without[0]!r}: give every candidate's, or leave pair.implicit_rewards out"
        )


def _leave_out(
    kept: Sequence[_Kept], indices: set[int], reason: str, drops: list[Drop]
) -> list[_Kept]:
    """Return the pairs without those at the indices, which are added to `drops`."""
    left = [item for index, item in enumerate(kept) if index not in indices]
    paired = {item.sample.id for item in left}
    lost: dict[str, list[Answer]] = defaultdict(list)
    for index in sorted(indices):
        lost[kept[index].sample.id] += kept[index].choice
    for sample_id, answers in lost.items():
        drops.append(_drop(sample_id, "pair", reason, answers, count=len(answers) // 2))
        if sample_id not in paired:
            drops.append(_drop(sample_id, "question", reason, answers))
    return left


def _drop(
    sample_id: str,
    unit: Literal["pair", "question"],
    reason: str,
    answers: Sequence[Answer],
    *,
    count: int = 1,
) -> Drop:
    scores = ", ".join(
        f"#{number_of(answer.candidate)} {answer.score:g}{' (cut)' if answer.cut else ''}"
        for answer in answers
    )
    return Drop(
        sample_id=sample_id,
        unit=unit,
        reason=reason,
        count=count,
        detail=scores or "no usable answer",
    )


def _to_pair(item: _Kept, rewards: Mapping[str, float] | None) -> Pair:
    sample, (chosen, rejected), source = item
    return Pair(
        sample_id=sample.id,
        video=sample.video,
        prompt=sample.prompt,
        chosen=chosen.candidate.text,
        rejected=rejected.candidate.text,
        chosen_score=chosen.score,
        rejected_score=rejected.score,
        source=source,
        chosen_id=chosen.candidate.id,
        rejected_id=rejected.candidate.id,
        start=sample.start,
        end=sample.end,
        rejected_finish=rejected.candidate.finish,
        implicit_margin=None if rewards is None else implicit_margin(item.choice, rewards),
    )


def _count(
    num_samples: int, num_answers: int, pairs: Sequence[Pair], drops: Sequence[Drop]
) -> dict[str, Any]:
    """Return counts in, out and dropped by reason; for answers and questions, in = out +
    dropped.
    """
    dropped: dict[str, Counter[str]] = {
        "answer": Counter(),
        "pair": Counter(),
        "question": Counter(),
    }
    for drop in drops:
        dropped[drop.unit][drop.reason] += drop.count
    return {
        "questions": {"in": num_samples, "out": len({pair.sample_id for pair in pairs})},
        "questions_dropped": dict(dropped["question"].most_common()),
        "answers": {"in": num_answers, "out": num_answers - dropped["answer"].total()},
        "answers_dropped": dict(dropped["answer"].most_common()),
        "pairs": len(pairs),
        "pairs_dropped": dict(dropped["pair"].most_common()),
    }
