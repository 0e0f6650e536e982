"""How unsure the judge is of an order, against values worked out by hand."""

import pytest

from dpo_video.core.records import Judgment
from dpo_video.judge.scorer import load_scorer
from dpo_video.pages.doubt import judge_doubt


def judged(score: float | None, distribution: dict[str, float] | None = None) -> Judgment:
    return Judgment(
        candidate_id="c",
        scorer="s",
        judge="j",
        score=score,
        status="scored",
        reason="",
        reply="",
        distribution=distribution,
    )


def test_distributions_give_the_probability_of_the_other_order() -> None:
    high, low = judged(4.2, {"1": 0.2, "5": 0.8}), judged(2.0, {"1": 0.75, "5": 0.25})
    # 1 above 5: 0.2 * 0.25; equal: 0.2 * 0.75 + 0.8 * 0.25
    expected = 0.05 + 0.35 / 2
    scorer = load_scorer("caption_score")
    assert judge_doubt(high, low, scorer) == pytest.approx(expected)
    assert judge_doubt(low, high, scorer) == pytest.approx(expected)


def test_scores_alone_are_compared_with_the_noise() -> None:
    scorer = load_scorer("caption_score")
    # a difference of one standard deviation of the difference: 1 - Phi(1)
    doubt = judge_doubt(judged(3.0), judged(3.0 + 2**0.5 * 0.1), scorer, noise_sigma=0.1)
    assert doubt == pytest.approx(0.158655, abs=1e-6)
    assert judge_doubt(judged(3.0), judged(3.0), scorer) == 0.5


def test_an_answer_without_a_score_has_no_doubt() -> None:
    assert judge_doubt(judged(None), judged(3.0), None) is None
    assert judge_doubt(None, judged(3.0), None) is None
