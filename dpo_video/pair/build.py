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
    Choice,
    PairRule,
    Ruling,
    ScoredAnswer,
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


class _Selection(NamedTuple):
    """Two answers that become a pair, unless a later step drops them."""

    sample: Sample
    choice: Choice
    source: str


class _QuestionResult(NamedTuple):
    """What the rule makes of one question."""

    selections: list[_Selection]
    drops: list[Drop]
    tie: Tie | None
    """The two answers that a tie-break is to compare."""
    num_truncated: int
    """Usable answers that were cut at the token limit."""


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
    judgment_of = by_candidate(answers, judgments)
    selections: list[_Selection] = []
    drops: list[Drop] = []
    ties: list[Tie] = []
    num_truncated = 0
    for sample in samples:
        question = _pair_question(
            sample,
            answers[sample.id],
            judgment_of,
            settings=settings,
            threshold=threshold,
            seed=seed,
            breaks_ties=compare is not None,
        )
        selections += question.selections
        drops += question.drops
        num_truncated += question.num_truncated
        if question.tie is not None:
            ties.append(question.tie)
    if compare is not None:
        decided, undecided = _decide(ties, compare)
        selections = _in_sample_order(samples, selections + decided)
        drops += undecided
    selections, set_drops = _choose_of_all(selections, settings, rewards)
    drops += set_drops
    pairs = [_to_pair(row, rewards) for row in selections]
    summary = _count(len(samples), sum(map(len, answers.values())), pairs, drops)
    summary["answers"]["cut"] = num_truncated
    failed = summary["questions_dropped"].get(FAILED, 0)
    summary |= {"failed": failed} if failed else {}
    return Paired(
        pairs, drops, summary | {"min_margin": settings.min_margin} | pair_statistics(pairs)
    )


def _side_of(settings: PairSettings) -> dict[str | None, str]:
    """Return the side of each sampler under `across`: a text may then stand on both."""
    sides = {"chosen": settings.chosen_samplers, "rejected": settings.rejected_samplers}
    return {name: side for side, names in sides.items() for name in names}


def _pair_question(
    sample: Sample,
    candidates: Sequence[Candidate],
    judgment_of: Mapping[str, Judgment],
    *,
    settings: PairSettings,
    threshold: float,
    seed: int,
    breaks_ties: bool,
) -> _QuestionResult:
    """Return what the rule of the settings makes of one question's answers."""
    rule: PairRule = choose(PAIR_RULES, settings.rule, "pair rule")
    usable, drops = usable_answers(
        sample.id, candidates, judgment_of, seed=seed, side_of=_side_of(settings)
    )
    num_truncated = sum(answer.truncated for answer in usable)
    if len(usable) < 2:
        reason = "too few answers" if candidates else "no answers"
        drops.append(_drop(sample.id, "question", reason, usable))
        return _QuestionResult([], drops, None, num_truncated)
    ruling = rule(usable, settings, threshold if settings.threshold is None else settings.threshold)
    tie = tie_of(sample, usable) if breaks_ties and _is_tied(ruling) else None
    return _QuestionResult(
        [_Selection(sample, choice, settings.rule) for choice in ruling.choices],
        drops + _not_paired(sample.id, usable, ruling, tied=tie is not None),
        tie,
        num_truncated,
    )


def _decide(ties: Sequence[Tie], compare: Compare) -> tuple[list[_Selection], list[Drop]]:
    """Return the pairs that tie-breaks make, and the questions that stay undecided as drops."""
    selections: list[_Selection] = []
    drops: list[Drop] = []
    for tie, decision in zip(ties, break_ties(ties, compare), strict=True):
        if isinstance(decision, str):
            drops += [
                _drop(tie.sample.id, unit, decision, (tie.high, tie.low)) for unit in UNDECIDED
            ]
        else:
            selections.append(_Selection(tie.sample, decision, SOURCE))
    return selections, drops


