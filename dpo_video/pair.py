"""The pair stage: candidates and judgments in; pairs, every drop with its reason, and their statistics out.

Answers are joined with their judgments by candidate id, never by position. Unusable answers (failed, unscored, cleaned,
empty, repeated) are dropped before the rule sees the question. Where a rule must choose among equals it takes the
lowest hash of seed, sample id and answer number, so the order of candidates and judgments never changes a pair.
"""

import json
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dpo_video.data import load_pairs
from dpo_video.errors import UserError
from dpo_video.judges.pairwise import Compare
from dpo_video.judges.scorer import load_scorer
from dpo_video.names import choose
from dpo_video.pair_answers import Drop, by_candidate, by_sample, number_of, sampler_of, usable_answers
from dpo_video.pair_numbers import pair_statistics, sampler_shares, uneven_samplers
from dpo_video.pair_rules import (
    PAIR_RULES,
    REASONS,
    Answer,
    Choice,
    Ruling,
    hardest,
    implicit_margin,
    length_offenders,
)
from dpo_video.recipe import PairSettings
from dpo_video.records import Candidate, Judgment, Pair, Reward, Sample, read_jsonl, write_atomic, write_jsonl
from dpo_video.tie_breaks import FAILED, SOURCE, TOO_CLOSE, Tie, break_ties, tie_breaker, tie_of
from dpo_video.video_negatives import Negatives, add_negatives

if TYPE_CHECKING:
    from dpo_video.run import Run

log = logging.getLogger(__name__)

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


def pair(run: "Run") -> dict[str, Any]:
    """Write pairs.jsonl and drops.jsonl from candidates.jsonl and judgments.jsonl; return the summary."""
    recipe = run.recipe
    if recipe.data.pairs is not None:
        return _take(run)
    candidates = list(read_jsonl(run.folder / "candidates.jsonl", Candidate))
    paired = build_pairs(run.samples, candidates, read_jsonl(run.folder / "judgments.jsonl", Judgment),
                         settings=with_noise(recipe.pair, run.folder),
                         threshold=load_scorer(recipe.judge.scorer).threshold, seed=recipe.seed,
                         rewards=read_rewards(recipe.pair), compare=tie_breaker(recipe, run.store))
    negatives = add_negatives(paired.pairs, recipe.pair.video_negatives, seed=recipe.seed)
    write_jsonl(run.folder / "pairs.jsonl", negatives.pairs)
    drops = run.folder / "drops.jsonl"
    write_atomic(drops, (json.dumps(asdict(drop), ensure_ascii=False) + "\n" for drop in paired.drops))
    if not paired.pairs:
        reasons = ", ".join(f"{reason} {count}" for reason, count in paired.summary["questions_dropped"].items())
        raise UserError(f"no pairs: all {len(run.samples)} questions were dropped ({reasons}); {str(drops)!r} lists "
                        "each. More `generate.num_candidates`, a higher `generate.temperature` or another `pair.rule` "
                        "give more contrast between answers")
    shares = sampler_shares(paired.pairs, {candidate.id: sampler_of(candidate) for candidate in candidates})
    warnings = uneven_samplers(shares)
    for warning in warnings:
        log.warning("pair: %s", warning)
    return paired.summary | _negative_counts(negatives) | {"samplers": shares, "warnings": warnings}


def _take(run: "Run") -> dict[str, Any]:
    """Write the pairs of `data.pairs` as pairs.jsonl, as they are, with video negatives; return counts, statistics."""
    recipe = run.recipe
    pairs, _ = load_pairs(recipe)
    negatives = add_negatives(pairs, recipe.pair.video_negatives, seed=recipe.seed)
    write_jsonl(run.folder / "pairs.jsonl", negatives.pairs)
    return {"pairs": len(pairs), "given": str(recipe.data.pairs), **pair_statistics(pairs),
            **_negative_counts(negatives)}


def _negative_counts(negatives: Negatives) -> dict[str, Any]:
    """Return how many video negatives there are beside the pairs, by source, and how many could not be made."""
    counts = {"video_negatives": negatives.counts, "video_negatives_dropped": negatives.dropped}
    return {name: count for name, count in counts.items() if count}


