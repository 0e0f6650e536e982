"""The evaluate stage: base and tuned answers to the questions of all sets, judged and compared;
held-out pairs; metrics.json and answers.jsonl.

Answers are always made here, by the same code for both models. Held-out pairs come from the base
model's own sampled answers by the rule that made the training pairs: their reward accuracy says
whether the preference carries over.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Candidate, Pair, Sample
from dpo_video.core.report import Estimate
from dpo_video.evaluate.answer_rows import (
    FILE,
    EvaluatedAnswer,
    answers_by_set,
    write_answers,
)
from dpo_video.evaluate.answers import ModelAnswers, model_answers
from dpo_video.evaluate.grading import AnswerJudgments, comparison_of, evaluated_answer
from dpo_video.evaluate.judging import Judging, statuses
from dpo_video.evaluate.metrics import (
    Intervals,
    PairMargin,
    answer_metrics,
    heldout_pair_metrics,
    paired_differences,
    pairwise_win_rates,
    why_exact_match_misleads,
    win_rates,
)
from dpo_video.evaluate.questions import SetQuestion, evaluation_questions, evaluation_sets
from dpo_video.evaluate.report import (
    AnswerMetrics,
    HeldoutCounts,
    Metrics,
    PairwiseWinRates,
    write_metrics,
)
from dpo_video.evaluate.set_metrics import set_metrics
from dpo_video.evaluate.set_report import SetMetrics
from dpo_video.evaluate.tracked_answers import tracked_answers
from dpo_video.evaluate.verdict import set_verdicts
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.scorer import can_be_judged, load_scorer
from dpo_video.judge.types import Judge
from dpo_video.models.adapter import check_adapter
from dpo_video.pair.build import Paired, build_pairs
from dpo_video.pair.stage import with_noise
from dpo_video.pair.tie_break import tie_breaker
from dpo_video.recipe import PairSettings
from dpo_video.recipe.evaluate import HELDOUT
from dpo_video.run import Run, StageResult
from dpo_video.store import content_hash
from dpo_video.video import clip_key, file_name

PAIRS_FILE = "heldout_pairs.jsonl"
"""The held-out pairs, each with its implicit margin."""


def evaluate(run: Run) -> StageResult:
    """Write metrics.json, answers.jsonl and heldout_pairs.jsonl; its numbers without intervals;
    incomplete where judgments failed, or a clip may be read at the next try.
    """
    questions = evaluation_questions(run)
    if not questions:
        raise UserError(
            "nothing to evaluate on: data.heldout is not set. Give a JSONL of samples about clips "
            "that are not trained on, there or in evaluate.sets"
        )
    check_adapter(run.folder / "adapter")  # before the base answers anything
    paired_samples = _samples_to_pair(run)
    answers = model_answers(run, questions, paired_samples)
    by_id = {question.asked.id: question for question in questions}
    with open_judge(run.recipe.judge) as opened:
        judging = Judging(run=run, questions=by_id, answers=answers, judge=opened)
        judgments = judging.judgments()
        paired = _pair(run, paired_samples, answers, judgments, opened)
    rows = [
        *_rows("before", answers.before, by_id, judgments),
        *_rows("after", answers.after, by_id, judgments),
    ]
    pairs = [_with_margin(pair, answers.rewards) for pair in paired.pairs]
    metrics = measure_answers(run, rows, pairs, paired.summary, judge=_judge_name(judgments))
    write_answers(run.folder / FILE, rows)
    write_jsonl(run.folder / PAIRS_FILE, pairs)
    write_metrics(run.folder / "metrics.json", metrics)
    run.tracker.log_table("answers", tracked_answers(rows))
    num_of_status = statuses(judgments)
    failed = num_of_status["failed"] + paired.summary.get("failed", 0)
    left = (
        f"{failed} judgments failed" if failed else "",
        run.unread(dict.fromkeys(clip_key(question.asked) for question in questions)),
    )
    return StageResult(
        counts=_counts(metrics, unscored=num_of_status["unscored"], failed=failed)
        | dict(answers.read),
        incomplete_because="; ".join(filter(None, left)),
    )


def _samples_to_pair(run: Run) -> list[Sample]:
    """Return the held-out samples whose sampled answers can be judged, up to
    `evaluate.pair_samples`.
    """
    scorer = load_scorer(run.recipe.judge.scorer)
    judged = [sample for sample in run.heldout if can_be_judged(scorer, sample)]
    return judged[: run.recipe.evaluate.pair_samples]


def _pair(
    run: Run,
    samples: Sequence[Sample],
    answers: ModelAnswers,
    judgments: AnswerJudgments,
    opened: Judge,
) -> Paired:
    """Return the pairs of the base model's sampled answers, by the rule of the training pairs."""
    recipe = run.recipe
    return build_pairs(
        samples,
        answers.sampled,
        [judgments.quality.by_candidate[candidate.id] for candidate in answers.sampled],
        settings=_heldout_rule(with_noise(recipe.pair, run.folder)),
        threshold=judgments.quality.threshold,
        seed=recipe.seed,
        compare=tie_breaker(recipe, run.store, judge=opened),
    )


