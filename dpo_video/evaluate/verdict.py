"""What came of each set: better, worse or not distinguishable, in a sentence, worst first. Pure.

Each set is compared by one measure, unit by unit: the exact McNemar test and the interval over
resampled clips must both find a change, and p-values are Holm's over all sets.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dpo_video.benchmarks.paired import (
    PairedQuestion,
    PairedResult,
    compare_questions,
    detectable_change,
    holm,
    outcome,
    verdict_line,
)
from dpo_video.evaluate.answer_rows import EvaluatedAnswer, answered_by_both, answers_by_set
from dpo_video.evaluate.metrics import why_exact_match_misleads
from dpo_video.evaluate.set_verdict import SetVerdict

WORST_FIRST = ("worse", "not compared", "not distinguishable", "better")
Worth = Callable[[EvaluatedAnswer], float | bool | None]
"""What an answer is worth: right or wrong, or a score; None where neither is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMeasure:
    """By what the answers to a set are compared."""

    name: str
    worth: Worth
    is_share: bool = True
    """Whether an answer is right or wrong; else it has a score."""


def set_verdicts(
    answers: Iterable[EvaluatedAnswer],
    *,
    sets: Iterable[str] = (),
    parser: Literal["strict", "published"] = "strict",
    tie_margin: float = 0.0,
    resamples: int,
    seed: int,
) -> list[SetVerdict]:
    """Return what came of each set, worst first.

    Args:
        answers: the rows of answers.jsonl.
        sets: that there are, with answers or without.
        parser: the rule by which a letter, yes or no is right; a set without a published rule is
            read by the strict one.
        tie_margin: scores that differ by less are equal.
    """
    results: dict[str, tuple[SetMeasure, PairedResult]] = {}
    verdicts: list[SetVerdict] = []
    unanswered: dict[str, tuple[list[EvaluatedAnswer], list[EvaluatedAnswer]]] = {}
    for name in sets:
        unanswered[name] = ([], [])
    for name, (before, after) in (unanswered | answers_by_set(answers)).items():
        joined = answered_by_both(before, after)
        measure = main_measure([*before, *after], parser)
        questions = paired_questions(joined, measure) if measure is not None else []
        if measure is None or not questions:
            verdicts.append(_not_compared(name, num_questions=len(joined)))
            continue
        result = compare_questions(
            questions,
            resamples=resamples,
            seed=seed,
            is_share=measure.is_share,
            tie_margin=0.0 if measure.is_share else tie_margin,
        )
        results[name] = (measure, result)
    adjusted = holm({name: result.p_value for name, (_, result) in results.items()})
    for name, (measure, result) in results.items():
        verdicts.append(_verdict(name, measure, result, adjusted[name], num_sets=len(results)))
    return sorted(verdicts, key=_badness)


def main_measure(
    answers: Sequence[EvaluatedAnswer], parser: Literal["strict", "published"] = "strict"
) -> SetMeasure | None:
    """Return by what the answers to a set are compared, None where nothing of them is known.

    Choices: whether they are right; as groups, where questions count together. Texts: whether
    `evaluate.correctness_scorer` finds them right; else the exact match, unless that misleads (see
    `why_exact_match_misleads`); else the judge's score. A set of both compares what is right.
    """

    texts = [answer for answer in answers if answer.kind == "text"]
    is_judged = any(answer.judged is not None for answer in texts)
    with_gold = [answer for answer in texts if answer.gold is not None]
    misleads = why_exact_match_misleads(
        [answer.gold or "" for answer in with_gold], [answer.text for answer in with_gold]
    )

    def right(answer: EvaluatedAnswer) -> bool | None:
        if answer.kind == "text":
            exact_match = answer.exact_match if misleads is None else None
            return answer.judged if is_judged else exact_match
        is_published = parser == "published" and answer.published_correct is not None
        return answer.published_correct if is_published else answer.correct

    if any(right(answer) is not None for answer in answers):
        if any(answer.group is not None for answer in answers):
            return SetMeasure(name="all of a group", worth=right)
        if len(texts) < len(answers):
            return SetMeasure(name="accuracy", worth=right)
        return SetMeasure(name="judged right" if is_judged else "exact match", worth=right)
    if any(answer.score is not None for answer in answers):
        return SetMeasure(name="judged score", worth=lambda answer: answer.score, is_share=False)
    return None


def paired_questions(
    joined: Iterable[tuple[EvaluatedAnswer, EvaluatedAnswer]], measure: SetMeasure
) -> list[PairedQuestion]:
    """Return the questions whose answers are both worth something by a measure; a group with one
    that is not is left out whole.
    """
    questions: list[PairedQuestion] = []
    unscored_groups: set[str] = set()
    for before, after in joined:
        old, new = measure.worth(before), measure.worth(after)
        if old is not None and new is not None:
            questions.append(
                PairedQuestion(
                    clip=before.clip, group=before.group, before=float(old), after=float(new)
                )
            )
        elif before.group is not None:
            unscored_groups.add(before.group)
    return [question for question in questions if question.group not in unscored_groups]


def _verdict(
    name: str, measure: SetMeasure, result: PairedResult, adjusted_p: float, *, num_sets: int
) -> SetVerdict:
    return SetVerdict(
        set=name,
        outcome=outcome(result, adjusted_p),
        sentence=verdict_line(name, result, adjusted_p, num_sets=num_sets, measure=measure.name),
        measure=measure.name,
        n=result.change.n,
        before=result.before,
        after=result.after,
        change=result.change.value,
        change_ci=result.change.interval,
        gained=result.gained,
        lost=result.lost,
        p_value=result.p_value,
        holm_p_value=adjusted_p,
        detectable_change=detectable_change(result, num_sets=num_sets),
    )


def _not_compared(name: str, *, num_questions: int) -> SetVerdict:
    why = (
        "no answer of it is right, wrong or scored"
        if num_questions
        else "no question of it is answered by both models"
    )
    return SetVerdict(set=name, outcome="not compared", sentence=f"{name}: not compared: {why}")


def _badness(verdict: SetVerdict) -> tuple[int, float]:
    return WORST_FIRST.index(verdict.outcome), verdict.change or 0.0
