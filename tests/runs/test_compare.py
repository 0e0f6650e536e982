"""Two runs side by side: settings and the paired change, from their folders alone."""

import json
from pathlib import Path

import pytest
from letter_answers import letter_answers

from dpo_video.core.errors import UserError
from dpo_video.evaluate.answer_rows import write_answers
from dpo_video.recipe.file import load_recipe
from dpo_video.runs.compare import compare_runs

NUM_QUESTIONS = 60


def write_run(folder: Path, *overrides: str, right: int, extra: int = 0) -> Path:
    """Write a run whose tuned model answers the first `right` questions of a set rightly."""
    folder.mkdir(parents=True)
    recipe = load_recipe("quickstart", [f"name={folder.name}", *overrides])
    (folder / "manifest.json").write_text(json.dumps({"recipe": recipe.model_dump()}))
    answers = letter_answers(NUM_QUESTIONS + extra, right=right)
    write_answers(folder / "answers.jsonl", answers)
    return folder


def test_settings_that_differ_and_the_paired_change_between_the_tuned_models(
    tmp_path: Path,
) -> None:
    first = write_run(tmp_path / "first", right=20)
    second = write_run(tmp_path / "second", "train.beta=0.3", right=50, extra=2)
    compared = compare_runs(first, second)
    assert compared.settings == {"train.beta": (load_recipe("quickstart").train.beta, 0.3)}
    (verdict,) = compared.verdicts
    assert (verdict.outcome, verdict.n, compared.only_one) == ("better", NUM_QUESTIONS, 2)
    assert (verdict.before, verdict.after) == (pytest.approx(20 / 60), pytest.approx(50 / 60))
    (back,) = compare_runs(second, first).verdicts
    assert back.outcome == "worse"
    (same,) = compare_runs(first, first).verdicts
    assert (same.outcome, compare_runs(first, first).settings) == ("not distinguishable", {})


def test_runs_without_answers_or_common_questions_are_told(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", right=2)
    second = write_run(tmp_path / "second", right=2)
    rows = (second / "answers.jsonl").read_text().replace('"q', '"other')
    (second / "answers.jsonl").write_text(rows)
    with pytest.raises(UserError, match="no question in common"):
        compare_runs(first, second)
    (second / "answers.jsonl").unlink()
    with pytest.raises(UserError, match=r"no answers\.jsonl in .*dpo-video evaluate"):
        compare_runs(first, second)
