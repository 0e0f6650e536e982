"""`dpo-video score --judge`: answers in words, rated by a judge as the benchmark's authors have
them rated.

A benchmark names the scorer files of its questions. What a judge is asked about differs from what
the model was asked in two of them: a caption of TempCompass answers a question of `multi-choice`,
and the two answers of a VCGBench pair are rated together.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dpo_video.benchmarks.score import RESAMPLES, SEED
from dpo_video.benchmarks.sets import BENCHMARKS, benchmark_of
from dpo_video.benchmarks.vcgbench import CONSISTENCY
from dpo_video.core.errors import UserError
from dpo_video.core.records import Candidate, Judgment, Sample
from dpo_video.core.report import Estimate
from dpo_video.core.statistics import bootstrap_ci
from dpo_video.data.choices import LETTERS
from dpo_video.judge.scorer import Scorer, load_scorer
from dpo_video.judge.stage import judge_candidates
from dpo_video.judge.types import JudgeItem
from dpo_video.recipe import JudgeSettings
from dpo_video.recipe.file import load_judge_settings, load_recipe
from dpo_video.store import RowStore

JUDGE_QUESTION, JUDGE_ANSWER = "judge_question", "judge_answer"
"""In a sample's `meta`: what the judge is asked about the answer, and the right letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedScore:
    """What a judge makes of the answers by one scorer."""

    scorer: str
    """`<name>@<hash of the scorer file>`."""
    mean_score: Estimate
    """Over the scored answers; how many are unscored stands with it."""
    accuracy: Estimate | None
    """Share that is right of those scored: yes from the judge, or its letter the right one; None
    where the benchmark shows mean scores alone.
    """
    by_category: Mapping[str, Estimate]
    """Accuracy, or the mean score where there is none."""
    unscored: Mapping[str, str]
    """Why the judge gave no score, by question, of the first ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedReport:
    """A file of answers in words, rated."""

    benchmark: str
    questions: int
    answered: int
    missing: int
    """Questions without an answer: left out, as the authors' scripts rate what is answered."""
    judge: str
    scorers: Sequence[JudgedScore]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rated:
    """An answer with what the judge is to be asked and has said."""

    clip: str
    category: str | None
    score: float | None
    right: bool | None


def judge_settings(text: str) -> JudgeSettings:
    """Return the judge that an option names: a recipe's, or `judge.model=...,judge.key=...`."""
    if "=" not in text:
        return load_recipe(text, []).judge
    return load_judge_settings(
        [override.strip() for override in re.split(r",(?=\s*[a-z_]+\.)", text)]
    )


def judge_answers(
    questions: Sequence[Sample],
    answers: Mapping[str, str],
    *,
    settings: JudgeSettings,
    store: RowStore,
) -> JudgedReport:
    """Return what a judge makes of answers to one benchmark; replies that the store holds are not
    asked for again.
    """
    names = {benchmark_of(question) for question in questions}
    name = next(iter(names)) if len(names) == 1 else None
    scorers_of = None if name is None else BENCHMARKS[name].scorers
    if name is None or scorers_of is None:
        raise UserError(
            "--judge is for one benchmark whose answers are rated by a judge: "
            f"{', '.join(key for key, row in BENCHMARKS.items() if row.scorers)}. Leave it out"
        )
    judged = []
    for category, scorer_names in scorers_of.items():
        rated = [row for row in questions if category in ("", row.category) and row.id in answers]
        if rated:
            judged += [
                _judge_by(load_scorer(scorer), rated, answers, settings, store)
                for scorer in scorer_names
            ]
    if not judged:
        raise UserError("none of the questions has an answer to rate")
    return JudgedReport(
        benchmark=name,
        questions=len(questions),
        answered=len(answers),
        missing=len(questions) - len(answers),
        judge=settings.model,
        scorers=judged,
    )


def _judge_by(
    scorer: Scorer,
    questions: Sequence[Sample],
    answers: Mapping[str, str],
    settings: JudgeSettings,
    store: RowStore,
) -> JudgedScore:
    judge_items = list(_judge_items(questions, answers))
    settings = settings.model_copy(update={"scorer": scorer.name})
    judgments, _ = judge_candidates(settings, scorer, judge_items, store)
    rated = [_rated(sample, judgments[candidate.id], scorer) for sample, candidate in judge_items]
    is_right_known = any(row.right is not None for row in rated)
    of_category: dict[str, list[_Rated]] = {}
    for row in rated:
        if row.category is not None:
            of_category.setdefault(row.category, []).append(row)
    unscored = [
        (candidate.sample_id, judgments[candidate.id].reason)
        for _, candidate in judge_items
        if judgments[candidate.id].score is None
    ]
    return JudgedScore(
        scorer=scorer.version,
        mean_score=_mean(rated, share=False),
        accuracy=_mean(rated, share=True) if is_right_known else None,
        by_category={name: _mean(rows, share=is_right_known) for name, rows in of_category.items()},
        unscored=dict(unscored[:10]),
    )


def _judge_items(questions: Sequence[Sample], answers: Mapping[str, str]) -> Iterator[JudgeItem]:
    """Yield what the judge is asked: one answer, or both of a pair that is rated together."""
    pairs: dict[str, list[Sample]] = {}
    for question in questions:
        meta = question.meta or {}
        if question.category == CONSISTENCY and question.group is not None:
            pairs.setdefault(question.group, []).append(question)
            continue
        judged_sample = replace(question, prompt=meta.get(JUDGE_QUESTION, question.prompt))
        yield judged_sample, _candidate(question.id, answers[question.id])
    for group, pair in pairs.items():
        if len(pair) != 2:
            continue  # one of the two has no answer
        first, second = pair
        judged_sample = replace(
            first, id=group, prompt=f"Question 1: {first.prompt}\nQuestion 2: {second.prompt}"
        )
        text = f"Answer 1: {answers[first.id]}\nAnswer 2: {answers[second.id]}"
        yield judged_sample, _candidate(group, text)


def _candidate(question_id: str, text: str) -> Candidate:
    return Candidate(
        id=f"{question_id}#0",
        sample_id=question_id,
        text=text,
        model="elsewhere",
        settings="elsewhere",
        seed=0,
    )


def _rated(sample: Sample, judgment: Judgment, scorer: Scorer) -> _Rated:
    gold = (sample.meta or {}).get(JUDGE_ANSWER)
    right = None
    if judgment.score is not None and gold is not None:
        right = judgment.score >= 1 and LETTERS[int(judgment.score) - 1] == gold
    elif judgment.score is not None and scorer.label_ranges:
        right = judgment.score >= scorer.threshold
    return _Rated(
        clip=str(sample.video), category=sample.category, score=judgment.score, right=right
    )


def _mean(rated: Sequence[_Rated], *, share: bool) -> Estimate:
    """Return the mean over the scored answers, with the number of the others."""
    scored = [row for row in rated if row.score is not None]
    values = [float(row.right or 0) if share else float(row.score or 0) for row in scored]
    estimate = bootstrap_ci(
        values, clusters=[row.clip for row in scored], resamples=RESAMPLES, seed=SEED
    )
    return replace(estimate, unscored=len(rated) - len(scored))
