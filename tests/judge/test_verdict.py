"""Verdicts are read strictly: the last verdict line, in range, else no score and the reason."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.verdict import expected_score, parse_verdict

HOUND = load_scorer("hound_quality")
QA = load_scorer("qa_correctness")
SUPPORT = load_scorer("caption_support")


@pytest.mark.parametrize(
    ("reply", "hound", "ours"),
    [
        ("Explanation: there are 2 dogs.\n**Score:** 5", 3.5, 5),
        ("Explanation: as in 1995, 999 of them; score = 3", 999.0, None),
        ("Score:4/5", 4.5, 4),
        ("I cannot judge this.", 1, None),
        ("Score: 9", 9.0, None),
    ],
)
def test_replies_that_llava_hound_misread(reply, hound, ours):
    """`hound` is what LLaVA-Hound's parser made of such replies (notes/llava-hound.md 1.1)."""
    verdict = parse_verdict(HOUND, reply)
    assert verdict.score == ours != hound
    assert verdict.score is not None or verdict.reason


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score: 1", 1),
        ("score:2", 2),
        ("  Score:   3  ", 3),
        ("Score: 4.", 4),
        ("## Score: 5", 5),
        ("**Score: 5**", 5),
        ("__Score__: `2`", 2),
        ("Score: 4.0", 4),
        ("Score: 1\nScore: 5", 5),
        ("Score: 5\nScore: 1\n\n", 1),
        ("<think>\nScore: 1\n</think>\nScore: 3", 3),
        ("Score: 2\nI hope this helps.", 2),
        ("Score: 3\r\n", 3),
        ("Score: 4 / 5", 4),
        ("Score\uff1a4", 4),
        ("Score: \uff14", 4),
        ("\uff33\uff43\uff4f\uff52\uff45\uff1a\uff14\uff0f\uff15", 4),
        ("Score: 4\u3002", 4),
        ("Score: 4<|im_end|>", 4),
        ("Score: 4</s>\n", 4),
        ("Explanation: fine.\nScore: 4.<|eot_id|><|eot_id|>", 4),
        ("- Score: 4", 4),
        ("- **Score: 4**", 4),
        ("\u2022 Score: 4", 4),
        ("Score: [4]", 4),
        ("Score: \u30104\u3011", 4),
        ("Score: **[4]/5**", 4),
        ("Score: [4/5].", 4),
        ("Score:\n4", 4),
        ("Fine.\n**Score:**\n\n4/5\n", 4),
    ],
)
def test_forms_of_a_verdict_line_that_count(reply, score):
    assert parse_verdict(HOUND, reply).score == score


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "empty reply"),
        ("   \n", "empty reply"),
        ("5", "no verdict line"),
        ("Score 5", "no verdict line"),
        ("The score: 5", "no verdict line"),
        ("Overall Score: 5", "no verdict line"),
        ("> Score: 5", "no verdict line"),
        ("Scored: 5", "no verdict line"),
        ("Score: 0", "out of scale"),
        ("Score: 6", "out of scale"),
        ("Score: -1", "out of scale"),
        ("Score: 55", "out of scale"),
        ("Score: 3.5", "not an integer"),
        ("Score: 4/10", "malformed verdict"),
        ("Score: four", "malformed verdict"),
        ("Score: 4 of 5", "malformed verdict"),
        ("Score:", "malformed verdict"),
        ("Score: 4-5", "malformed verdict"),
        ("Score: nan", "malformed verdict"),
        ("Score: 1e0", "malformed verdict"),
        ("Score: \u0664", "malformed verdict"),
        ("Score: 5\nScore: unclear", "malformed verdict"),
        ("Score: 5\nScore: 9", "out of scale"),
        ("<think>\nScore: 1\n</think>\nUnsure.", "no verdict line"),
        ("Score: 4 / 10", "malformed verdict"),
        ("Score: 4 / 5 / 5", "malformed verdict"),
        ("Score: [1-5]", "malformed verdict"),
        ("Score: [4", "malformed verdict"),
        ("Score: [4] [5]", "malformed verdict"),
        ("Score: 4\u30025", "malformed verdict"),
        ("Score: \u2074", "malformed verdict"),
        ("Score: 4\u00bd", "malformed verdict"),
        ("Score:\n4 dogs are seen", "malformed verdict"),
        ("Score:\n4\n5", "malformed verdict"),
        ("Score:\n4\n\nExplanation: fine.", "malformed verdict"),
        ("Score: 2\nScore:\n", "malformed verdict"),
        ("- Score: 1\n- Score: 5", "malformed verdict"),
        ("Score: 2<|im_end|>\n<|im_start|>user\nAnother.\nScore: 5", "malformed verdict"),
        ("> - Score: 5", "no verdict line"),
        ("1. Score: 5", "no verdict line"),
    ],
)
def test_everything_else_is_unscored_with_the_reason(reply, reason):
    verdict = parse_verdict(HOUND, reply)
    assert verdict.score is None
    assert verdict.reason.startswith(reason)


