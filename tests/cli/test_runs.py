"""Commands that look at runs, through the command line: names of runs, JSON for programs."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from letter_answers import letter_answers
from typer.testing import CliRunner

from dpo_video.cli.app import app
from dpo_video.cli.output import only_json, print_json
from dpo_video.core.errors import UserError
from dpo_video.core.progress import open_terminal, print_line
from dpo_video.evaluate.answer_rows import write_answers
from dpo_video.recipe.file import load_recipe
from dpo_video.store import RunStore
from dpo_video.store.file_system import StoreEngine


def command(*arguments: str) -> Result:
    """Return what a command printed; it must not fail."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def write_run(name: str, *overrides: str, right: int) -> Path:
    """Write a run whose tuned model answers the first `right` of 60 questions rightly."""
    folder = Path("runs") / name
    (folder / "checkpoints" / "1").mkdir(parents=True)
    (folder / "checkpoints" / "1" / "weights").write_bytes(b"x" * 2048)
    recipe = load_recipe("quickstart", [f"name={name}", *overrides])
    stages = {"pair": {"seconds": 1.0, "summary": {"pairs": 12}}}
    (folder / "manifest.json").write_text(
        json.dumps({"recipe": recipe.model_dump(), "stages": stages})
    )
    write_answers(folder / "answers.jsonl", letter_answers(60, right=right))
    return folder


def test_where_json_is_wanted_all_else_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with only_json(wanted=True):
        print_line("a stage is done")
        open_terminal().print("a table")
    print_json({"name": "a\x9b[31mé"})
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"name": "a\x9b[31mé"}
    assert "a stage is done" in printed.err and "a table" in printed.err


@pytest.fixture
def two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs below runs/, and beside it a folder with the name of one of them."""
    monkeypatch.chdir(tmp_path)
    write_run("mine", right=20)
    write_run("other", "train.beta=0.3", right=50)
    (tmp_path / "mine").mkdir()


@pytest.mark.usefixtures("two_runs")
def test_runs_are_listed_with_what_their_folders_say() -> None:
    table = command("runs").output
    assert "mine" in table and "other" in table and "toy:qwen2_5_vl" in table
    rows = json.loads(command("runs", "--json").stdout)
    assert {(row["name"], row["pairs"]) for row in rows} == {("mine", 12), ("other", 12)}


@pytest.mark.usefixtures("two_runs")
def test_two_runs_are_compared_by_their_names() -> None:
    text = command("compare", "mine", "runs/other").output
    assert "train.beta" in text and "0.3" in text and "better" in text
    row = json.loads(command("compare", "mine", "other", "--json").stdout)
    assert row["settings"] == {"train.beta": [load_recipe("quickstart").train.beta, 0.3]}
    assert row["verdicts"][0]["outcome"] == "better" and row["only_one"] == 0


@pytest.mark.usefixtures("two_runs")
def test_the_status_of_a_run_is_told_by_its_name() -> None:
    text = command("status", "mine").output
    assert "pair" in text
    row = json.loads(command("status", "mine", "--json").stdout)
    assert row["finished"] == {"pair": 1.0}


@pytest.mark.usefixtures("two_runs")
def test_checkpoints_of_a_named_run_are_removed_and_results_kept() -> None:
    text = command("clean", "mine", "--yes").output
    assert "2.0 kB" in text or "2 kB" in text or "2.0 KiB" in text
    assert not Path("runs/mine/checkpoints").exists()
    assert Path("runs/mine/answers.jsonl").is_file() and Path("runs/other/checkpoints").exists()


@pytest.mark.parametrize("kind", ["sqlite", "segments"])
def test_clips_of_a_killed_run_or_of_rounds_are_removed_and_no_other_folder_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: StoreEngine
) -> None:
    """Where rounds share a store there is no manifest beside it, nor before a run's first end."""
    monkeypatch.chdir(tmp_path)
    base, other = Path("runs/mine"), Path("runs/data")
    with RunStore(base / "rounds" / "1", kind=kind, shared=base) as store:
        store.put("candidate", "k", {"text": "a"})
    for folder in (base, other):
        (folder / "cache" / "ab").mkdir(parents=True)
        (folder / "cache" / "ab" / "entry").write_bytes(b"x" * 2048)
    command("clean", "mine", "--yes")
    assert not (base / "cache").exists()
    with RunStore(base, kind=kind) as store:
        assert dict(store.rows("candidate")) == {"k": {"text": "a"}}
    refused = CliRunner().invoke(app, ["clean", "data", "--yes"])
    assert isinstance(refused.exception, UserError)
    assert "no manifest.json and no store in 'runs/data'" in str(refused.exception)
    assert (other / "cache" / "ab" / "entry").exists()


@pytest.mark.usefixtures("two_runs")
@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_manifest_is_told_in_one_line(text: str) -> None:
    Path("runs/mine/manifest.json").write_text(text)
    refused = CliRunner().invoke(app, ["clean", "mine", "--yes"])
    assert isinstance(refused.exception, UserError), refused.output
    assert "manifest.json' is damaged" in str(refused.exception)
    assert "\n" not in str(refused.exception) and Path("runs/mine/checkpoints").exists()


def test_a_round_that_is_under_way_keeps_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is that of the store, which lies above it."""
    monkeypatch.chdir(tmp_path)
    folder = write_run("mine/rounds/1", "store=../..", right=20)
    with RunStore(folder, shared=folder / "../.."):
        refused = CliRunner().invoke(app, ["clean", str(folder), "--yes"])
        assert isinstance(refused.exception, UserError), refused.output
        assert (folder / "checkpoints" / "1" / "weights").exists()
    command("clean", str(folder), "--yes")
    assert not (folder / "checkpoints").exists()


@pytest.mark.usefixtures("two_runs")
@pytest.mark.parametrize(
    "words",
    [
        ["agree", "none"],
        ["audit", "none"],
        ["rewards", "none"],
        ["report", "none"],
        ["review", "none"],
        ["export", "trl", "none", "--out", "x.jsonl"],
        ["status", "none"],
        ["compare", "mine", "none"],
        ["clean", "none"],
        ["merge", "none"],
        ["parity", "none", "--base-url", "http://127.0.0.1:9/v1"],
        ["agree", "mine", "--against", "none"],
    ],
)
def test_every_command_that_takes_a_run_takes_its_name_and_says_where_it_is_not(
    words: list[str],
) -> None:
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, UserError), result.output
    assert "no run folder 'none'" in str(result.exception)


@pytest.mark.usefixtures("two_runs")
def test_a_recipe_is_found_by_the_name_of_its_file() -> None:
    settings = {
        "name": "small",
        "model": {"name": "toy:qwen2_5_vl"},
        "data": {"samples": "toy:train"},
        "judge": {"model": "m"},
    }
    Path("small.yaml").write_text(json.dumps(settings))
    assert "name: small" in command("show", "small").output
    for words in (["check", "smal"], ["run", "smal"], ["frames", "a.mp4", "--recipe", "smal"]):
        result = CliRunner().invoke(app, words)
        assert isinstance(result.exception, UserError) and "smal" in str(result.exception)
