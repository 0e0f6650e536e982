"""Answers are judged while the next are written, and all ends as it does one stage after the
other.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from generation_runs import make_recipe, write_data
from judge_server import Answer, JudgeServer, failure, judge_server, steady

from dpo_video.core.errors import UserError
from dpo_video.judge.ahead import judges_ahead
from dpo_video.pipeline import do_stages
from dpo_video.recipe import JudgeSettings
from dpo_video.run import Run, open_run

BOTH = ["generate", "judge"]
PATIENCE = 60.0
"""Seconds that are waited for what must come."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@contextmanager
def opened(folder: Path, data: Path, server: JudgeServer, **judge: Any) -> Iterator[Run]:
    """Twelve candidates, four about each of three clips; a batch is a clip."""
    settings = {"model": "m", "base_url": server.url, "score_from": "verdict", "retries": 0}
    with open_run(make_recipe(folder, data, judge={**settings, **judge})) as run:
        yield run


def before_the_last_clip(run: Run, act: Callable[[], None]) -> None:
    """Call `act` in the place that stores the ninth candidate, before it is stored."""
    put, num_stored = run.store.put, 0

    def counted(kind: str, key: str, body: Any) -> None:
        nonlocal num_stored
        num_stored += kind == "candidate"
        if kind == "candidate" and num_stored == 9:
            act()
        put(kind, key, body)

    run.store.put = counted  # type: ignore[method-assign]


def written(run: Run) -> list[bytes]:
    return [(run.folder / name).read_bytes() for name in ("candidates.jsonl", "judgments.jsonl")]


def without_probe(server: JudgeServer) -> Counter[str]:
    """How often each prompt came; the first is that which finds out whether there is a judge."""
    return Counter(server.prompts[1:])


@pytest.fixture(scope="module")
def in_sequence(
    data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[bytes], dict[str, Any], Counter[str]]:
    """Return files, counts and prompts of one stage after the other."""
    folder = tmp_path_factory.mktemp("sequence")
    with judge_server() as server, opened(folder, data, server, while_generating=False) as run:
        do_stages(run, BOTH)
        finished = run.store.finished("judge")
        assert finished is not None
        return written(run), finished["summary"], without_probe(server)


def test_the_judge_is_asked_before_the_last_answer_is_written(
    data: Path,
    tmp_path: Path,
    in_sequence: tuple[list[bytes], dict[str, Any], Counter[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = threading.Event()

    def note(prompt: str, attempt: int) -> Answer:
        if len(server.prompts) > 1:
            asked.set()
        return steady(prompt, attempt)

    with judge_server(note) as server, opened(tmp_path, data, server) as run:
        waited: list[bool] = []
        before_the_last_clip(run, lambda: waited.append(asked.wait(PATIENCE)))
        do_stages(run, BOTH)
        finished = run.store.finished("judge")
        assert waited == [True]
        files, summary, prompts = in_sequence
        assert written(run) == files
        assert finished is not None and finished["summary"] == summary
        assert without_probe(server) == prompts and set(prompts.values()) == {1}
    assert "asked about answers while the next are written" in capsys.readouterr().err


def test_a_judge_that_fails_lets_answers_be_written_and_then_stops_the_run(
    data: Path, tmp_path: Path, in_sequence: tuple[list[bytes], dict[str, Any], Counter[str]]
) -> None:
    failed = threading.Event()

    def locked_out(prompt: str, attempt: int) -> Answer:
        if len(server.prompts) < 3:
            return steady(prompt, attempt)
        failed.set()
        return failure(401, "no such key")

    with judge_server(locked_out) as server, opened(tmp_path, data, server) as run:
        waited: list[bool] = []
        before_the_last_clip(run, lambda: waited.append(failed.wait(PATIENCE)))
        with pytest.raises(UserError, match="no such key"):
            do_stages(run, BOTH)
        assert waited == [True]
        num_asked = len(server.prompts)
        assert (run.folder / "candidates.jsonl").read_bytes() == in_sequence[0][0]
        assert run.store.finished("generate") is not None
    with judge_server() as server, opened(tmp_path, data, server) as run:
        assert do_stages(run, BOTH) == ["judge"]
        assert written(run) == in_sequence[0]
        assert len(server.prompts) < in_sequence[2].total() and num_asked < in_sequence[2].total()


def test_an_interrupted_run_goes_on_from_what_was_written_and_judged(
    data: Path, tmp_path: Path, in_sequence: tuple[list[bytes], dict[str, Any], Counter[str]]
) -> None:
    def interrupt() -> None:
        assert answered.wait(PATIENCE)
        raise KeyboardInterrupt

    answered = threading.Event()

    def note(prompt: str, attempt: int) -> Answer:
        if len(server.prompts) > 3:
            answered.set()
        return steady(prompt, attempt)

    with judge_server(note) as server:
        with opened(tmp_path, data, server) as run:
            before_the_last_clip(run, interrupt)
            with pytest.raises(KeyboardInterrupt):
                do_stages(run, BOTH)
            num_judged = len(list(run.store.rows("judgment")))
            names = {thread.name for thread in threading.enumerate()}
            assert num_judged >= 2 and "judge-ahead" not in names
        num_asked = len(server.prompts)
        with opened(tmp_path, data, server) as run:
            assert do_stages(run, BOTH) == BOTH
            assert written(run) == in_sequence[0]
        assert len(server.prompts) - num_asked == in_sequence[2].total() - num_judged


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"while_generating": False}, False),
        ({"backend": "local", "model": "toy:judge"}, False),
        ({"engine": "ray"}, False),
        ({"max_cost": 1.0, "prices": "prices.yaml"}, False),
        ({"jury": [{}, {"model": "other"}]}, False),
        ({"scorer": "caption_claims"}, False),
    ],
)
def test_it_is_for_one_reply_of_a_server_whose_cost_has_no_limit(
    settings: dict[str, Any], expected: bool
) -> None:
    assert judges_ahead(JudgeSettings(**{"model": "m", **settings})) is expected
