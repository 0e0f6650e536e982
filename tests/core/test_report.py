"""One way to write an estimate, and its row in a JSON file."""

import pytest

from dpo_video.core.report import Estimate, estimate_row, estimate_text


@pytest.mark.parametrize(
    ("estimate", "how", "text"),
    [
        (Estimate(value=0.5, interval=(0.4, 0.6)), {"share": True}, "50.0 % [40.0, 60.0]"),
        (
            Estimate(value=0.025, interval=(-0.01, 0.06)),
            {"share": True, "signed": True},
            "+2.5 pts [-1.0, +6.0]",
        ),
        (Estimate(value=0.3104, interval=(0.2, 0.42)), {}, "0.31 [0.20, 0.42]"),
        (Estimate(value=0.3104), {"digits": 3}, "0.310"),
        (Estimate(value=-1.5), {"signed": True, "digits": 1}, "-1.5"),
        (Estimate(value=None), {"share": True}, "-"),
        (Estimate(value=None, why_none="no gold"), {}, "- (no gold)"),
        (
            Estimate(value=0.5, why_no_interval="one clip"),
            {"share": True},
            "50.0 % [no interval: one clip]",
        ),
        (
            Estimate(value=0.5, interval=(0.4, 0.6), unscored=2, bounds=(0.45, 0.55)),
            {"share": True},
            "50.0 % [40.0, 60.0], with the 2 unscored 45.0 % to 55.0 %",
        ),
    ],
)
def test_an_estimate_is_written_one_way(estimate: Estimate, how: dict, text: str) -> None:
    assert estimate_text(estimate, **how) == text


def test_the_row_of_an_estimate_says_why_there_is_no_value() -> None:
    assert estimate_row(Estimate(value=0.5, interval=(0.4, 0.6), n=8, unscored=1)) == {
        "value": 0.5,
        "ci": [0.4, 0.6],
        "n": 8,
        "unscored": 1,
    }
    row = estimate_row(Estimate(value=None, why_none="no gold"))
    assert row == {"value": None, "ci": None, "n": 0, "unscored": 0, "why_none": "no gold"}