def _choose_of_all(
    selections: list[_Selection], settings: PairSettings, rewards: Mapping[str, float] | None
) -> tuple[list[_Selection], list[Drop]]:
    """Return the pairs that stay once all are compared: the hardest ones, then as many as keep the
    lengths equal; and the others as drops.
    """
    drops: list[Drop] = []
    if rewards is not None:
        _check_rewards(selections, rewards, settings)
        easy = hardest([row.choice for row in selections], rewards, settings.keep_hardest)
        selections, easy_drops = _leave_out(selections, easy, "easy")
        drops += easy_drops
    if settings.balance_length:
        offenders = length_offenders([row.choice for row in selections])
        selections, length_drops = _leave_out(selections, offenders, "length balance")
        drops += length_drops
    return selections, drops


def _in_sample_order(
    samples: Sequence[Sample], selections: Sequence[_Selection]
) -> list[_Selection]:
    index_of = {sample.id: index for index, sample in enumerate(samples)}
    return sorted(selections, key=lambda row: index_of[row.sample.id])


def _is_tied(ruling: Ruling) -> bool:
    """Return whether a rule made no pair of a question for want of a margin."""
    return not ruling.choices and _first_reason(ruling) in TOO_CLOSE


def _first_reason(ruling: Ruling) -> str:
    return next((reason for reason in REASONS if ruling.dropped.get(reason)), "")


def _not_paired(
    sample_id: str, usable: Sequence[ScoredAnswer], ruling: Ruling, *, tied: bool
) -> list[Drop]:
    """Return what a rule did not pair of a question; of a tied one, without the two answers that
    are compared.
    """
    named = _first_reason(ruling)
    drops = []
    for reason in REASONS:
        count = ruling.dropped.get(reason, 0) - (tied and reason == named)
        if reason != "uniform" and count > 0:
            drops.append(_drop(sample_id, "pair", reason, usable, count=count))
    if not ruling.choices and not tied:
        drops.append(_drop(sample_id, "question", named, usable))
    return drops


def _check_rewards(
    selections: Sequence[_Selection], rewards: Mapping[str, float], settings: PairSettings
) -> None:
    paired_ids: set[str] = set()
    for selection in selections:
        paired_ids.update(answer.candidate.id for answer in selection.choice)
    without = sorted(paired_ids - rewards.keys())
    if without:
        raise UserError(
            f"{len(without)} of the paired candidates have no reward in "
            f"{settings.implicit_rewards!r}, "
            f"first {without[0]!r}: give every candidate's, or leave pair.implicit_rewards out"
        )


def _leave_out(
    selections: Sequence[_Selection], indices: set[int], reason: str
) -> tuple[list[_Selection], list[Drop]]:
    """Return the selections without those at the indices, and these as drops."""
    remaining = [row for index, row in enumerate(selections) if index not in indices]
    paired_ids = {row.sample.id for row in remaining}
    lost: dict[str, list[ScoredAnswer]] = defaultdict(list)
    for index in sorted(indices):
        lost[selections[index].sample.id] += selections[index].choice
    drops = []
    for sample_id, answers in lost.items():
        drops.append(_drop(sample_id, "pair", reason, answers, count=len(answers) // 2))
        if sample_id not in paired_ids:
            drops.append(_drop(sample_id, "question", reason, answers))
    return remaining, drops


def _drop(
    sample_id: str,
    unit: Literal["pair", "question"],
    reason: str,
    answers: Sequence[ScoredAnswer],
    *,
    count: int = 1,
) -> Drop:
    scores = ", ".join(
        f"#{number_of(answer.candidate)} {answer.score:g}{' (cut)' if answer.truncated else ''}"
        for answer in answers
    )
    return Drop(
        sample_id=sample_id,
        unit=unit,
        reason=reason,
        count=count,
        detail=scores or "no usable answer",
    )


def _to_pair(
    selection: _Selection,
    rewards: Mapping[str, float] | None,
) -> Pair:
    sample, (chosen, rejected), source = selection
    return Pair(
        sample_id=sample.id,
        video=sample.video,
        prompt=sample.prompt,
        history=sample.history,
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
        implicit_margin=None if rewards is None else implicit_margin(selection.choice, rewards),
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
