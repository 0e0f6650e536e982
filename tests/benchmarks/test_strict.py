"""Strict parsing reads what says one thing, and nothing that could say two."""

import pytest

from dpo_video.benchmarks.strict import (
    parse_choice,
    parse_letter,
    parse_letters,
    parse_option,
    parse_yes_no,
    read_strictly,
)
from dpo_video.core.records import Sample

CATS = ("A. a cat", "B. a dog", "C. A cat and a dog.", "D. nothing")
CAPTIONS = ("Caption A: A cat sleeps.", "Caption B: A cat runs.")


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("Yes.", "yes"),
        ("no", "no"),
        (" NO, it is a cat", "no"),
        ("**Yes**", "yes"),
        ("The answer is yes.", "yes"),
        ("Answer: No", "no"),
        ("Yes, there is no dog.", "yes"),
        ("Not sure.", None),
        ("Nothing happens.", None),
        ("Nobody is there", None),
        ("Yes and no.", None),
        ("No, yes", None),
        ("yes/no", None),
        ("It is, yes.", None),
        ("", None),
    ],
)
def test_yes_or_no_is_what_an_answer_begins_with(text: str, parsed: str | None) -> None:
    assert parse_yes_no(text) == parsed


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("B", "B"),
        ("b", "B"),
        ("B.", "B"),
        ("(b)", "B"),
        ("[B]", "B"),
        ("**B**", "B"),
        ("B. a dog", "B"),
        ("B) a dog, I think", "B"),
        ("B a dog", "B"),
        ("a dog", "B"),
        ("A cat.", "A"),
        ("A. A cat", "A"),
        ("Answer: B", "B"),
        ("The correct answer is (B).", "B"),
        ("The answer is: C. A cat and a dog.", "C"),
        ("Option B is correct", "B"),
        ("B because it barks", "B"),
        ("A dog runs after B", None),
        ("The answer is A man walks in", None),
        ("The answer is not clear. Because ...", None),
        ("A or B", None),
        ("A, B", None),
        ("A B", None),
        ("(A) or (B)", None),
        ("(A)(B)", None),
        ("A. B. C.", None),
        ("A. a dog", None),
        ("E", None),
        ("I think B", None),
        ("Apple", None),
        ("", None),
    ],
)
def test_a_letter_counts_where_it_is_the_answer_and_no_word(text: str, parsed: str | None) -> None:
    assert parse_letter(text, CATS) == parsed


def test_equal_options_are_not_told_apart_by_their_text() -> None:
    assert parse_letter("a cat", ("A. a cat", "B. A cat.")) is None
    assert parse_letter("B", ("A. a cat", "B. A cat.")) == "B"


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("Caption B: A cat runs.", 1),
        ("caption b", 1),
        ("Caption B.", 1),
        ("B", 1),
        ("A cat runs", 1),
        ("Caption A: A cat runs.", None),
        ("A cat", None),
        ("", None),
    ],
)
def test_an_option_is_named_whole_by_label_or_by_text(text: str, parsed: int | None) -> None:
    assert parse_option(text, CAPTIONS) == (None if parsed is None else CAPTIONS[parsed])


@pytest.mark.parametrize(
    ("options", "text", "parsed"),
    [
        (("a cat", "a dog"), "B", "B"),
        (("a cat", "a dog"), "a dog", "B"),
        (("a cat", "a dog"), "A dog", "B"),
        (("a cat", "a dog"), "C", None),
        (("(A) a cat", "(B) a dog"), "(b) a dog", "B"),
        (("A. Smith", "B. Jones", "C. Brown"), "C", "C"),
        (("A. Smith waits", "C. Brown waits"), "B", "B"),
        (("A. dancing", " B. singing", "C.Both happen"), "Both happen", "C"),
        (("A. dancing", " B. singing", "C.Both happen"), "singing", "B"),
        (("A", "B"), "a", "A"),
        (("A", "B"), "A man walks", None),
        (("Option 1: It is slow.", "Option 2: It is fast."), "Option 2", "B"),
        (("Option 1: It is slow.", "Option 2: It is fast."), "It is slow", "A"),
        (("Caption A: It is slow.", "Caption B: It is fast."), "B", "B"),
    ],
)
def test_options_have_labels_or_are_counted(
    options: tuple[str, ...], text: str, parsed: str | None
) -> None:
    assert parse_choice(text, options) == parsed


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("AC", "AC"),
        ("C, A", "AC"),
        ("A and C.", "AC"),
        ("(A)(C)", "AC"),
        ("A. C. D.", "ACD"),
        ("Answer: A/B", "AB"),
        ("B", "B"),
        ("**B**", "B"),
        ("A. a cat\nB. a dog", "AB"),
        ("B. a dog", "B"),
        ("A. a cat\nand more", None),
        ("AE", None),
        ("A dog runs after B", None),
        ("BAD day", None),
        ("", None),
    ],
)
def test_several_letters_are_read_together(text: str, parsed: str | None) -> None:
    assert parse_letters(text, CATS) == parsed


def test_only_a_question_that_may_have_several_right_options_is_read_so() -> None:
    fields: dict[str, object] = {
        "id": "q",
        "video": "v",
        "prompt": "?",
        "answer": "AC",
        "answer_kind": "letter",
        "options": list(CATS),
    }
    several = Sample(**fields, meta={"several_letters": True})  # type: ignore[arg-type]
    assert read_strictly(several, "C and A").correct and not read_strictly(several, "A").correct
    assert read_strictly(Sample(**fields), "C and A").parsed is None  # type: ignore[arg-type]


def test_an_unparsed_answer_is_wrong_and_a_parsed_one_is_held_against_gold() -> None:
    question = Sample(id="q", video="v.mp4", prompt="?", answer="No.", answer_kind="yes_no")
    assert [read_strictly(question, text).correct for text in ("no", "Yes.", "Not sure.")] == [
        True,
        False,
        False,
    ]
    letter = Sample(
        id="q", video="v", prompt="?", answer="B", answer_kind="letter", options=list(CATS)
    )
    assert read_strictly(letter, "(B)").correct and not read_strictly(letter, "A").correct
