"""The conditions of `evaluate.require` on what was measured: which hold, and what is said of those
that do not.
"""

import json
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from evaluation_runs import HELDOUT, opened

from dpo_video.cli.app import show_verdict
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Sample
from dpo_video.core.report import Estimate
from dpo_video.evaluate.answer_rows import EvaluatedAnswer
from dpo_video.evaluate.report import write_metrics
from dpo_video.evaluate.require import unmet_requirements
from dpo_video.evaluate.set_report import SetAccuracy, SetMetrics
from dpo_video.evaluate.set_verdict import SetVerdict
from dpo_video.evaluate.stage import measure_answers
from dpo_video.recipe import EvaluateSettings
from dpo_video.recipe.file import load_recipe
from dpo_video.recipe.requirement import METRICS


def accuracy(value: float | None, **others: float) -> SetAccuracy:
    return SetAccuracy(
        n=100,
        unparsed=0,
        accuracy=Estimate(value=value, n=100),
        answer_length=Estimate(value=9.0, n=100),
        **{name: Estimate(value=other, n=100) for name, other in others.items()},
    )


def a_set(before: SetAccuracy, after: SetAccuracy) -> SetMetrics:
    return SetMetrics(
        questions=100,
        clips=50,
        unanswered=0,
        measured_by=["yes/no"],
        parser="strict",
        before=before,
        after=after,
        change=after,
    )


SETS = {
    "heldout": a_set(
        accuracy(0.7, hallucination_rate=0.2), accuracy(0.69, hallucination_rate=0.23)
    ),
    "empty": a_set(accuracy(None), accuracy(None)),
}
NOTHING_PAIRED: dict[str, Any] = {
    "questions": {},
    "questions_dropped": {},
    "answers": {},
    "answers_dropped": {},
}
LEVEL = SetVerdict(set="heldout", outcome="not distinguishable", sentence="heldout: level")


def test_the_metrics_that_can_be_named_are_those_of_a_set() -> None:
    estimates = [
        field.name for field in fields(SetAccuracy) if field.type in (Estimate, Estimate | None)
    ]
    assert list(METRICS) == estimates


@pytest.mark.parametrize(
    "text",
    [
        "heldout.accuracy >= before - 0.01",
        "heldout.accuracy >= 0.69",
        "heldout.accuracy <= before",
        "heldout.hallucination_rate <= before + 0.03",
        "heldout.answer_length <= 9",
        "no_regression",
    ],
)
def test_a_condition_that_holds_is_not_told(text: str) -> None:
    assert unmet_requirements([text], SETS, [LEVEL]) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("heldout.accuracy >= before - 0.005", "0.7 before, 0.69 after, off by 0.005"),
        ("heldout.accuracy >= 0.75", "0.69 after, off by 0.06"),
        ("heldout.hallucination_rate <= before + 0.02", "0.2 before, 0.23 after, off by 0.01"),
        ("heldout.all_of_group >= 0.1", "all_of_group was not measured after"),
        ("empty.accuracy >= before - 1", "accuracy was not measured after"),
        ("gone.accuracy >= before - 1", "gone was not evaluated"),
    ],
)
def test_a_condition_that_does_not_hold_says_by_how_much(text: str, why: str) -> None:
    assert unmet_requirements([text, "no_regression"], SETS, []) == [f"{text} not met: {why}"]


def test_no_regression_names_every_set_that_came_out_worse() -> None:
    worse = replace(LEVEL, set="a", outcome="worse", sentence="a: worse")
    assert unmet_requirements(["no_regression"], SETS, [worse, LEVEL]) == [
        "no_regression not met: a: worse"
    ]
    assert unmet_requirements([], SETS, [worse]) == []


def test_no_regression_is_the_default() -> None:
    assert EvaluateSettings().require == ["no_regression"]


def regressed(num_lost: int) -> list[EvaluatedAnswer]:
    """Answers to 60 yes/no questions of the set `pairs`, all right before, `num_lost` wrong
    after.
    """
    rows: list[EvaluatedAnswer] = []
    for model in ("before", "after"):
        for index in range(60):
            is_right = model == "before" or index >= num_lost
            rows.append(
                EvaluatedAnswer(
                    set="pairs",
                    model=model,  # type: ignore[arg-type]
                    sample_id=f"q{index}",
                    clip=f"{index}.mp4",
                    kind="yes_no",
                    prompt="Is there a dog?",
                    gold="yes",
                    text="Yes." if is_right else "No.",
                    parsed="yes" if is_right else "no",
                    correct=is_right,
                )
            )
    return rows


@pytest.mark.parametrize(
    ("num_lost", "require", "said"),
    [
        (15, None, "dpo-video: no_regression not met: pairs: worse, accuracy 100.0 % to 75.0 %"),
        (3, None, ""),
        (
            3,
            ["pairs.accuracy >= before - 0.01", "pairs.accuracy >= 0.99", "no_regression"],
            "dpo-video: pairs.accuracy >= before - 0.01 not met: 1 before, 0.95 after, off by 0.04"
            "\ndpo-video: pairs.accuracy >= 0.99 not met: 0.95 after, off by 0.04",
        ),
        (15, [], ""),
    ],
)
def test_a_command_ends_with_its_verdict_and_exits_with_1_where_a_condition_does_not_hold(
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    num_lost: int,
    require: list[str] | None,
    said: str,
) -> None:
    """A loss of 15 of 60 lies beyond its interval; one of 3, p 0.25, does not."""
    question = Sample(
        id="q0", video="h0.mp4", prompt="yes or no?", answer="yes", answer_kind="yes_no"
    )
    write_jsonl(tmp_path / "pairs.jsonl", [question])
    sets = [{"name": "pairs", "samples": str(tmp_path / "pairs.jsonl"), "video_root": str(world)}]
    settings: dict[str, Any] = {"sets": sets} | ({} if require is None else {"require": require})
    with opened(world, tmp_path, HELDOUT, **settings) as run:
        metrics = measure_answers(run, regressed(num_lost), [], NOTHING_PAIRED, judge=None)
        write_metrics(run.folder / "metrics.json", metrics)
    if said:
        with pytest.raises(SystemExit) as stop:
            show_verdict(run.recipe)
        assert stop.value.code == 1
    else:
        show_verdict(run.recipe)
    printed = capsys.readouterr()
    ending = printed.out[printed.out.index("verdict, worst first") :]
    assert "- heldout: not compared: no question of it is answered by both models" in ending
    assert "- pairs: " in ending
    assert printed.err.startswith(said) and bool(printed.err) == bool(said)
    with suppress(SystemExit):
        show_verdict(run.recipe, as_json=True)
    row = json.loads(capsys.readouterr().out)
    assert row == json.loads((run.folder / "metrics.json").read_text())


def test_a_condition_that_cannot_be_read_is_told_with_file_and_line(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "name: mine\nmodel: {name: toy:qwen2_5_vl}\njudge: {model: toy:judge}\n"
        "data: {samples: toy:train, heldout: toy:heldout}\n"
        "evaluate:\n  sets: [{name: pairs, samples: toy:yes_no}]\n"
        "  require: [no_regression, 'pears.accuracy >= before']\n"
    )
    with pytest.raises(UserError) as error:
        load_recipe(str(recipe))
    said = str(error.value)
    assert "mine.yaml:5" in said and "'pears.accuracy >= before': no set 'pears'" in said
    assert "Did you mean 'pairs'? Sets: heldout, pairs. Metrics: accuracy, " in said
