"""The table of sets, and questions that are asked without their options."""

from dataclasses import replace

from rich.console import Console

from dpo_video.core.records import AS_IT_STANDS, Sample
from dpo_video.core.report import Estimate
from dpo_video.evaluate.answers import choices_of
from dpo_video.evaluate.questions import asked_prompt
from dpo_video.evaluate.set_report import CategoryAccuracy, SetAccuracy, SetMetrics
from dpo_video.evaluate.sets_table import sets_table, unparsed_lines
from dpo_video.evaluate.summary import WIDTH


def share(value: float) -> Estimate:
    return Estimate(value=value, interval=(value - 0.1, value + 0.1), n=40)


def accuracy(value: float, *, unparsed: int) -> SetAccuracy:
    return SetAccuracy(
        n=40,
        unparsed=unparsed,
        accuracy=share(value),
        letter=share(value),
        answer_length=Estimate(value=3.0),
    )


def letters(*, unparsed: int) -> SetMetrics:
    return SetMetrics(
        questions=40,
        clips=20,
        unanswered=0,
        measured_by=["letter"],
        parser="strict",
        before=accuracy(0.5, unparsed=unparsed),
        after=accuracy(0.75, unparsed=0),
        change=accuracy(0.25, unparsed=-unparsed),
        categories={
            "motion": CategoryAccuracy(
                n=9,
                unparsed_before=unparsed,
                unparsed_after=0,
                before=share(0.4),
                after=share(0.6),
                change=share(0.2),
            )
        },
    )


def test_a_set_stands_with_its_measures_and_then_its_categories() -> None:
    console = Console(width=WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(sets_table({"choices": letters(unparsed=7)}))
    lines = [line.rstrip() for line in capture.get().splitlines() if line.strip()]
    assert [line.strip().split("  ")[0] for line in lines[-3:]] == ["choices", "letter", "motion"]
    assert " ".join(lines[-2].split()) == (
        "letter 50.0 % [40.0, 60.0] 75.0 % [65.0, 85.0] +25.0 pts [+15.0, +35.0] 40"
    )


def test_unparsed_answers_are_told_of_sets_that_have_some() -> None:
    sets = {"choices": letters(unparsed=7), "level": letters(unparsed=0)}
    assert unparsed_lines(sets) == [
        "unparsed answers of choices, counted as wrong: 7 before, 0 after"
    ]


def test_a_question_that_stands_alone_is_asked_and_chosen_without_letters() -> None:
    question = Sample(
        id="q",
        video="a.mp4",
        prompt="What colour is the circle?",
        options=["A. The circle is red.", "B. The circle is blue."],
        answer_kind="letter",
        answer="B",
    )
    alone = replace(question, meta={AS_IT_STANDS: True})
    assert asked_prompt(alone) == "What colour is the circle?"
    assert choices_of(alone) == ("The circle is red.", "The circle is blue.")
    assert "A. The circle is red." in asked_prompt(question) and choices_of(question) == ("A", "B")