MARKS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<Thought>", "</Thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
]


@pytest.mark.parametrize(("opens", "closes"), MARKS)
def test_only_what_stands_behind_the_thinking_counts_whatever_its_marks(opens, closes):
    draft = f"{opens}\nIt could be\nScore: 2\n"
    assert parse_verdict(HOUND, f"{draft}{closes}\nScore: 4").score == 4
    assert parse_verdict(HOUND, f"It could be\nScore: 2\n{closes}\nScore: 4").score == 4
    unsure = parse_verdict(HOUND, f"{draft}{closes}\nA good answer, four points.")
    assert unsure.score is None and unsure.reason.startswith("no verdict line")
    for unclosed in (draft, f"Well.\n{draft}", f"{draft}{closes}{draft}"):
        verdict = parse_verdict(HOUND, unclosed)
        assert (verdict.score, verdict.reason) == (None, f"no verdict line: {opens} has no end")


def test_thinking_that_ends_in_another_kind_of_mark_has_no_end():
    verdict = parse_verdict(HOUND, "<think>Not [/THINK] yet.\nScore: 2")
    assert (verdict.score, verdict.reason) == (None, "no verdict line: <think> has no end")


@given(st.text(max_size=80), st.integers(1, 5))
def test_only_the_last_verdict_line_counts_whatever_stands_before(before, score):
    """A text that ends in the closing tag of a thinking block is all before it."""
    assert parse_verdict(HOUND, f"{before}\nScore: {score}").score == score


@given(st.text(max_size=120))
def test_a_score_is_in_range_or_none_for_any_reply(reply):
    for scorer in (HOUND, QA, SUPPORT):
        verdict = parse_verdict(scorer, reply)
        assert verdict.score is None or scorer.low <= verdict.score <= scorer.high
        assert verdict.score is not None or verdict.reason


def test_the_explanation_is_kept():
    verdict = parse_verdict(
        HOUND, "Explanation: the dog is right,\nits colour wrong.\n\nScore: 3\n"
    )
    assert verdict.reason == "Explanation: the dog is right,\nits colour wrong."


@pytest.mark.parametrize(
    ("reply", "score", "label", "reason"),
    [
        ("Verdict: yes, Score: 5", 5, "yes", ""),
        ("verdict: NO , score: 2", 2, "no", ""),
        ("Verdict: yes, Score: 0", None, "yes", "contradictory verdict"),
        ("Verdict: no, Score: 5", None, "no", "contradictory verdict"),
        ("Verdict: perhaps, Score: 3", None, None, "out of scale"),
        ("Verdict: yes", None, None, "malformed verdict"),
        ("Verdict: yes, Score: 4.8", None, "yes", "not an integer"),
        ("{'pred': 'yes', 'score': 4.8}", None, None, "no verdict line"),
    ],
)
def test_a_verdict_of_two_fields_must_agree_with_itself(reply, score, label, reason):
    verdict = parse_verdict(QA, reply)
    assert (verdict.score, verdict.label) == (score, label)
    assert verdict.reason.startswith(reason)


def test_a_label_is_named_and_scored():
    assert (
        parse_verdict(SUPPORT, "Verdict: b").score,
        parse_verdict(SUPPORT, "Verdict: b").label,
    ) == (0.0, "B")


def test_the_expected_score_is_the_mean_under_the_label_probabilities():
    """P = 0.6, 0.1, 0.2 for A, B, C: mass 0.9; score = (0.6 * 1 + 0.1 * 0 + 0.2 * 0) / 0.9."""
    verdict, shares = expected_score(
        SUPPORT, {"A": math.log(0.6), "B": math.log(0.1), "C": math.log(0.2)}
    )
    assert verdict.score == pytest.approx(0.6 / 0.9)
    assert verdict.label == "A"
    assert shares == pytest.approx({"A": 6 / 9, "B": 1 / 9, "C": 2 / 9})
    scale = load_scorer("caption_score")
    verdict, _ = expected_score(scale, {"1": math.log(0.25), "5": math.log(0.5)})
    assert verdict.score == pytest.approx((0.25 * 1 + 0.5 * 5) / 0.75)


@pytest.mark.parametrize(
    "log_probs",
    [
        {"A": math.log(0.05), "B": math.log(0.04)},
        {},
        {"A": -math.inf, "B": -math.inf, "C": -math.inf},
        {"A": math.nan},
    ],
)
def test_a_judge_that_means_no_label_gives_no_score(log_probs):
    verdict, _ = expected_score(SUPPORT, log_probs)
    assert verdict.score is None
    assert verdict.reason.startswith("little weight on the labels")
