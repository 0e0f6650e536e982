"""Published rules read answers as their authors' scripts do, with their defects; see the docstring
of each rule for its source.
"""

import pytest

from dpo_video.benchmarks.published_rules import (
    eventhallusion,
    longvideobench,
    mlvu,
    mvbench,
    tempcompass_caption_matching,
    tempcompass_multi_choice,
    tempcompass_yes_no,
    tvbench,
    videohallucer,
    videomme,
    vidhalluc_binary,
    vidhalluc_multi_choice,
    vinoground,
)
from dpo_video.benchmarks.readings import ReadingRule
from dpo_video.core.records import Sample

CATS = ["A. a cat", "B. a dog"]
CANDIDATES = ["(A) a cat", "(B) a dog", "(C) a cow"]


def yes_no(answer: str) -> Sample:
    return Sample(id="q", video="v.mp4", prompt="?", answer=answer, answer_kind="yes_no")


def letter(answer: str, options: list[str]) -> Sample:
    return Sample(
        id="q", video="v.mp4", prompt="?", answer=answer, answer_kind="letter", options=options
    )


def check(rule: ReadingRule, gold: Sample, rows: list[tuple[str, str | None, bool]]) -> None:
    for answer, parsed, correct in rows:
        reading = rule(gold, answer)
        assert (reading.parsed, reading.correct) == (parsed, correct), answer


def test_videohallucer_looks_for_the_gold_word_anywhere() -> None:
    rows = [
        ("Yes.", "yes", True),
        ("I would say YES here", "yes", True),
        ("No, well, yes", "yes", True),
        ("No.", "no", False),
        ("Yesterday", None, False),
        ("", None, False),
    ]
    check(videohallucer, yes_no("yes"), rows)
    assert videohallucer(yes_no("no"), "No, well, yes").correct, "right for either gold answer"


@pytest.mark.parametrize("rule", [eventhallusion, tempcompass_yes_no])
def test_an_answer_that_starts_with_no_is_a_no(rule: ReadingRule) -> None:
    rows = [
        ("No.", "no", True),
        ("Not sure.", "no", True),
        ("Nothing unexpected happens", "no", True),
        ("yes", "yes", False),
        (" No", None, False),
        ("It is no", None, False),
    ]
    check(rule, yes_no("no"), rows)


def test_the_end_token_of_an_old_tokenizer_is_taken_out() -> None:
    assert tempcompass_yes_no(yes_no("no"), "</s>No").correct
    assert not eventhallusion(yes_no("no"), "</s>No").correct


def test_tempcompass_takes_a_letter_alone_or_with_its_mark() -> None:
    gold = letter("B", CATS)
    rows = [
        ("B. a dog", "B", True),
        ("B", "B", True),
        ("B</s>", "B", True),
        ("B) a cat", "B", True),
        ("A. a dog", "A", False),
        ("A.B", "A", False),
        ("b", None, False),
        ("(B)", None, False),
        ("E.", None, False),
        ("", None, False),
    ]
    check(tempcompass_multi_choice, gold, rows)


def test_tempcompass_matches_a_caption_by_line_sentence_label_or_letter() -> None:
    options = ["Caption A: A cat sleeps.", "Caption B: A cat runs."]
    gold = letter("B", options)
    rows = [
        (options[1], "B", True),
        ("A cat runs.", "B", True),
        ("(B) A cat runs.", "B", True),
        ("Caption B", "B", True),
        ("Caption B.", "B", True),
        (" B. ", "B", True),
        ("A", "A", False),
        ("Caption A: A cat runs.", None, False),
        ("A cat runs", None, False),
    ]
    check(tempcompass_caption_matching, gold, rows)


