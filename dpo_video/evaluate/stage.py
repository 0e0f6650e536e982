"""The evaluate stage: base and tuned answers to held-out questions, judged and compared; held-out
pairs; metrics.json.

Answers are always made here, by the same code for both models. Held-out pairs come from the base
model's own sampled answers by the rule that made the training pairs: their reward accuracy says
whether the preference carries over.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from dpo_video.core.errors import UserError
from dpo_video.core.records import Candidate, Judgment, Pair
from dpo_video.core.report import Estimate
from dpo_video.evaluate.answers import HeldoutAnswers, heldout_answers
from dpo_video.evaluate.metrics import (
    GradedAnswer,
    Intervals,
    PairMargin,
    answer_metrics,
    heldout_pair_metrics,
    normalise_answer,
    paired_differences,
    pairwise_win_rates,
    why_exact_match_misleads,
    win_rates,
)
from dpo_video.evaluate.report import (
    AnswerMetrics,
    HeldoutCounts,
    Metrics,
    PairwiseWinRates,
    write_metrics,
)
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.modes.pairwise import comparer, pairwise_scorer
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.stage import judge_candidates
from dpo_video.judge.types import Judge
from dpo_video.models.adapter import check_adapter
from dpo_video.pair.build import Paired, build_pairs
from dpo_video.pair.stage import with_noise
from dpo_video.pair.tie_break import tie_breaker
from dpo_video.run import Run, StageResult
from dpo_video.store import content_hash
from dpo_video.video import clip_key, file_name


class HeldoutJudgments(NamedTuple):
    """Judgments by candidate id."""

    scored: dict[str, Judgment]
    supported: dict[str, Judgment]
    """By the hallucination scorer; empty without one."""


def evaluate(run: Run) -> StageResult:
    """Write metrics.json; its numbers without intervals; incomplete where judgments failed, or a
    clip may be read at the next try.
    """
    if not run.heldout:
        raise UserError(
            "nothing to evaluate on: data.heldout is not set. Give a JSONL of samples about clips "
            "that are not trained on"
        )
    check_adapter(run.folder / "adapter")  # before the base answers anything
    recipe = run.recipe
    answers = heldout_answers(run)
    intervals = Intervals(recipe.evaluate, recipe.seed)
    with open_judge(recipe.judge) as opened:
        judgments = _judge(run, answers, opened)
        paired = _pair(run, answers, judgments, opened)
        compared = _compare_in_both_orders(run, answers, intervals, opened)
    metrics = _measure(run, answers, judgments, paired, compared, intervals)
    write_metrics(run.folder / "metrics.json", metrics)
    statuses = Counter(row.status for row in judgments.scored.values())
    statuses.update(row.status for row in judgments.supported.values())
    failed = statuses["failed"] + paired.summary.get("failed", 0)
    failed += 0 if compared is None else compared.failed
    left = (
        f"{failed} judgments failed" if failed else "",
        run.unread(dict.fromkeys(map(clip_key, run.heldout))),
    )
    return StageResult(
        counts=_counts(metrics, unscored=statuses["unscored"], failed=failed),
        incomplete_because="; ".join(filter(None, left)),
    )


def _judge(run: Run, answers: HeldoutAnswers, opened: Judge) -> HeldoutJudgments:
    """Score all answers, and the answers of both models for what the captions do not support."""
    settings, scorer = run.recipe.judge, run.recipe.evaluate.hallucination_scorer
    samples = {sample.id: sample for sample in run.heldout}
    both_models = [(samples[row.sample_id], row) for row in (*answers.before, *answers.after)]
    sampled = [(samples[row.sample_id], row) for row in answers.sampled]
    scored = judge_candidates(
        settings, load_scorer(settings.scorer), both_models + sampled, run.store, judge=opened
    ).judgments
    if scorer is None:
        return HeldoutJudgments(scored, {})
    supported = judge_candidates(
        settings, load_scorer(scorer), both_models, run.store, judge=opened
    ).judgments
    return HeldoutJudgments(scored, supported)


def _pair(run: Run, answers: HeldoutAnswers, judgments: HeldoutJudgments, opened: Judge) -> Paired:
    """Return the pairs of the base model's sampled answers, by the rule of the training pairs."""
    recipe = run.recipe
    return build_pairs(
        run.heldout[: recipe.evaluate.pair_samples],
        answers.sampled,
        [judgments.scored[candidate.id] for candidate in answers.sampled],
        settings=with_noise(recipe.pair, run.folder),
        threshold=load_scorer(recipe.judge.scorer).threshold,
        seed=recipe.seed,
        compare=tie_breaker(recipe, run.store, judge=opened),
    )


