"""What an audit measures of pairs, as pure functions: length, position, samplers, duplicates,
margins, and what a reader should look at.

P pairs, A scored answers.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dpo_video.core.records import Candidate, Judgment, Pair
from dpo_video.core.report import Estimate
from dpo_video.core.statistics import (
    Floats,
    Statistic,
    bootstrap_ci,
    quantiles,
    weighted_correlation,
    weighted_mean,
    weighted_slope,
)
from dpo_video.core.text import normalised_text
from dpo_video.core.turns import whole_question
from dpo_video.pair.answers import sampler_of
from dpo_video.pair.audit_report import (
    Duplicates,
    EndPlaces,
    Histogram,
    ImplicitMargins,
    Lengths,
    Margins,
    PairCounts,
    Positions,
    SamplerAudit,
)
from dpo_video.pair.statistics import sampler_shares, uneven_samplers
from dpo_video.video import file_name

RESAMPLES = 1000
SEED = 0
MOST_BINS = 20
ONE_SIDED = 0.6
"""Share of pairs on one side from which a bias is warned about, if its interval leaves out one
half.
"""
DropRow = Mapping[str, Any]
"""A line of drops.jsonl or cleaned.jsonl."""


class AuditedAnswer(NamedTuple):
    """An answer that has a score of its own."""

    question: str
    clip: str
    length: int
    score: float


def count_pairs(
    pairs: Sequence[Pair],
    drops: Sequence[DropRow],
    cleaned: Sequence[DropRow],
    *,
    other_clip_pairs: int,
) -> PairCounts:
    """Return how many pairs, questions and clips, pairs per question, and what was left out by
    reason.
    """
    per_question = Counter(Counter(pair.sample_id for pair in pairs).values())
    dropped = {unit: Counter[str]() for unit in ("question", "answer", "pair")}
    for row in drops:
        dropped[row["unit"]][row["reason"]] += row["count"]
    if dropped["question"]:
        per_question[0] = dropped["question"].total()
    removed = {unit: Counter[str]() for unit in ("sample", "answer")}
    for row in cleaned:
        removed[row["unit"]][row["reason"]] += 1
    return PairCounts(
        pairs=len(pairs),
        questions=len({pair.sample_id for pair in pairs}),
        clips=len({file_name(pair.video) for pair in pairs}),
        pairs_per_question={str(number): per_question[number] for number in sorted(per_question)},
        dropped={unit: dict(reasons.most_common()) for unit, reasons in dropped.items()},
        cleaned={unit: dict(reasons.most_common()) for unit, reasons in removed.items()},
        other_clip_pairs=other_clip_pairs or None,
    )


def count_duplicates(
    pairs: Sequence[Pair], drops: Sequence[DropRow], judgments: Sequence[Judgment]
) -> Duplicates:
    """Return how many answers repeat another of their question, and how many pairs repeat an
    earlier pair.
    """
    distinct = {
        (
            file_name(pair.video),
            pair.start,
            pair.end,
            normalised_text(whole_question(pair)),
            normalised_text(pair.chosen),
            normalised_text(pair.rejected),
        )
        for pair in pairs
    }
    return Duplicates(
        answers=sum(row["count"] for row in drops if row["reason"] == "duplicate"),
        judged_once_for_several=sum(row.taken_from is not None for row in judgments),
        pairs=len(pairs) - len(distinct),
    )


def measure_margins(pairs: Sequence[Pair]) -> Margins:
    """Return quantiles and a histogram of the score margins, and what is known of the policy's
    implicit margins.
    """
    margins = [pair.scores[0] - pair.scores[1] for pair in pairs]
    implicit = [pair.implicit_margin for pair in pairs if pair.implicit_margin is not None]
    return Margins(
        quantiles=quantiles(margins),
        mean=float(np.mean(margins)),
        histogram=histogram({"pairs": margins}),
        implicit=ImplicitMargins(
            quantiles=quantiles(implicit),
            n=len(implicit),
            wrongly_ranked=float(np.mean(np.asarray(implicit) < 0)),
        )
        if implicit
        else None,
    )


def measure_lengths(
    pairs: Sequence[Pair], scored: Sequence[AuditedAnswer], clips: Sequence[str]
) -> Lengths:
    """Return how far chosen answers are the longer ones, and what of the margin is left once length
    is taken out.

    Lengths in characters. The slope of score on length is fitted within questions, over all scored
    answers where the run has them, else over the pairs' own; the residual margin of a pair is its
    margin less slope * extra length.
    """
    chosen = [len(pair.chosen) for pair in pairs]
    rejected = [len(pair.rejected) for pair in pairs]
    extra = np.subtract(chosen, rejected).astype(np.float64)
    margin = np.array([pair.scores[0] - pair.scores[1] for pair in pairs])
    answers = scored or _paired_answers(pairs, clips)
    answer_clips = [row.clip for row in answers]
    raw = np.array([(row.length, row.score) for row in answers], np.float64)  # (A, 2)
    within = _within_questions(answers)
    slope = float(weighted_slope(within, np.ones((1, len(within))))[0])
    residual = margin - np.nan_to_num(slope) * extra  # equal lengths explain nothing
    return Lengths(
        chosen=float(np.mean(chosen)),
        rejected=float(np.mean(rejected)),
        extra=_estimate(extra, clips),
        chosen_longer=_estimate((np.sign(extra) + 1) / 2, clips),
        histogram=histogram({"chosen": chosen, "rejected": rejected}),
        fitted_on="scored answers" if scored else "pairs",
        answers=len(answers),
        score_correlation=_estimate(raw, answer_clips, weighted_correlation),
        score_correlation_within_questions=_estimate(within, answer_clips, weighted_correlation),
        score_per_100_characters=_estimate(within, answer_clips, _slope_per_100),
        margin=_estimate(margin, clips),
        residual_margin=_estimate(residual, clips),
        explained_by_length=float(np.mean(residual <= 0)),
    )


def measure_positions(
    pairs: Sequence[Pair], candidates: Sequence[Candidate], clips: Sequence[str]
) -> Positions:
    """Return whether chosen answers stand earlier among the candidates, and how often each place is
    on either side; pairs of an earlier round, whose answers are not among them, are left out.
    """
    begin = min((_number(candidate.id) or 0 for candidate in candidates), default=0)
    numbered: list[Pair] = []
    numbers: list[tuple[int, int]] = []
    numbered_clips: list[str] = []
    for pair, clip in zip(pairs, clips, strict=True):
        chosen, rejected = _number(pair.chosen_id), _number(pair.rejected_id)
        if chosen is not None and rejected is not None and min(chosen, rejected) >= begin:
            numbered.append(pair)
            numbers.append((chosen - begin, rejected - begin))
            numbered_clips.append(clip)
    if not numbered:
        return Positions(n=0)
    last: dict[str, int] = {}
    for candidate in candidates:
        number = _number(candidate.id) or 0
        last[candidate.sample_id] = max(number, last.get(candidate.sample_id, 0))
    by_place = {number: [0, 0] for number in range(1 + max(map(max, numbers)))}
    for chosen, rejected in numbers:
        by_place[chosen][0] += 1
        by_place[rejected][1] += 1
    return Positions(
        n=len(numbered),
        by_place=by_place,
        chosen_earlier=_estimate(
            [float(chosen < rejected) for chosen, rejected in numbers], numbered_clips
        ),
        chosen=_end_places([pair.chosen_id for pair in numbered], begin, last),
        rejected=_end_places([pair.rejected_id for pair in numbered], begin, last),
    )


def measure_samplers(
    pairs: Sequence[Pair], candidates: Sequence[Candidate], clips: Sequence[str]
) -> dict[str, SamplerAudit]:
    """Return by sampler how often its answers are chosen and rejected, and the share chosen; empty
    where unknown.
    """
    samplers = {candidate.id: sampler_of(candidate) for candidate in candidates}
    if any(not {pair.chosen_id, pair.rejected_id} <= samplers.keys() for pair in pairs):
        return {}
    outcomes: dict[str, list[float]] = defaultdict(list)
    outcome_clips: dict[str, list[str]] = defaultdict(list)
    for pair, clip in zip(pairs, clips, strict=True):
        for is_chosen, answer in ((1.0, pair.chosen_id), (0.0, pair.rejected_id)):
            outcomes[samplers[answer]].append(is_chosen)
            outcome_clips[samplers[answer]].append(clip)
    return {
        name: SamplerAudit(
            chosen=share["chosen"],
            rejected=share["rejected"],
            share_chosen=_estimate(outcomes[name], outcome_clips[name]) if outcomes[name] else None,
        )
        for name, share in sampler_shares(pairs, samplers).items()
    }


def warnings(
    length: Lengths,
    position: Positions,
    samplers: Mapping[str, SamplerAudit],
    duplicates: Duplicates,
) -> list[str]:
    """Return what a reader should look at before training.

    Args:
        samplers: those whose answers might have come to stand on either side.
    """
    lines = [
        *_one_sided(
            length.chosen_longer,
            "chosen answers are the longer ones",
            "rejected answers are the longer ones",
        ),
        *_one_sided(
            position.chosen_earlier,
            "chosen answers were drawn first",
            "chosen answers were drawn last",
        ),
    ]
    margin, residual = length.margin.value or 0.0, length.residual_margin.value or 0.0
    if margin > 0 and residual < margin / 2:
        lines.append(
            "more than half of the margin goes with length: pair.balance_length drops the worst "
            "offenders"
        )
    lines += uneven_samplers(shares_of(samplers))
    if duplicates.pairs:
        lines.append(
            f"{duplicates.pairs} pairs repeat an earlier pair: clean.sample_similarity=1 leaves "
            "repeated samples out"
        )
    return lines


def shares_of(samplers: Mapping[str, SamplerAudit]) -> dict[str, dict[str, int]]:
    """Return by sampler how often its answers are chosen and rejected."""
    return {
        name: {"chosen": row.chosen, "rejected": row.rejected} for name, row in samplers.items()
    }


def histogram(values: Mapping[str, Sequence[float]]) -> Histogram:
    """Return the edges (bins + 1) of at most 20 equal bins over all values, and the counts (bins)
    of each series.
    """
    pooled = np.concatenate([np.asarray(series, np.float64) for series in values.values()])
    edges = np.histogram_bin_edges(pooled, bins=min(MOST_BINS, max(1, len(np.unique(pooled)))))
    return Histogram(
        edges=edges.tolist(),
        series={name: np.histogram(series, edges)[0].tolist() for name, series in values.items()},
    )


def _one_sided(estimate: Estimate | None, above: str, below: str) -> list[str]:
    if estimate is None or estimate.value is None or estimate.interval is None:
        return []
    low, high = estimate.interval
    share = max(estimate.value, 1 - estimate.value)
    if share < ONE_SIDED or low <= 0.5 <= high:
        return []
    return [f"{above if estimate.value > 0.5 else below} in {share:.0%} of the pairs"]


def _paired_answers(pairs: Sequence[Pair], clips: Sequence[str]) -> list[AuditedAnswer]:
    answers = []
    for pair, clip in zip(pairs, clips, strict=True):
        for text, score in zip((pair.chosen, pair.rejected), pair.scores, strict=True):
            answers.append(AuditedAnswer(pair.sample_id, clip, len(text), score))
    return answers


def _within_questions(answers: Sequence[AuditedAnswer]) -> Floats:
    """Return (A, 2): length and score of each answer less the means of its question's answers."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(answers):
        groups[row.question].append(index)
    values = np.array([(row.length, row.score) for row in answers], np.float64)
    for indices in groups.values():
        values[indices] -= values[indices].mean(axis=0)
    return values


def _slope_per_100(values: Floats, weights: Floats) -> Floats:
    slopes: Floats = 100 * weighted_slope(values, weights)
    return slopes


def _end_places(ids: Sequence[str], begin: int, last: Mapping[str, int]) -> EndPlaces:
    """Return the shares of answers, named by the ids of numbered candidates, that are the first and
    the last of their question; no share of the last where no question's candidates are known.
    """
    are_last = [
        _number(name) == last[name.rpartition("#")[0]]
        for name in ids
        if name.rpartition("#")[0] in last
    ]
    return EndPlaces(
        first=float(np.mean([_number(name) == begin for name in ids])),
        last=float(np.mean(are_last)) if are_last else None,
    )


def _number(candidate_id: str) -> int | None:
    """Return the number behind `#` of a candidate's id; None where it has none."""
    number = candidate_id.rpartition("#")[2]
    return int(number) if number.isdecimal() and "#" in candidate_id else None


def _estimate(values: Any, clips: Sequence[str], statistic: Statistic = weighted_mean) -> Estimate:
    return bootstrap_ci(values, clusters=clips, statistic=statistic, resamples=RESAMPLES, seed=SEED)