def test_mvbench_compares_the_first_word_with_the_gold_letter() -> None:
    gold = letter("B", CANDIDATES)
    rows = [
        ("(B) A dog runs.", "(b)", True),
        ("B", "b", True),
        ("B. a cat", "b.", True),
        ("b) yes", "b)", True),
        ("(A)", "(a)", False),
        ("A dog", "a", False),
        ("The dog", "the", False),
        ("I, not", None, False),
    ]
    check(mvbench, gold, rows)


def test_mlvu_takes_what_stands_before_the_first_bracket() -> None:
    """Its model goes on behind `Best option:(`."""
    rows = [
        ("B) a dog", "B", True),
        ("B", "B", True),
        ("A) a cat", "A", False),
        ("(B) a dog", None, False),
        ("B. a dog", None, False),
        ("b)", None, False),
        ("D)", None, False),
        ("", None, False),
    ]
    check(mlvu, letter("B", CANDIDATES), rows)


def test_tvbench_takes_the_first_letter_that_stands_alone_in_any_case() -> None:
    rows = [
        ("B", "B", True),
        ("(b)", "B", True),
        ("A dog runs after (B)", "A", False),
        ("Bees", "B", True),
        ("I see the dog", None, False),
        ("Why, the dog.", "B", True),
        ("", None, False),
    ]
    check(tvbench, letter("B", ["A. the cat", "B. the dog."]), rows)
    assert tvbench(letter("B", ["A. the cat", "B. the dog"]), "It is the dog").parsed == "B"
    assert tvbench(letter("A", ["A. dog", "B. the dog"]), "It is the dog").parsed is None


@pytest.mark.parametrize("rule", [videomme, longvideobench])
def test_the_first_capital_counts_whatever_word_it_opens(rule: ReadingRule) -> None:
    rows = [
        ("B", "B", True),
        ("(B) a dog", "B", True),
        ("The best answer is B.", "B", True),
        ("The answer is: B", "B", True),
        ("A dog, so B", "A", False),
        ("Blue", "B", True),
        ("b", None, False),
        ("", None, False),
    ]
    check(rule, letter("B", ["A. a cat", "B. a dog"]), rows)


def test_two_phrases_of_videomme_lack_a_comma_and_are_never_taken_out() -> None:
    """`Best option:` begins with a B; LongVideoBench's list has the commas."""
    gold = letter("C", ["A. a", "B. b", "C. c", "D. d"])
    assert videomme(gold, "Best option: C").parsed == "B"
    assert longvideobench(gold, "Best option: C").parsed == "C"


def test_videomme_has_four_letters_and_longvideobench_five() -> None:
    gold = letter("E", ["A. a", "B. b", "C. c", "D. d", "E. e"])
    assert videomme(gold, "E").parsed is None and longvideobench(gold, "E").correct


def test_vidhalluc_takes_what_stands_before_the_first_stop_and_comma() -> None:
    rows = [
        ("Yes", "yes", True),
        (" yes. It is.", "yes", True),
        ("YES, it is", "yes", True),
        ("No.", "no", False),
        ("Yes it is", None, False),
        ("**Yes**", None, False),
        ("", None, False),
    ]
    check(vidhalluc_binary, yes_no("yes"), rows)


def test_all_letters_of_a_vidhalluc_answer_together_are_the_gold_ones() -> None:
    rows = [
        ("A, C", "AC", True),
        ("C and A", "AC", True),
        ("A", "A", False),
        ("A. cuts C. stirs", "AC", True),
        ("A man cuts (C)", "AC", True),
        ("AC", None, False),
        ("The man stirs.", "C", False),
        ("nothing", None, False),
    ]
    check(vidhalluc_multi_choice, letter("AC", ["A. Cuts", "B. Bakes", "C. Stirs"]), rows)


def test_vinoground_takes_the_first_character() -> None:
    rows = [
        ("B", "B", True),
        ("b. the second", "B", True),
        ("A man", "A", False),
        ("(B)", None, False),
        (" B", None, False),
        ("", None, False),
    ]
    check(vinoground, letter("B", ["A", "B"]), rows)
