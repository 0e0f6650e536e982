"""What is shown: nothing that a server, a file name or a recipe says can steer the terminal."""

import logging
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from dpo_video.core.progress import (
    ProgressState,
    duration_text,
    log,
    open_terminal,
    print_error,
    print_line,
    progress,
    progress_text,
    watch_progress,
)
from dpo_video.core.text import printable

HOSTILE = "a\x1b]0;title\x07b\x1b[2Jc\rd\x9b31me\x00f\u202eg"
SPELT_OUT = r"a\x1b]0;title\x07b\x1b[2Jc\x0dd\x9b31me\x00f\u202eg"
WITHOUT = SPELT_OUT.replace(r"\x07", "").replace(r"\x0d", "")
"""rich itself leaves bells and carriage returns out of tables and texts."""
PACKAGE = Path(__file__).parents[2] / "dpo_video"


def test_control_characters_are_spelt_out_and_all_else_stays() -> None:
    assert printable(HOSTILE) == SPELT_OUT
    assert printable("half \ud83d") == "half \\ud83d"
    for text in ("two\nlines\tand a tab", "\xe9\u4e2d\u6587 \U0001f415 e\u0301", r"a\b [red]x[/]"):
        assert printable(text) == text


def test_lines_errors_and_notes_are_spelt_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_line(HOSTILE)
    print_error(f"[red]{HOSTILE}[/nothing]")
    log.info("note: %s", HOSTILE)
    logging.getLogger("dpo_video.train.stage").warning("train: %s", HOSTILE)
    out, err = capsys.readouterr()
    assert out == f"{SPELT_OUT}\n"
    assert err.splitlines() == [
        f"[red]{SPELT_OUT}[/nothing]",
        f"note: {SPELT_OUT}",
        f"train: {SPELT_OUT}",
    ]


def test_tables_and_bars_are_spelt_out_and_keep_their_colours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table("name", width=90)
    table.add_row(HOSTILE)
    terminal = open_terminal(width=100)
    terminal.print(table)
    terminal.print(Text(HOSTILE))
    assert terminal.width == 100
    with progress(f"generate ({HOSTILE})", total=2) as advance:
        advance(note=HOSTILE)
        advance(failed=1)
    out, err = capsys.readouterr()
    assert out.count(r"a\x1b]0;title") == 2 and r"generate (a\x1b" in err
    for text in (out, err):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    monkeypatch.setenv("FORCE_COLOR", "1")
    open_terminal().print(Text(HOSTILE, style="red"))
    assert capsys.readouterr().out == f"\x1b[31m{WITHOUT}\x1b[0m\n"


def test_a_long_note_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.info("x" * 500 + " " + "y" * 500)
    assert capsys.readouterr().err == "x" * 500 + " " + "y" * 500 + "\n"


def test_without_a_terminal_a_line_tells_how_far_it_is_and_one_that_it_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpo_video.core.progress.PLAIN_SECONDS", 0.02)
    monkeypatch.setattr("dpo_video.core.progress.TICK_SECONDS", 0.01)
    seen: list[ProgressState] = []
    waited = threading.Event()

    def watch(state: ProgressState) -> None:
        seen.append(state)
        if state.done == 4 and state.seconds > 0.05:
            waited.set()

    with watch_progress(watch), progress("judge", total=10, done=2) as advance:
        advance(2, bad_clips=1)
        assert waited.wait(60)
        advance(6)
    lines = capsys.readouterr().err.splitlines()
    assert any(re.fullmatch(r"judge: 4 of 10, .* left; bad clips 1", line) for line in lines)
    assert re.fullmatch(r"judge: 10 of 10, .*, done in 0 s; bad clips 1", lines[-1])
    assert sum("done in" in line for line in lines) == 1
    assert (seen[-1].done, seen[-1].is_over) == (10, True)


NOTHING_IS_SHOWN = """
from dpo_video.core.progress import CONSOLE, log, print_error, print_line, progress
with progress("judge", total=2) as advance:
    log.warning("a warning")
    advance(2)
with CONSOLE.status("loading"):
    print_error("an error")
print_line("worked")
"""


@pytest.mark.parametrize("stderr", ["full disk", "reader that is gone"])
def test_work_goes_on_where_nothing_can_be_shown_on_stderr(stderr: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    if stderr == "full disk":
        os.close(writer)
        writer = os.open("/dev/full", os.O_WRONLY)
    done = subprocess.run(
        [sys.executable, "-c", NOTHING_IS_SHOWN], stdout=subprocess.PIPE, stderr=writer, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stdout) == (0, b"worked\n")


def test_the_end_of_a_console_does_not_end_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Python closes the file of a console that goes."""
    terminal = open_terminal(stderr=True)
    terminal.file.close()
    assert not terminal.file.closed
    terminal.print("still here")
    assert capsys.readouterr().err == "still here\n"


def test_a_block_that_fails_is_not_told_as_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError), progress("judge", total=10) as advance:
        advance()
        raise ValueError
    assert "done" not in capsys.readouterr().err


def test_rates_and_times_are_told_in_units_that_one_can_read() -> None:
    state = ProgressState(title="a", done=5, total=10, rate=0.25, seconds=20.0, counts="")
    assert progress_text(state) == "a: 5 of 10, 4.0 s each, 20 s left"
    assert progress_text(replace(state, rate=4.04)) == "a: 5 of 10, 4.0/s, 1 s left"
    assert progress_text(replace(state, rate=None)) == "a: 5 of 10"
    times = [duration_text(seconds) for seconds in (59.4, 60, 185, 3600 * 2 + 60 * 14)]
    assert times == ["59 s", "1 min 0 s", "3 min 5 s", "2 h 14 min"]


def test_only_one_file_prints() -> None:
    """ruff refuses print() elsewhere; a console of rich's own would print as it is."""
    own = [
        path.name
        for path in PACKAGE.rglob("*.py")
        if re.search(r"\bConsole\(|sys\.std(out|err)\.write", path.read_text(encoding="utf-8"))
    ]
    assert own == ["progress.py"]
