"""What a finished stage says."""

import pytest

from dpo_video.runs.stage_summary import stage_lines, stage_warnings

PAIR = {
    "questions": {"in": 240, "out": 93},
    "questions_dropped": {"too_few_answers": 7, "below_margin": 140},
    "pairs": 93,
    "min_margin": 1.0,
    "chosen_length": 24.0,
    "rejected_length": 34.5,
    "chosen_longer": 0.7123,
    "by_sampler": {"a": {"wins": 3}},
}


def test_counts_stand_in_rows_that_keep_the_width() -> None:
    lines = stage_lines("pair", PAIR, seconds=3.2, output="runs/mine/pairs.jsonl", width=60)
    assert lines[:4] == [
        "pair: pairs 93, min margin 1, chosen length 24, rejected length 34.5; 3 s; "
        "runs/mine/pairs.jsonl",
        "  chosen longer 0.712",
        "  questions: in 240, out 93",
        "  questions dropped: too few answers 7, below margin 140",
    ]
    assert all(len(line) <= 60 for line in lines[1:])
    warnings = " ".join(lines[4:])
    assert warnings.count("warning: ") == 3 and "by sampler" not in warnings


@pytest.mark.parametrize(
    ("name", "counts", "words"),
    [
        ("generate", {"candidates": 100, "cut": 6}, "6 % of the answers were cut"),
        ("judge", {"candidates": 100, "unscored": 10}, "10 % of the answers have no score"),
        ("pair", {"pairs": 12}, "only 12 pairs"),
        ("pair", {"pairs": 500, "chosen_longer": 0.8}, "longer one in 80 % of the pairs"),
        ("evaluate", {"questions": 10, "unanswered": 2}, "2 questions have no answer"),
    ],
)
def test_what_should_not_be_missed_is_a_warning_in_words(name, counts, words) -> None:
    (warning,) = stage_warnings(name, counts)
    assert words in warning


def test_a_healthy_stage_warns_of_nothing() -> None:
    for name in ("generate", "judge", "train", "evaluate"):
        assert stage_warnings(name, {"candidates": 100, "cut": 1, "unscored": 0}) == []
    assert stage_warnings("pair", {"pairs": 500, "chosen_longer": 0.5}) == []
