"""What an evaluated answer says and whether it is right: rules and judges put into rows. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from dpo_video.benchmarks.readings import Reading
from dpo_video.benchmarks.sets import published_rule
from dpo_video.benchmarks.strict import read_strictly
from dpo_video.core.records import Candidate, Judgment, Sample
from dpo_video.data.choices import gold_choice
from dpo_video.evaluate.answer_rows import EvaluatedAnswer
from dpo_video.evaluate.metrics import normalise_answer
from dpo_video.judge.modes.pairwise import Comparison
from dpo_video.video import file_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerJudgments:
    """What one scorer made of answers, by candidate id; an answer that it was not asked about is
    not there.
    """

    threshold: float
    """Score from which an answer is good: supported, or right."""
    by_candidate: Mapping[str, Judgment]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerJudgments:
    """What all scorers of an evaluation made of answers."""

    quality: ScorerJudgments
    """By `judge.scorer`."""
    support: ScorerJudgments | None = None
    """By `evaluate.hallucination_scorer`."""
    correctness: ScorerJudgments | None = None
    """By `evaluate.correctness_scorer`."""
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    """Of the answer after, as the first, with the one before: by candidate id of the answer
    after.
    """


def evaluated_answer(
    candidate: Candidate,
    sample: Sample,
    judgments: AnswerJudgments,
    *,
    set_name: str,
    model: Literal["before", "after"],
    prompt: str,
) -> EvaluatedAnswer:
    """Return the row of one answer.

    Args:
        sample: the question; it may have another id in its set than the candidate says.
        prompt: as the model was asked.
    """
    strict, published = _readings(sample, candidate.text)
    gold = None if sample.answer is None else normalise_answer(sample.answer)
    words = normalise_answer(candidate.text)
    is_text = sample.answer_kind == "text"
    quality = judgments.quality.by_candidate.get(candidate.id)
    support = _judgment(judgments.support, candidate)
    comparison = judgments.comparisons.get(candidate.id)
    return EvaluatedAnswer(
        set=set_name,
        model=model,
        sample_id=sample.id,
        clip=file_name(sample.video),
        category=sample.category,
        group=sample.group,
        kind=sample.answer_kind,
        prompt=prompt,
        history=sample.history or None,
        options=sample.options,
        gold=sample.answer,
        text=candidate.text,
        finish=candidate.finish,
        parsed=None if strict is None else strict.parsed,
        correct=None if strict is None else strict.correct,
        published_parsed=None if published is None else published.parsed,
        published_correct=None if published is None else published.correct,
        choice_logps=candidate.choice_logps,
        exact_match=words == gold if gold is not None and is_text else None,
        contains=f" {gold} " in f" {words} " if gold is not None and is_text else None,
        judged=_is_good(judgments.correctness, candidate),
        score=None if quality is None else quality.score,
        supported=_is_good(judgments.support, candidate),
        support=None if support is None else support.score,
        claims=None if support is None else support.claims,
        reason=quality.reason if quality and quality.score is not None else None,
        unscored=_why_unscored(judgments, candidate) or None,
        comparison=None if comparison is None else _comparison_row(comparison),
    )


def _readings(sample: Sample, text: str) -> tuple[Reading | None, Reading | None]:
    """Return what the strict rule, and the published one of the sample's benchmark, read from an
    answer to a question to choose from; None of a text.
    """
    gold = gold_choice(sample)
    if gold is None:
        return None, None
    question = replace(sample, answer=gold)
    rule = published_rule(sample)
    return read_strictly(question, text), None if rule is None else rule(question, text)


def _judgment(scorer: ScorerJudgments | None, candidate: Candidate) -> Judgment | None:
    return None if scorer is None else scorer.by_candidate.get(candidate.id)


def _is_good(scorer: ScorerJudgments | None, candidate: Candidate) -> bool | None:
    judgment = _judgment(scorer, candidate)
    if scorer is None or judgment is None or judgment.score is None:
        return None
    return judgment.score >= scorer.threshold


def _why_unscored(judgments: AnswerJudgments, candidate: Candidate) -> dict[str, str]:
    """Return why scorers that were asked about an answer gave no score."""
    reasons: dict[str, str] = {}
    for name, scorer in (
        ("score", judgments.quality),
        ("supported", judgments.support),
        ("judged", judgments.correctness),
    ):
        judgment = _judgment(scorer, candidate)
        if judgment is not None and judgment.score is None:
            reasons[name] = f"{judgment.status}: {judgment.reason}"
    return reasons


def _comparison_row(comparison: Comparison) -> dict[str, object]:
    orders = None if comparison.orders is None else list(comparison.orders)
    return {"orders": orders, "reason": comparison.reason, "status": comparison.status}


def comparison_of(row: EvaluatedAnswer) -> Comparison | None:
    """Return the comparison that a row of an answer after holds."""
    if row.comparison is None:
        return None
    orders = row.comparison["orders"]
    return Comparison(
        orders=None if orders is None else (orders[0], orders[1]),
        reason=row.comparison["reason"],
        status=row.comparison["status"],
    )
