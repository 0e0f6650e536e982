"""The table at the end of a run shows the numbers of metrics.json, and says what is missing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from example_metrics import metrics
from rich.console import Console

from dpo_video.core.errors import UserError
from dpo_video.evaluate.report import metrics_row, read_metrics, write_metrics
from dpo_video.evaluate.rounds_table import print_rounds
from dpo_video.evaluate.summary import WIDTH, print_summary
from dpo_video.store import content_hash


def printed(path: Path, width: int = 2 * WIDTH) -> str:
    console = Console(
        width=width, record=True, highlight=False, file=path.with_suffix(".out").open("w")
    )
    print_summary(path, console)
    return console.export_text()


def test_the_table_shows_before_after_and_change_with_intervals(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    values = metrics()
    write_metrics(path, values)
    text = printed(path)
    assert values.change.exact_match.interval is not None
    low, high = values.change.exact_match.interval
    for part in (
        "exact match",
        "25.0 % [0.0, 50.0]",
        "75.0 % [50.0, 100.0]",
        f"+50.0 pts [{low * 100:+.1f}, {high * 100:+.1f}]",
        "judged score",
        "2.00 [2.00, 2.00]",
        "+2.00 [+2.00, +2.00]",
        "hallucination rate",
        "answer length",
        "4 won, 0 tied, 0 lost of 4",
        "100.0 % [100.0, 100.0] of 2",
        "mean margin 0.30 [0.20, 0.40]",
        "seconds: generate 61, evaluate 30; together 92",
    ):
        assert part in text, text
    assert f"metrics: {path}" in text and "unscored" not in text and "not shown" not in text


@pytest.mark.parametrize(("num_rounds", "intervals"), [(3, [3, 0]), (4, [0, 4])])
def test_intervals_of_rounds_stand_beside_the_changes_or_of_many_rounds_below_them(
    tmp_path: Path, num_rounds: int, intervals: list[int]
) -> None:
    folders = [tmp_path / str(number) for number in range(num_rounds)]
    for folder in folders:
        folder.mkdir()
        write_metrics(folder / "metrics.json", metrics())
    console = Console(record=True, width=WIDTH, markup=False)
    print_rounds(folders, console)
    lines = console.export_text().splitlines()
    start = next(index for index, line in enumerate(lines) if "judged score" in line)
    assert lines[start].count("4.00") == lines[start + 1].count(" +2.00 ") == num_rounds
    assert [lines[start + step].count("[+2.00, +2.00]") for step in (1, 2)] == intervals


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_metrics(path, metrics(hallucination=None, missing=1))
    text = printed(path)
    assert "hallucination rate" not in text
    assert "3 won, 0 tied, 0 lost of 4, 1 unscored" in text
    assert "win rate 100.0 % [100.0, 100.0], with the 1 unscored 75.0 % to 100.0 %" in text
    assert "unscored answers after, left out: 1 of 4 by the scorer\n" in text
    assert "1 of 5 held-out questions have no answer: their clips cannot be read" in text


def test_a_rate_with_unscored_answers_stands_with_what_they_could_make_of_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics.json"
    write_metrics(path, metrics(missing=1))
    assert (
        "unscored answers after, left out: 1 of 4 by the scorer, 1 of 4 by the hallucination "
        "scorer (with them its rate is 0.0 % to 25.0 %)"
    ) in printed(path)


def test_a_rate_where_nothing_was_scored_is_a_dash(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_metrics(path, metrics(missing=4))
    text = printed(path)
    (row,) = [line for line in text.splitlines() if line.startswith("  hallucination rate")]
    assert row.split() == ["hallucination", "rate", "75.0", "%", "[50.0,", "100.0]", "-", "-", "0"]
    assert "0 won, 0 tied, 0 lost of 4, 4 unscored; win rate -, at equal length -" in text
    assert "4 of 4 by the scorer, 4 of 4 by the hallucination scorer\n" in text


def test_numbers_of_an_adapter_that_is_gone_or_replaced_say_so(tmp_path: Path) -> None:
    path, weights = tmp_path / "metrics.json", tmp_path / "adapter" / "adapter_model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"measured")
    write_metrics(path, replace(metrics(), adapter=content_hash(weights.parent)))
    assert "another adapter" not in printed(path)
    weights.write_bytes(b"trained since")
    assert "warning: these numbers are of another adapter than" in printed(path)
    weights.unlink()
    weights.parent.rmdir()
    assert "Make them anew: dpo-video evaluate RECIPE" in printed(path)
    write_metrics(path, metrics())
    assert "another adapter" not in printed(path), "a file that does not say which"


def test_where_exact_match_misleads_its_row_is_hidden_and_a_line_says_why(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_metrics(path, replace(metrics(), exact_match_hidden="answers are sentences"))
    lines = printed(path).splitlines()
    assert [line for line in lines if "exact match" in line] == [
        "exact match is not shown: answers are sentences"
    ]
    assert json.loads(path.read_text())["before"]["exact_match"] == 0.25


@pytest.mark.parametrize("missing", [0, 1, 4])
def test_a_file_is_read_as_what_was_written(tmp_path: Path, missing: int) -> None:
    path = tmp_path / "metrics.json"
    values = metrics(missing=missing)
    write_metrics(path, values)
    assert read_metrics(path) == values


def test_the_layout_of_the_file_is_flat(tmp_path: Path) -> None:
    row = metrics_row(metrics(missing=1))
    assert list(row) == [
        "before",
        "after",
        "change",
        "judged",
        "heldout_pairs",
        "heldout",
        "sets",
        "verdicts",
        "seconds",
    ]
    assert row["after"] == {
        "n": 4,
        "exact_match": 0.75,
        "exact_match_ci": [0.5, 1.0],
        "exact_match_n": 4,
        "judged_score": 4.0,
        "judged_score_ci": [4.0, 4.0],
        "judged_score_n": 3,
        "judged_score_unscored": 1,
        "hallucination_rate": 0.0,
        "hallucination_rate_ci": [0.0, 0.0],
        "hallucination_rate_n": 3,
        "hallucination_rate_unscored": 1,
        "hallucination_rate_bounds": [0.0, 0.25],
        "answer_length": 30.0,
        "answer_length_ci": [30.0, 30.0],
        "answer_length_n": 4,
    }
    assert row["judged"]["win_rate_bounds"] == [0.75, 1.0]
    assert row["heldout_pairs"]["questions"] == {"in": 4, "out": 2}


def test_a_file_that_calls_it_accuracy_is_read_too(tmp_path: Path) -> None:
    """As versions before the exact match had its name."""
    path = tmp_path / "metrics.json"
    write_metrics(path, metrics())
    path.write_text(path.read_text().replace('"exact_match', '"accuracy'))
    assert read_metrics(path) == metrics()


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    for text in ("{", "[]", "{}", '{"before": {"n": 1}}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"metrics\.json' is damaged .* Delete it and make it"):
            read_metrics(path)


def test_a_run_without_metrics_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make them first: dpo-video evaluate RECIPE"):
        print_summary(tmp_path / "metrics.json")
