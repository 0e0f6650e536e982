"""How the conditions of `evaluate.require` are written, and what is said of those that are not."""

import pytest

from dpo_video.recipe.requirement import parse_requirement

SETS, METRICS = ("heldout", "video-hallucer"), ("accuracy", "hallucination_rate")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("heldout.accuracy >= before - 0.01", ("heldout", "accuracy", ">=", True, -0.01)),
        ("video-hallucer.accuracy>=before", ("video-hallucer", "accuracy", ">=", True, 0.0)),
        (
            "heldout.hallucination_rate <= before+2e-2",
            ("heldout", "hallucination_rate", "<=", True, 0.02),
        ),
        (" heldout.accuracy >= 0.5 ", ("heldout", "accuracy", ">=", False, 0.5)),
        ("heldout.accuracy <= -1", ("heldout", "accuracy", "<=", False, -1.0)),
    ],
)
def test_a_condition_says_set_metric_sign_and_bound(
    text: str, expected: tuple[str, str, str, bool, float]
) -> None:
    parsed = parse_requirement(text, sets=SETS, metrics=METRICS)
    assert parsed is not None and parsed.text == text.strip()
    assert expected == (
        parsed.set_name,
        parsed.metric,
        parsed.sign,
        parsed.is_relative,
        parsed.bound,
    )


def test_no_regression_is_a_condition_on_all_sets() -> None:
    assert parse_requirement("no_regression", sets=SETS, metrics=METRICS) is None


@pytest.mark.parametrize(
    "text",
    [
        "heldout.accuracy > 0.5",
        "heldout.accuracy >= after",
        "heldout.accuracy >= before - 1 %",
        "heldout.accuracy >= before * 2",
        "heldout.accuracy >= before - -0.01",
        "accuracy >= 0.5",
        "heldout.accuracy >= 0.5, heldout.accuracy <= 0.9",
        "heldout.accuracy >= nan",
        "no regression",
        "",
    ],
)
def test_what_is_written_otherwise_is_named_with_the_forms_and_the_names(text: str) -> None:
    with pytest.raises(ValueError, match="cannot read") as error:
        parse_requirement(text, sets=SETS, metrics=METRICS)
    said = str(error.value)
    assert repr(text) in said and "`SET.METRIC >= before - 0.01`" in said
    assert "Sets: heldout, video-hallucer. Metrics: accuracy, hallucination_rate" in said


def test_an_unknown_set_or_metric_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no set 'heldut'. Did you mean 'heldout'\?"):
        parse_requirement("heldut.accuracy >= 0.5", sets=SETS, metrics=METRICS)
    with pytest.raises(ValueError, match=r"no metric 'accurcy'. Did you mean 'accuracy'\?"):
        parse_requirement("heldout.accurcy >= 0.5", sets=SETS, metrics=METRICS)