def build_pairs(samples: Sequence[Sample], candidates: Iterable[Candidate], judgments: Iterable[Judgment], *,
                settings: PairSettings, threshold: float, seed: int, rewards: Mapping[str, float] | None = None,
                compare: Compare | None = None) -> Paired:
    """Return the pairs of the samples, the same whatever the order of candidates and judgments.

    Args:
        threshold: the score from which an answer is good where `settings.threshold` is None.
        rewards: the policy's implicit reward by candidate id; without it no pair is chosen by its implicit margin.
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
        kept = _leave_out(kept, length_offenders([item.choice for item in kept]), "length balance", drops)
    pairs = [_to_pair(item, rewards) for item in kept]
    summary = _count(len(samples), sum(map(len, answers.values())), pairs, drops)
    summary["answers"]["cut"] = num_cut
    failed = summary["questions_dropped"].get(FAILED, 0)
    summary |= {"failed": failed} if failed else {}  # so that the stage stays open
    return Paired(pairs, drops, summary | {"min_margin": settings.min_margin} | pair_statistics(pairs))


def with_noise(settings: PairSettings, folder: Path) -> PairSettings:
    """Return the settings, `min_margin` raised to `noise_margins` times the noise that `dpo-video agree` measured."""
    if settings.noise_margins is None:
        return settings
    path = folder / "agreement.json"
    wanted = f"pair.noise_margins {settings.noise_margins:g} takes the judge's noise from {str(path)!r}"
    measure = f"Measure it first: dpo-video agree {folder}; or leave pair.noise_margins out"
    if not path.is_file():
        raise UserError(f"{wanted}, which is not there. {measure}")
    try:
        sigma = json.loads(path.read_text(encoding="utf-8")).get("noise_sigma")
    except (json.JSONDecodeError, AttributeError) as error:
        raise UserError(f"{wanted}, which is no JSON object. {measure}") from error
    if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not math.isfinite(sigma) or sigma < 0:
        raise UserError(f"{wanted}, whose `noise_sigma` is {sigma!r}, not a number of at least 0. {measure}")
    return settings.model_copy(update={"min_margin": max(settings.min_margin, settings.noise_margins * sigma)})


def read_rewards(settings: PairSettings) -> dict[str, float] | None:
    """Return the policy's implicit rewards by candidate id; None where the recipe names no file of them."""
    if settings.implicit_rewards is None:
        if settings.keep_hardest < 1:
            raise UserError(f"pair.keep_hardest {settings.keep_hardest:g} chooses by implicit margins: set "
                            "pair.implicit_rewards to what `dpo-video rewards RUN` writes")
        return None
    path = Path(settings.implicit_rewards).expanduser()
    rewards: dict[str, float] = {}
    for row in read_jsonl(path, Reward):
        if row.candidate_id in rewards or not math.isfinite(row.reward):
            raise UserError(f"{path}: candidate {row.candidate_id!r} has " +
                            ("two rewards" if row.candidate_id in rewards else f"the reward {row.reward}"))
        rewards[row.candidate_id] = row.reward
    return rewards


def _broken(ties: Sequence[Tie], compare: Compare, drops: list[Drop]) -> list[_Kept]:
    """Return the pairs that tie-breaks make; the questions that stay undecided are added to `drops`."""
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


def _not_paired(sample_id: str, usable: Sequence[Answer], ruling: Ruling, *, tied: bool) -> list[Drop]:
    """Return what a rule did not pair of a question; of a tied one, without the two answers that are compared."""
    reason = _first_reason(ruling)
    left = {why: ruling.dropped.get(why, 0) - (tied and why == reason) for why in REASONS if why != "uniform"}
    drops = [_drop(sample_id, "pair", why, usable, count=count) for why, count in left.items() if count > 0]
    if not ruling.choices and not tied:
        drops.append(_drop(sample_id, "question", reason, usable))
    return drops


def _check_rewards(kept: Sequence[_Kept], rewards: Mapping[str, float], settings: PairSettings) -> None:
    without = sorted({answer.candidate.id for item in kept for answer in item.choice} - rewards.keys())
    if without:
        raise UserError(f"{len(without)} of the paired candidates have no reward in {settings.implicit_rewards!r}, "
                        f"first {without[0]!r}: give every candidate's, or leave pair.implicit_rewards out")


def _leave_out(kept: Sequence[_Kept], indices: set[int], reason: str, drops: list[Drop]) -> list[_Kept]:
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


def _drop(sample_id: str, unit: Literal["pair", "question"], reason: str, answers: Sequence[Answer], *,
          count: int = 1) -> Drop:
    scores = ", ".join(f"#{number_of(answer.candidate)} {answer.score:g}{' (cut)' if answer.cut else ''}"
                       for answer in answers)
    return Drop(sample_id=sample_id, unit=unit, reason=reason, count=count, detail=scores or "no usable answer")


def _to_pair(item: _Kept, rewards: Mapping[str, float] | None) -> Pair:
    sample, (chosen, rejected), source = item
    return Pair(sample_id=sample.id, video=sample.video, prompt=sample.prompt, chosen=chosen.candidate.text,
                rejected=rejected.candidate.text, chosen_score=chosen.score, rejected_score=rejected.score,
                source=source, chosen_id=chosen.candidate.id, rejected_id=rejected.candidate.id,
                start=sample.start, end=sample.end, rejected_finish=rejected.candidate.finish,
                implicit_margin=None if rewards is None else implicit_margin(item.choice, rewards))


def _count(num_samples: int, num_answers: int, pairs: Sequence[Pair], drops: Sequence[Drop]) -> dict[str, Any]:
    """Return counts in, out and dropped by reason; for answers and questions, in = out + dropped."""
    dropped: dict[str, Counter[str]] = {"answer": Counter(), "pair": Counter(), "question": Counter()}
    for drop in drops:
        dropped[drop.unit][drop.reason] += drop.count
    return {
        "questions": {"in": num_samples, "out": len({pair.sample_id for pair in pairs})},
        "questions_dropped": dict(dropped["question"].most_common()),
        "answers": {"in": num_answers, "out": num_answers - dropped["answer"].total()},
        "answers_dropped": dict(dropped["answer"].most_common()),
        "pairs": len(pairs),
        "pairs_dropped": dict(dropped["pair"].most_common())}
