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
from dpo_video.core.records import Judgment
from dpo_video.judge.scorer import Scorer
from dpo_video.judge.types import Judged, JudgeItem, mode_of
from dpo_video.recipe import JudgeSettings


def judge_by_cascade(
    settings: JudgeSettings,
    scorer: Scorer,
    judge_items: Sequence[JudgeItem],
    judge_once: Callable[[JudgeSettings, Sequence[JudgeItem]], Judged],
) -> Judged:
    """Return the judgment of every candidate; `judge_once` judges by the settings of one judge."""
    assert settings.cascade is not None, "without a cascade there is one judge"
    if scorer.mode == "pairwise" or mode_of(settings, scorer) == "verdict":
        raise UserError(
            "judge.cascade needs label probabilities to know how sure the first judge is, and "
            f"scorer {scorer.name!r} gives none of one answer. Choose a scorer of `mode: labels` "
            "or `mode: claims` and judge.score_from=scorer, or leave judge.cascade out"
        )
    below = settings.cascade.below
    cheap, counts = judge_once(settings.first_judge(), judge_items)
    confidences = {candidate_id: confidence(row) for candidate_id, row in cheap.items()}
    unsure = [judge_item for judge_item in judge_items if confidences[judge_item[1].id] < below]
    trusted, trusted_counts = Judged({}, Counter())
    if unsure:
        trusted, trusted_counts = judge_once(settings.model_copy(update={"cascade": None}), unsure)
    judgments = {}
    for _, candidate in judge_items:
        judgment = trusted.get(candidate.id, cheap[candidate.id])
        facts = {
            "escalated": candidate.id in trusted,
            "first_score": cheap[candidate.id].score,
            "first_confidence": confidences[candidate.id],
        }
        judgments[candidate.id] = replace(judgment, details=(judgment.details or {}) | facts)
    counts.update(trusted_counts)
    counts["escalated"] = len(unsure)
    return Judged(judgments, counts)


def confidence(judgment: Judgment) -> float:
    """Return how sure a judge is of a judgment, 0 to 1; 0 where it gave no score."""
    if judgment.score is None:
        return 0.0
    if judgment.claims is not None:
        return min(max(claim["distribution"].values()) for claim in judgment.claims)
    return max(judgment.distribution.values()) if judgment.distribution else 0.0
