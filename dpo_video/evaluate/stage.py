"""The evaluate stage: base and tuned answers to held-out questions, judged and compared; held-out
pairs; metrics.json.

Answers are always made here, by the same code for both models. Held-out pairs come from the base
model's own sampled answers by the rule that made the training pairs: their reward accuracy says
whether the preference carries over.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_atomic
from dpo_video.core.records import Candidate, Judgment, Pair
from dpo_video.evaluate.answers import HeldoutAnswers, heldout_answers
from dpo_video.evaluate.metrics import (
    Graded,
    Intervals,
    PairMargin,
    change,
    compared,
    heldout_pairs,
    judged,
    normalise_answer,
    side,
)
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.modes.pairwise import comparer, pairwise_scorer
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.stage import judge_candidates
from dpo_video.judge.types import Judge
from dpo_video.pair.build import Paired, build_pairs
from dpo_video.pair.stage import with_noise
from dpo_video.pair.tie_break import tie_breaker
from dpo_video.run import Run, StageResult
from dpo_video.video import file_name


class Verdicts(NamedTuple):
    """Judgments by candidate id."""

    scored: dict[str, Judgment]
    supported: dict[str, Judgment]
    """By the hallucination scorer; empty without one."""


def evaluate(run: Run) -> StageResult:
    """Write metrics.json; its numbers without intervals; incomplete where judgments failed."""
    begin = time.monotonic()
    if not run.heldout:
        raise UserError(
            "nothing to evaluate on: data.heldout is not set. Give a JSONL of samples about clips "
            "that are "
            "not trained on"
        )
    settings, recipe = run.recipe.evaluate, run.recipe
    pairing = with_noise(recipe.pair, run.folder)
    answers = heldout_answers(run)
    intervals = Intervals(settings, recipe.seed)
    with open_judge(recipe.judge) as opened:
        verdicts = _judge(run, answers, opened)
        paired = build_pairs(
            run.heldout[: settings.pair_samples],
            answers.sampled,
            [verdicts.scored[candidate.id] for candidate in answers.sampled],
            settings=pairing,
            threshold=load_scorer(recipe.judge.scorer).threshold,
            seed=recipe.seed,
            compare=tie_breaker(recipe, run.store, judge=opened),
        )
        in_both_orders = _compared(run, answers, intervals, opened)
    before, after = (
        _grade(run, candidates, verdicts) for candidates in (answers.before, answers.after)
    )
    metrics: dict[str, Any] = {
        "before": side(before, intervals),
        "after": side(after, intervals),
        "change": change(before, after, intervals),
        "judged": {
            "scorer": load_scorer(recipe.judge.scorer).version,
            "judge": _judge_name(verdicts),
            "hallucination_scorer": settings.hallucination_scorer,
            **judged(before, after, intervals, tie_margin=pairing.min_margin),
        },
        **in_both_orders,
        "heldout_pairs": {
            **heldout_pairs(_margins(paired.pairs, answers.rewards), intervals),
            **_pair_counts(paired),
        },
        "heldout": {
            "samples": len(run.heldout),
            "clips": len({file_name(sample.video) for sample in run.heldout}),
            "unanswered": len(run.heldout) - len({answer.sample_id for answer in after}),
        },
    }
    metrics["seconds"] = _seconds(run) | {"evaluate": time.monotonic() - begin}
    write_atomic(run.folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    failed = paired.summary.get("failed", 0) + metrics.get("compared", {}).get("failed", 0)
    counts = _summary(metrics, verdicts, failed)
    return StageResult(
        counts=counts,
        incomplete_because=f"{counts['failed']} judgments failed" if counts["failed"] else "",
    )


def _judge(run: Run, answers: HeldoutAnswers, opened: Judge) -> Verdicts:
    """Score all answers, and the answers of both models for what the captions do not support."""
    settings = run.recipe.judge
    samples = {sample.id: sample for sample in run.heldout}
    compared = [
        (samples[candidate.sample_id], candidate) for candidate in (*answers.before, *answers.after)
    ]
    sampled = [(samples[candidate.sample_id], candidate) for candidate in answers.sampled]
    name = run.recipe.evaluate.hallucination_scorer
    scored = judge_candidates(
        settings, load_scorer(settings.scorer), compared + sampled, run.store, judge=opened
    ).judgments
    supported = (
        judge_candidates(settings, load_scorer(name), compared, run.store, judge=opened).judgments
        if name
        else {}
    )
    return Verdicts(scored, supported)


def _compared(
    run: Run, answers: HeldoutAnswers, intervals: Intervals, opened: Judge
) -> dict[str, Any]:
    """Return answers before and after compared in both orders, under `compared`; nothing without a
    scorer for it.
    """
    name = run.recipe.evaluate.pairwise_scorer
    if name is None:
        return {}
    scorer = pairwise_scorer(name, "evaluate.pairwise_scorer")
    before = {candidate.sample_id: candidate.text for candidate in answers.before}
    after = {candidate.sample_id: candidate.text for candidate in answers.after}
    asked = [sample for sample in run.heldout if sample.id in before and sample.id in after]
    found = comparer(run.recipe.judge, scorer, run.store, judge=opened)(
        [(sample, after[sample.id], before[sample.id]) for sample in asked]
    )
    return {
        "compared": {
            "scorer": scorer.version,
            "failed": sum(one.status == "failed" for one in found),
            **compared(found, [file_name(sample.video) for sample in asked], intervals),
        }
    }


def _grade(run: Run, candidates: Sequence[Candidate], verdicts: Verdicts) -> list[Graded]:
    name = run.recipe.evaluate.hallucination_scorer
    threshold = load_scorer(name).threshold if name else 0.0
    samples = {sample.id: sample for sample in run.heldout}
    graded = []
    for candidate in candidates:
        sample = samples[candidate.sample_id]
        gold = None if sample.answer is None else normalise_answer(sample.answer)
        support = verdicts.supported[candidate.id].score if name else None
        graded.append(
            Graded(
                sample_id=sample.id,
                clip=file_name(sample.video),
                length=len(candidate.text),
                correct=None if gold is None else normalise_answer(candidate.text) == gold,
                score=verdicts.scored[candidate.id].score,
                supported=None if support is None else support >= threshold,
            )
        )
    return graded


def _margins(pairs: Sequence[Pair], rewards: Mapping[str, float]) -> list[PairMargin]:
    """Return each held-out pair's implicit reward margin; a pair whose clip cannot be read has
    none.
    """
    return [
        PairMargin(
            clip=file_name(pair.video), margin=rewards[pair.chosen_id] - rewards[pair.rejected_id]
        )
        for pair in pairs
        if pair.chosen_id in rewards and pair.rejected_id in rewards
    ]


def _pair_counts(paired: Paired) -> dict[str, Any]:
    kept = ("questions", "questions_dropped", "answers", "answers_dropped")
    return {name: paired.summary[name] for name in kept}


def _judge_name(verdicts: Verdicts) -> str | None:
    return next((judgment.judge for judgment in verdicts.scored.values()), None)


def _seconds(run: Run) -> dict[str, float]:
    """Return how long each finished stage before this one took."""
    finished = {name: run.store.finished(name) for name in ("generate", "judge", "pair", "train")}
    return {name: row["seconds"] for name, row in finished.items() if row is not None}


def _summary(metrics: Mapping[str, Any], verdicts: Verdicts, failed: int) -> dict[str, Any]:
    """Return what the stage's last line and the tracker show; `failed` comparisons count beside
    failed verdicts.
    """
    status = Counter(judgment.status for judgments in verdicts for judgment in judgments.values())
    names = ("accuracy", "judged_score", "hallucination_rate", "answer_length")
    sides = {
        when: {name: metrics[when][name] for name in names if metrics[when].get(name) is not None}
        for when in ("before", "after", "change")
    }
    judged_counts = {name: metrics["judged"][name] for name in ("win", "tie", "loss", "unscored")}
    return {
        "questions": metrics["heldout"]["samples"],
        "unanswered": metrics["heldout"]["unanswered"],
        **sides,
        "judged": judged_counts,
        "heldout_pairs": metrics["heldout_pairs"]["n"],
        "reward_accuracy": metrics["heldout_pairs"]["reward_accuracy"],
        "unscored": status["unscored"],
        "failed": status["failed"] + failed,
    }
