"""What came of each set, from rows of answers.jsonl: which measure is compared, what is said, in
which order.
"""

import json
from typing import Any

import pytest

from dpo_video.benchmarks.paired import mcnemar
from dpo_video.evaluate.answer_rows import EvaluatedAnswer
from dpo_video.evaluate.set_verdict import SetVerdict, verdict_of_row, verdict_row
from dpo_video.evaluate.verdict import set_verdicts


def rows(name: str, outcomes: str, **fields: Any) -> list[EvaluatedAnswer]:
    """Both models' answers to yes/no questions about a clip each: `+` gained, `-` lost, `1` right
    twice, `0` wrong twice.
    """
    answers = []
    for index, change in enumerate(outcomes):
        for model, right in (("before", change in "-1"), ("after", change in "+1")):
            row: dict[str, Any] = {
                "set": name,
                "model": model,
                "sample_id": f"q{index}",
                "clip": f"{index}.mp4",
                "kind": "yes_no",
                "prompt": "Is there a dog?",
                "gold": "yes",
                "text": "Yes." if right else "No.",
                "correct": right,
            }
            answers.append(EvaluatedAnswer(**row | fields))
    return answers


def scored(name: str, scores: list[tuple[float | None, float | None]]) -> list[EvaluatedAnswer]:
    """Answers to captions, with nothing but a judge's score before and after."""
    answers: list[EvaluatedAnswer] = []
    for index, pair in enumerate(scores):
        for model, score in zip(("before", "after"), pair, strict=True):
            answers += rows(
                name,
                "1",
                model=model,
                sample_id=f"q{index}",
                clip=f"{index}.mp4",
                kind="text",
                gold=None,
                correct=None,
                score=score,
            )[:1]
    return answers


def verdicts(answers: list[EvaluatedAnswer], **settings: Any) -> dict[str, SetVerdict]:
    listed = set_verdicts(answers, resamples=500, seed=0, **settings)
    return {verdict.set: verdict for verdict in listed}


def test_the_worst_set_stands_first() -> None:
    answers = [
        *rows("risen", "+" * 40 + "1" * 60),
        *rows("much_worse", "-" * 40 + "1" * 60),
        *rows("level", "+-" * 20 + "1" * 60),
        *rows("worse", "-" * 20 + "1" * 80),
    ]
    found = verdicts(answers)
    assert list(found) == ["much_worse", "worse", "level", "risen"]
    assert [row.outcome for row in found.values()] == [
        "worse",
        "worse",
        "not distinguishable",
        "better",
    ]
    assert found["worse"].sentence.startswith(
        "worse: worse, accuracy 100.0 % to 80.0 %: -20.0 pts ["
    )
    assert "would have been found 4 times in 5" in found["level"].sentence


def test_p_values_are_corrected_over_the_sets() -> None:
    """8 lost of 8 is p 0.0078 alone, and 0.023 as the smallest of three."""
    lost = "-" * 8 + "1" * 92
    assert verdicts(rows("a", lost))["a"].holm_p_value == pytest.approx(mcnemar(0, 8))
    three = verdicts([*rows("a", lost), *rows("b", "1" * 100), *rows("c", "+-" + "1" * 98)])
    assert three["a"].holm_p_value == pytest.approx(3 * mcnemar(0, 8))
    assert three["a"].p_value == pytest.approx(mcnemar(0, 8)) and three["a"].outcome == "worse"


def test_questions_that_count_together_are_one_unit() -> None:
    """Yes to everything is right for one question of each pair, and for no pair."""
    answers = []
    for index in range(20):
        for half, outcome in (("yes", "1"), ("no", "+")):
            name = f"q{index}-{half}"
            clip, group = f"{index}.mp4", f"pair{index}"
            answers += rows("pairs", outcome, sample_id=name, clip=clip, group=group)
    found = verdicts(answers)["pairs"]
    assert (found.measure, found.n, found.gained, found.lost) == ("all of a group", 20, 20, 0)
    assert (found.before, found.after, found.outcome) == (0.0, 1.0, "better")


def test_a_published_rule_decides_where_it_is_asked_for_and_known() -> None:
    answers = rows("set", "0" * 30, published_correct=True) + rows("other", "0" * 30)
    assert verdicts(answers)["set"].after == 0.0
    published = verdicts(answers, parser="published")
    assert published["set"].after == 1.0 and published["other"].after == 0.0


def test_texts_are_compared_by_the_judge_of_correctness_then_exact_match_then_score() -> None:
    text = {"kind": "text", "correct": None, "exact_match": True, "score": 3.0}
    judged = verdicts(rows("texts", "0" * 9, **text, judged=False))["texts"]
    assert (judged.measure, judged.after) == ("judged right", 0.0)
    exact = verdicts(rows("texts", "0" * 9, **text))["texts"]
    assert (exact.measure, exact.after) == ("exact match", 1.0)
    sentence = "A dog runs over a wide green field and then it jumps over a fence."
    captions = verdicts(rows("texts", "0" * 9, **text | {"gold": sentence}))["texts"]
    assert (captions.measure, captions.after) == ("judged score", 3.0)


def test_scores_are_compared_by_how_many_rose_and_fell() -> None:
    changes: list[tuple[float | None, float | None]] = [(2, 4)] * 12 + [(3, 3.4)] * 9 + [(5, 4)]
    answers = scored("captions", [*changes, (None, 5), (5, None)])
    found = verdicts(answers, tie_margin=0.5)["captions"]
    assert (found.n, found.gained, found.lost) == (22, 12, 1)
    assert found.outcome == "better"
    assert found.sentence.startswith("captions: better, judged score 2.55 to 3.75: +1.21 [")


def test_a_set_without_anything_to_compare_says_so() -> None:
    unscored = verdicts(scored("captions", [(None, None)] * 3))["captions"]
    assert unscored.outcome == "not compared"
    assert unscored.sentence == "captions: not compared: no answer of it is right, wrong or scored"
    alone = verdicts([row for row in rows("half", "1" * 9) if row.model == "after"])["half"]
    assert alone.sentence.endswith("no question of it is answered by both models")


def test_a_group_with_an_unscored_answer_is_left_out_whole() -> None:
    text = {"kind": "text", "correct": None}
    answers = [
        *rows("set", "1", **text, judged=True, sample_id="a", group="1"),
        *rows("set", "1", **text, judged=None, sample_id="b", group="1"),
        *rows("set", "1", **text, judged=True, sample_id="c", group="2"),
    ]
    assert verdicts(answers)["set"].n == 1


def test_a_verdict_comes_back_from_json() -> None:
    for verdict in (
        *set_verdicts(rows("a", "-+1-" * 9), resamples=100, seed=0),
        *set_verdicts(scored("b", [(None, None)]), resamples=100, seed=0),
    ):
        assert verdict_of_row(json.loads(json.dumps(verdict_row(verdict)))) == verdict
