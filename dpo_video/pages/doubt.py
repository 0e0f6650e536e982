"""How unsure the judge is of the order of two answers."""

from collections.abc import Mapping
from math import erf

from dpo_video.core.records import Judgment
from dpo_video.judge.scorer import Scorer


def judge_doubt(
    first: Judgment | None,
    second: Judgment | None,
    scorer: Scorer | None,
    *,
    noise_sigma: float | None = None,
) -> float | None:
    """Return the probability, at most 0.5, that the judge has two answers in the wrong order; None
    where one has no score.

    Where both have a distribution over the same labels it is P(lower > higher) + P(equal) / 2, the
    two scores drawn independently. Else it is that of two scores with normal noise: of the standard
    deviation that `dpo-video agree` measured, or of a tenth of the scorer's range.
    """
    if first is None or second is None or first.score is None or second.score is None:
        return None
    chances = [_by_value(row.distribution, scorer) for row in (first, second)]
    if chances[0] and chances[1]:
        above = _chance_above(chances[0], chances[1])
        return min(above, 1 - above)
    return score_doubt(first.score, second.score, scorer, noise_sigma=noise_sigma)


def score_doubt(
    first: float, second: float, scorer: Scorer | None, *, noise_sigma: float | None = None
) -> float:
    """Return the doubt where only the scores are known: that of two with normal noise."""
    span = scorer.high - scorer.low if scorer is not None else 1.0
    sigma = noise_sigma or span / 10
    return 0.5 * (1 - erf(abs(first - second) / (2 * sigma)))


def _by_value(
    distribution: Mapping[str, float] | None, scorer: Scorer | None
) -> dict[float, float]:
    """Return the probability of each score; empty where a label's score is not known."""
    chances: dict[float, float] = {}
    for label, chance in (distribution or {}).items():
        value = None if scorer is None else scorer.labels.get(label)
        if value is None:
            try:
                value = float(label)
            except ValueError:
                return {}
        chances[value] = chances.get(value, 0.0) + chance
    return chances


def _chance_above(first: Mapping[float, float], second: Mapping[float, float]) -> float:
    total = sum(first.values()) * sum(second.values())
    above = 0.0
    for value, chance in first.items():
        for other, other_chance in second.items():
            above += chance * other_chance * (0.5 if value == other else float(value > other))
    return above / total if total else 0.5
