"""A cascade: a cheap judge scores every candidate, and those it is unsure of go on to the judge
that is trusted more.

Confidence is the probability of the likeliest label, for claims that of the least sure one; a
candidate without a score always goes on. Both judges use one scorer, so their scores share a scale;
whether they use it alike is for gold labels to say.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from dpo_video.core.errors import UserError
from dpo_video.core.records import Candidate, Judgment, Sample
from dpo_video.judge.scorer import Scorer
from dpo_video.judge.types import mode_of
from dpo_video.recipe import JudgeSettings

Item = tuple[Sample, Candidate]
JudgeSome = Callable[[JudgeSettings, Sequence[Item]], dict[str, Judgment]]
"""Judge these candidates by the settings of one judge; by candidate id."""


def judge_by_cascade(
    settings: JudgeSettings,
    scorer: Scorer,
    items: Sequence[Item],
    judge_some: JudgeSome,
    *,
    counts: Counter[str] | None = None,
) -> dict[str, Judgment]:
    """Return the judgment of every candidate by its id; `counts` gains `escalated`."""
    assert settings.cascade is not None, "without a cascade there is one judge"
    if scorer.mode == "pairwise" or mode_of(settings, scorer) == "verdict":
        raise UserError(
            "judge.cascade needs label probabilities to know how sure the first judge is, and "
            "scorer "
            f"{scorer.name!r} gives none of one answer. Choose a scorer of `mode: labels` or "
            f"`mode: "
            "claims` and judge.score_from=scorer, or leave judge.cascade out"
        )
    below = settings.cascade.below
    first = judge_some(settings.first_judge(), items)
    sure = {name: confidence(row) for name, row in first.items()}
    unsure = [item for item in items if sure[item[1].id] < below]
    if counts is not None:
        counts.update(escalated=len(unsure))
    second = judge_some(settings.model_copy(update={"cascade": None}), unsure) if unsure else {}
    out = {}
    for _, candidate in items:
        row = second.get(candidate.id, first[candidate.id])
        facts = {
            "escalated": candidate.id in second,
            "first_score": first[candidate.id].score,
            "first_confidence": sure[candidate.id],
        }
        out[candidate.id] = replace(row, details=(row.details or {}) | facts)
    return out


def confidence(row: Judgment) -> float:
    """Return how sure a judge is of a judgment, 0 to 1; 0 where it gave no score."""
    if row.score is None:
        return 0.0
    if row.claims is not None:
        return min(max(claim["distribution"].values()) for claim in row.claims)
    return max(row.distribution.values()) if row.distribution else 0.0