def _heldout_rule(settings: PairSettings) -> PairSettings:
    """Return the rule of held-out pairs: under `across` the best against the worst, as one sampler
    alone draws them.
    """
    return settings.model_copy(update={"rule": "best_worst"} if settings.rule == "across" else {})


def _rows(
    model: Any,
    candidates: Sequence[Candidate],
    questions: Mapping[str, SetQuestion],
    judgments: AnswerJudgments,
) -> list[EvaluatedAnswer]:
    """Return the rows of one model's answers."""
    rows = []
    for candidate in candidates:
        question = questions[candidate.sample_id]
        rows.append(
            evaluated_answer(
                candidate,
                question.sample,
                judgments,
                set_name=question.set,
                model=model,
                prompt=question.asked.prompt,
            )
        )
    return rows


def _with_margin(pair: Pair, rewards: Mapping[str, float]) -> Pair:
    """Return a held-out pair with its implicit reward margin; one whose clip cannot be read has
    none.
    """
    if pair.chosen_id not in rewards or pair.rejected_id not in rewards:
        return pair
    return replace(pair, implicit_margin=rewards[pair.chosen_id] - rewards[pair.rejected_id])


def _judge_name(judgments: AnswerJudgments) -> str | None:
    return next((row.judge for row in judgments.quality.by_candidate.values()), None)


def measure_answers(
    run: Run,
    rows: Sequence[EvaluatedAnswer],
    pairs: Sequence[Pair],
    pair_counts: Mapping[str, Any],
    *,
    judge: str | None,
) -> Metrics:
    """Return all numbers of metrics.json, from the rows of answers.jsonl and the held-out pairs.

    Args:
        pair_counts: what pairing counted, as `Paired.summary`.
        judge: the name of the judge that scored the answers.
    """
    recipe = run.recipe
    intervals = Intervals(recipe.evaluate, recipe.seed)
    by_set = answers_by_set(rows)
    before, after = by_set.get(HELDOUT, ([], []))
    margins = [
        PairMargin(clip=file_name(pair.video), margin=pair.implicit_margin)
        for pair in pairs
        if pair.implicit_margin is not None
    ]
    return Metrics(
        before=answer_metrics(before, intervals),
        after=answer_metrics(after, intervals),
        change=paired_differences(before, after, intervals),
        judged=win_rates(
            before,
            after,
            intervals,
            tie_margin=with_noise(recipe.pair, run.folder).min_margin,
            scorer=load_scorer(recipe.judge.scorer).version,
            judge=judge,
        ),
        compared=_compared(run, after, intervals),
        heldout_pairs=heldout_pair_metrics(margins, intervals, pair_counts),
        heldout=HeldoutCounts(
            samples=len(run.heldout),
            clips=len({file_name(sample.video) for sample in run.heldout}),
            unanswered=len(run.heldout) - len(after),
        ),
        sets=_set_metrics(run, by_set, intervals),
        verdicts=set_verdicts(
            rows,
            sets=[evaluation_set.name for evaluation_set in evaluation_sets(run)],
            parser=recipe.evaluate.parser,
            tie_margin=with_noise(recipe.pair, run.folder).min_margin,
            resamples=recipe.evaluate.bootstrap,
            seed=recipe.seed,
        ),
        exact_match_hidden=_why_hidden([*before, *after]),
        adapter=content_hash(run.folder / "adapter"),
        seconds=_seconds(run) | {"evaluate": time.monotonic() - run.stage_began},
    )