def _compare_in_both_orders(
    run: Run, answers: HeldoutAnswers, intervals: Intervals, opened: Judge
) -> PairwiseWinRates | None:
    """Return how answers before compare with answers after; None without a scorer for it."""
    name = run.recipe.evaluate.pairwise_scorer
    if name is None:
        return None
    scorer = pairwise_scorer(name, "evaluate.pairwise_scorer")
    before = {candidate.sample_id: candidate.text for candidate in answers.before}
    after = {candidate.sample_id: candidate.text for candidate in answers.after}
    answered = [sample for sample in run.heldout if sample.id in before and sample.id in after]
    comparisons = comparer(run.recipe.judge, scorer, run.store, judge=opened)(
        [(sample, after[sample.id], before[sample.id]) for sample in answered]
    )
    clips = [file_name(sample.video) for sample in answered]
    return pairwise_win_rates(comparisons, clips, intervals, scorer=scorer.version)


def _measure(
    run: Run,
    answers: HeldoutAnswers,
    judgments: HeldoutJudgments,
    paired: Paired,
    compared: PairwiseWinRates | None,
    intervals: Intervals,
) -> Metrics:
    before = _grade(run, answers.before, judgments)
    after = _grade(run, answers.after, judgments)
    return Metrics(
        before=answer_metrics(before, intervals),
        after=answer_metrics(after, intervals),
        change=paired_differences(before, after, intervals),
        judged=win_rates(
            before,
            after,
            intervals,
            tie_margin=with_noise(run.recipe.pair, run.folder).min_margin,
            scorer=load_scorer(run.recipe.judge.scorer).version,
            judge=next((row.judge for row in judgments.scored.values()), None),
        ),
        compared=compared,
        heldout_pairs=heldout_pair_metrics(
            _margins(paired.pairs, answers.rewards), intervals, paired.summary
        ),
        heldout=HeldoutCounts(
            samples=len(run.heldout),
            clips=len({file_name(sample.video) for sample in run.heldout}),
            unanswered=len(run.heldout) - len({answer.sample_id for answer in after}),
        ),
        exact_match_hidden=_why_hidden(run, answers),
        adapter=content_hash(run.folder / "adapter"),
        seconds=_seconds(run) | {"evaluate": time.monotonic() - run.stage_began},
    )


def _grade(
    run: Run, candidates: Sequence[Candidate], judgments: HeldoutJudgments
) -> list[GradedAnswer]:
    name = run.recipe.evaluate.hallucination_scorer
    threshold = load_scorer(name).threshold if name else 0.0
    samples = {sample.id: sample for sample in run.heldout}
    graded = []
    for candidate in candidates:
        sample = samples[candidate.sample_id]
        gold = None if sample.answer is None else normalise_answer(sample.answer)
        support = judgments.supported[candidate.id].score if name else None
        graded.append(
            GradedAnswer(
                sample_id=sample.id,
                clip=file_name(sample.video),
                length=len(candidate.text),
                exact_match=None if gold is None else normalise_answer(candidate.text) == gold,
                score=judgments.scored[candidate.id].score,
                supported=None if support is None else support >= threshold,
            )
        )
    return graded


def _why_hidden(run: Run, answers: HeldoutAnswers) -> str | None:
    """Return why the exact match is not shown: see `why_exact_match_misleads`."""
    gold = {sample.id: sample.answer for sample in run.heldout if sample.answer is not None}
    texts = [row.text for row in (*answers.before, *answers.after) if row.sample_id in gold]
    return why_exact_match_misleads(list(gold.values()), texts)


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


def _seconds(run: Run) -> dict[str, float]:
    """Return how long each finished stage before this one took."""
    finished = {name: run.store.finished(name) for name in ("generate", "judge", "pair", "train")}
    return {name: row["seconds"] for name, row in finished.items() if row is not None}


def _counts(metrics: Metrics, *, unscored: int, failed: int) -> dict[str, Any]:
    """Return what the stage's last line and the tracker show; `failed` comparisons count beside
    failed verdicts.
    """
    hidden = {"exact_match"} if metrics.exact_match_hidden else set()
    judged = metrics.judged
    return {
        "questions": metrics.heldout.samples,
        "unanswered": metrics.heldout.unanswered,
        "before": _values(metrics.before, hidden),
        "after": _values(metrics.after, hidden),
        "change": _values(metrics.change, hidden),
        "judged": {
            "win": judged.win,
            "tie": judged.tie,
            "loss": judged.loss,
            "unscored": judged.unscored,
        },
        "heldout_pairs": metrics.heldout_pairs.n,
        "reward_accuracy": metrics.heldout_pairs.reward_accuracy.value,
        "unscored": unscored,
        "failed": failed,
    }


def _values(section: AnswerMetrics, hidden: set[str]) -> dict[str, float]:
    """Return the estimates that have a value, by name."""
    values: dict[str, float] = {}
    for field in fields(section):
        estimate = getattr(section, field.name)
        if isinstance(estimate, Estimate) and estimate.value is not None:
            values[field.name] = estimate.value
    return {name: value for name, value in values.items() if name not in hidden}
