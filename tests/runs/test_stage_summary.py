"""What a finished stage says."""

import pytest

from dpo_video.core.stage_warnings import REMEDIES, stage_warnings
from dpo_video.pair.rules import REASONS
from dpo_video.runs.stage_summary import stage_lines

PAIR = {
    "questions": {"in": 240, "out": 93},
    "questions_dropped": {"too few answers": 7, "below margin": 140},
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
        ("pair", {"pairs": 12}, "only 12 pairs: more samples, a lower pair.min_margin"),
        (
            "pair",
            {
                "pairs": 12,
                "questions": {"in": 40, "out": 12},
                "questions_dropped": {"too few answers": 20, "below margin": 8},
            },
            "12 pairs from 40 questions, most of the others dropped as 'too few answers' (20): "
            "raise generate.num_candidates",
        ),
        (
            "pair",
            {
                "pairs": 500,
                "questions": {"in": 5000, "out": 500},
                "questions_dropped": {"chosen is wrong": 4500},
            },
            "only 500 pairs from 5000 questions",
        ),
        (
            "pair",
            {
                "pairs": 400,
                "questions": {"in": 1000, "out": 400},
                "questions_dropped": {"below margin": 400, "tie": 200},
            },
            "60 % of the questions have no two answers far enough apart: lower pair.min_margin",
        ),
        (
            "pair",
            {"pairs": 400, "answers": {"in": 1000, "out": 700, "cut": 300}},
            "30 % of the answers were cut, and a cut answer is never chosen: raise "
            "generate.max_new_tokens",
        ),
        (
            "train",
            {"chosen_reward": {"highest": -0.0125, "last": -0.5}},
            "rewards/chosen stayed below 0 after the first logged step (at most -0.0125, -0.5 at "
            "the end)",
        ),
        (
            "evaluate",
            {"length_change": {"before": 40.0, "change": 12.0, "low": 8.0, "high": 16.5}},
            "longer by 12 characters, 30 % (95 % interval +8 to +16.5)",
        ),
        (
            "evaluate",
            {"length_change": {"before": 40.0, "change": -4.0, "low": -7.0, "high": -1.0}},
            "shorter by 4 characters, 10 % (95 % interval -7 to -1)",
        ),
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
    rising = {"highest": 0.01, "last": -0.5}
    assert stage_warnings("train", {"chosen_reward": rising}) == [], "it was above 0 once"
    within = {"before": 40.0, "change": 2.0, "low": -1.0, "high": 5.0}
    assert stage_warnings("evaluate", {"length_change": within}) == []


def test_every_reason_that_pairing_gives_has_a_setting_that_helps() -> None:
    reasons = {*REASONS, "too few answers", "no answers", "no tie break", "easy", "length balance"}
    assert set(REMEDIES) == reasons - {"over cap"}