def _compared(
    run: Run, after: Sequence[EvaluatedAnswer], intervals: Intervals
) -> PairwiseWinRates | None:
    """Return how answers after compare with answers before; None without a scorer for it."""
    name = run.recipe.evaluate.pairwise_scorer
    if name is None:
        return None
    comparisons, clips = [], []
    for row in after:
        comparison = comparison_of(row)
        if comparison is not None:
            comparisons.append(comparison)
            clips.append(row.clip)
    return pairwise_win_rates(comparisons, clips, intervals, scorer=load_scorer(name).version)


def _set_metrics(
    run: Run,
    by_set: Mapping[str, tuple[list[EvaluatedAnswer], list[EvaluatedAnswer]]],
    intervals: Intervals,
) -> dict[str, SetMetrics]:
    metrics: dict[str, SetMetrics] = {}
    for evaluation_set in evaluation_sets(run):
        samples = evaluation_set.loaded.samples
        before, after = by_set.get(evaluation_set.name, ([], []))
        metrics[evaluation_set.name] = set_metrics(
            before,
            after,
            intervals,
            num_questions=len(samples),
            num_clips=len({file_name(sample.video) for sample in samples}),
        )
    return metrics


def _why_hidden(rows: Sequence[EvaluatedAnswer]) -> str | None:
    """Return why the exact match is not shown: see `why_exact_match_misleads`."""
    with_gold = [row for row in rows if row.kind == "text" and row.gold is not None]
    gold = {row.sample_id: row.gold for row in with_gold if row.gold is not None}
    return why_exact_match_misleads(list(gold.values()), [row.text for row in with_gold])


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
    sets = {
        name: {"questions": each.questions, "unparsed": each.after.unparsed}
        | {
            model: accuracy.accuracy.value
            for model, accuracy in (("before", each.before), ("after", each.after))
            if accuracy.accuracy.value is not None
        }
        for name, each in metrics.sets.items()
        if name != HELDOUT
    }
    return {
        "questions": metrics.heldout.samples,
        "unanswered": metrics.heldout.unanswered,
        "before": _values(metrics.before, hidden),
        "after": _values(metrics.after, hidden),
        "change": _values(metrics.change, hidden),
        **_length_change(metrics),
        **({"sets": sets} if sets else {}),
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


def _length_change(metrics: Metrics) -> dict[str, dict[str, float]]:
    """Return how much longer the answers became in characters, with the ends of its interval; empty
    without one.
    """
    before, change = metrics.before.answer_length, metrics.change.answer_length
    if before.value is None or change.value is None or change.interval is None:
        return {}
    low, high = change.interval
    return {
        "length_change": {"before": before.value, "change": change.value, "low": low, "high": high}
    }


def _values(section: AnswerMetrics, hidden: set[str]) -> dict[str, float]:
    """Return the estimates that have a value, by name."""
    values: dict[str, float] = {}
    for field in fields(section):
        estimate = getattr(section, field.name)
        if isinstance(estimate, Estimate) and estimate.value is not None:
            values[field.name] = estimate.value
    return {name: value for name, value in values.items() if name not in hidden}
