"""Whose answers a server gives: counts and verdicts from answers alone."""

import pytest

from dpo_video.parity.compare import (
    AnswerParity,
    compare_way,
    first_difference,
    is_base,
    is_tuned,
    verdict_of,
)

TUNED = "a red square moves to the right and stops"
BASE = "the man is cooking pasta in a kitchen"


def rows(*served: str, tuned: str = TUNED, base: str = BASE, gap: float | None = None):
    return [
        AnswerParity(
            sample_id=str(number),
            video="a.mp4",
            prompt="?",
            shown_as="film",
            tuned=tuned,
            base=base,
            served=text,
            first_difference=first_difference(text, tuned),
            logp_gap=gap,
            base_logp_gap=None if gap is None else 2.0,
        )
        for number, text in enumerate(served)
    ]


def way(*served: str, shown_as: str = "film", **settings):
    return compare_way(shown_as, rows(*served, **settings), failed=0, prompt_tokens=None)


def test_the_first_difference_is_counted_in_characters_and_space_at_the_ends_is_none() -> None:
    assert first_difference("a red bus", "a red car") == 6
    assert first_difference(" a red\n", "a red") is None
    assert first_difference("", "a") == 0


@pytest.mark.parametrize(
    ("served", "tuned", "base", "words"),
    [
        ([TUNED] * 10, True, False, "answers as the tuned model does here: 10 of 10"),
        ([TUNED] * 8 + [BASE] * 2, False, False, "neither the tuned model's nor the base's"),
        ([BASE] * 9 + [TUNED], False, True, "are those of the base: the adapter has no effect"),
        (["yes"] * 10, False, False, "neither the tuned model's nor the base's: 0 of 10"),
        ([f"{TUNED[:25]} fast"] * 10, False, False, "adapter is at work, and the answers are not"),
    ],
)
def test_the_verdict_names_whose_answers_they_are(served, tuned, base, words) -> None:
    result = way(*served)
    assert (is_tuned(result, 0.9), is_base(result)) == (tuned, base)
    assert words in verdict_of([result], 0.9).text


def test_equal_log_probs_show_the_same_weights_where_rounding_parts_the_texts() -> None:
    result = way(*[f"{TUNED[:25]} fast"] * 10, gap=0.01)
    verdict = verdict_of([result], 0.9)
    assert is_tuned(result, 0.9) and verdict.mood == "good"
    assert "What differs is rounding" in verdict.text


def test_questions_that_both_models_answer_alike_tell_nothing() -> None:
    result = way(*[TUNED] * 4, base=TUNED)
    verdict = verdict_of([result], 0.9)
    assert (result.telling, is_tuned(result, 0.9), verdict.mood) == (0, True, "warn")
    assert "nothing shows whether the server uses the adapter" in verdict.text


@pytest.mark.parametrize(
    ("file_answers", "words"),
    [
        ([TUNED] * 10, "So it does with the frames that it takes from the file itself: 10 of 10"),
        ([TUNED] * 5 + ["no"] * 5, "only 5 of 10 are equal: the server takes other frames"),
    ],
)
def test_the_servers_own_frames_are_told_apart_from_its_model(file_answers, words) -> None:
    ways = [way(*[TUNED] * 10), way(*file_answers, shown_as="file")]
    assert words in verdict_of(ways, 0.9).text
