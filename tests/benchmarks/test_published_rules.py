"""Published rules read answers as their authors' scripts do, with their defects; see the docstring
of each rule for its source.
"""

import pytest

from dpo_video.benchmarks.published_rules import (
    eventhallusion,
    mvbench,
    tempcompass_caption_matching,
    tempcompass_multi_choice,
    tempcompass_yes_no,
    videohallucer,
)
from dpo_video.benchmarks.questions import AnswerKind, BenchmarkQuestion, Rule


def question(
    answer: str, kind: AnswerKind = "yes_no", options: tuple[str, ...] = ()
) -> BenchmarkQuestion:
    return BenchmarkQuestion(
        id="q", video="v.mp4", text="?", prompt="?", answer=answer, kind=kind, options=options
    )


def check(rule: Rule, gold: BenchmarkQuestion, rows: list[tuple[str, str | None, bool]]) -> None:
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
    check(videohallucer, question("yes"), rows)
    assert videohallucer(question("no"), "No, well, yes").correct, "right for either gold answer"


@pytest.mark.parametrize("rule", [eventhallusion, tempcompass_yes_no])
def test_an_answer_that_starts_with_no_is_a_no(rule: Rule) -> None:
    rows = [
        ("No.", "no", True),
        ("Not sure.", "no", True),
        ("Nothing unexpected happens", "no", True),
        ("yes", "yes", False),
        (" No", None, False),
        ("It is no", None, False),
    ]
    check(rule, question("No." if rule is eventhallusion else "no"), rows)


def test_the_end_token_of_an_old_tokenizer_is_taken_out() -> None:
    assert tempcompass_yes_no(question("no"), "</s>No").correct
    assert not eventhallusion(question("No."), "</s>No").correct


def test_tempcompass_takes_a_letter_alone_or_with_its_mark() -> None:
    gold = question("B. a dog", "letter", ("A. a cat", "B. a dog"))
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
    options = ("Caption A: A cat sleeps.", "Caption B: A cat runs.")
    gold = question(options[1], "option", options)
    rows = [
        (options[1], options[1], True),
        ("A cat runs.", "A cat runs.", True),
        ("(B) A cat runs.", "A cat runs.", True),
        ("Caption B", "Caption B", True),
        ("Caption B.", "Caption B", True),
        (" B. ", "B", True),
        ("A", "A", False),
        ("Caption A: A cat runs.", None, False),
        ("A cat runs", None, False),
    ]
    check(tempcompass_caption_matching, gold, rows)


def test_mvbench_compares_the_first_word_with_the_gold_letter() -> None:
    gold = question("(B) A dog runs.", "letter")
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
