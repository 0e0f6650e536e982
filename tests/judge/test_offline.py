"""Judging without calls: stored replies read again, batch files sent to a server by a runner."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from judge_runs import exported, judge_command, write_run
from judge_server import (
    Answer,
    completion,
    failure,
    free_port,
    judge_server,
    make_items,
    steady_score,
)

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Candidate
from dpo_video.judge.batch_files import BatchFiles, Results
from dpo_video.judge.offline import judge_with_results, write_batches
from dpo_video.recipe.file import load_recipe
from dpo_video.run import open_run
from dpo_video.store import RunStore


def send(requests: Path, url: str) -> list[dict]:
    """Do what a batch service does: send each line of a file to a server, and return its output
    lines.
    """
    lines = []
    for line in requests.read_text().splitlines():
        row = json.loads(line)
        assert (row["method"], row["url"]) == ("POST", "/v1/chat/completions")
        request = urllib.request.Request(
            url.removesuffix("/v1") + row["url"],
            json.dumps(row["body"]).encode(),
            {"content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                status, body = response.status, json.load(response)
        except urllib.error.HTTPError as error:
            status, body = error.code, json.load(error)
        lines.append(
            {
                "id": "batch_req_1",
                "custom_id": row["custom_id"],
                "error": None,
                "response": {"status_code": status, "request_id": "r", "body": body},
            }
        )
    return lines


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scores(recipe: Path) -> list[float | None]:
    return [row.score for row in exported(recipe)]


def test_scores_are_read_again_from_stored_replies_without_a_server(tmp_path):
    """The server is gone; one candidate came after it; another scorer file reads the same replies
    on its own scale.
    """
    items = make_items(5)
    with judge_server() as server:
        recipe = write_run(tmp_path, items, server.url)
        assert judge_command(recipe).returncode == 0
    before = exported(recipe)
    late = Candidate(
        id="s4#1", sample_id="s4", text="a late answer", model="m", settings="h", seed=0
    )
    write_jsonl(
        tmp_path / "runs" / "r" / "candidates.jsonl", [*(candidate for _, candidate in items), late]
    )
    done = judge_command(recipe, "--reparse", "judge.base_url=https://judge.example/v1")
    assert done.returncode == 0, done.stderr
    after = exported(recipe)
    assert after[:-1] == before
    assert (after[-1].candidate_id, after[-1].status, after[-1].reason, after[-1].score) == (
        "s4#1",
        "unscored",
        "no stored reply",
        None,
    )
    assert (
        "candidates 6, scored 5, unscored 1" in done.stdout
        and "reasons: no stored reply 1" in done.stdout
    )
    with RunStore(tmp_path / "runs" / "r") as store:
        assert len(list(store.rows("judgment"))) == 5, "what was not asked is not stored"
    with judge_server() as server:
        assert judge_command(recipe, f"judge.base_url={server.url}").returncode == 0
        assert len(server.requests) == 1
    assert exported(recipe)[-1].status == "scored"


def test_reparsing_a_local_judge_loads_no_model(tmp_path):
    """Its weights are no weights at all: loading them would fail. Without any reply nothing can be
    scored.
    """
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"no weights")
    recipe = write_run(
        tmp_path, make_items(2), None, backend="local", model=str(model), device="cpu"
    )
    done = judge_command(recipe, "--reparse")
    assert done.returncode == 2
    assert "none of the 2 candidates got a score: no stored reply (2)" in done.stderr


def test_a_batch_is_written_sent_and_taken_in(tmp_path):
    """Two of seven are answered before. The batch loses one, its service fails at one; a second run
    asks for both.
    """
    items = make_items(7)
    with judge_server() as server:
        recipe = write_run(tmp_path, items[:2], server.url)
        assert judge_command(recipe).returncode == 0
        write_run(tmp_path, items, server.url)
        asked = tmp_path / "ask.jsonl"
        done = judge_command(recipe, "--batch-out", str(asked))
        assert (done.returncode, done.stdout.split()) == (0, ["batch:", str(asked)]), done.stderr
        assert len(server.requests) == 2, "nothing is sent"
        bodies = [json.loads(line)["body"] for line in asked.read_text().splitlines()]
        live = {**server.requests[0], "messages": None}
        assert len(bodies) == 5 and all({**body, "messages": None} == live for body in bodies)
        again = judge_command(recipe, "--batch-out", str(asked))
        assert again.returncode == 2 and "exists already" in again.stderr

        rows = send(asked, server.url)
        lost = rows.pop()
        rows[0]["response"] = {
            "status_code": 500,
            "body": {"error": {"message": "oops", "code": "server_error"}},
        }
        rows[1]["response"], rows[1]["error"] = (
            None,
            {"code": "batch_expired", "message": "too late"},
        )
        first = write_lines(
            tmp_path / "first.jsonl", [*rows, rows[2], {**rows[2], "custom_id": "of-another-run"}]
        )
        sent = len(server.requests)
        done = judge_command(recipe, "--batch-in", str(first))
        assert done.returncode == 0, done.stderr
        assert (
            "batch: results 6, stored 2, duplicates 1, unknown ids 1, HTTP 500: server error 1, "
            "batch expired 1" in done.stdout
        )
        assert len(server.requests) == sent + 3, "what the batch did not answer is asked as usual"
        assert lost["custom_id"] not in first.read_text()
    expected = [steady_score(body["messages"][0]["content"]) for body in bodies]
    assert scores(recipe)[2:] == expected
    done = judge_command(recipe, "--batch-out", str(tmp_path / "none.jsonl"))
    assert "nothing to ask" in done.stdout and not (tmp_path / "none.jsonl").exists()


def test_label_probabilities_come_through_a_batch(tmp_path):
    def labelled(prompt: str, attempt: int) -> Answer:
        return completion("Verdict: A", top={"A": -0.25, "B": -1.6})

    with judge_server(labelled) as server:
        recipe = write_run(tmp_path, make_items(2), server.url, scorer="caption_support")
        assert judge_command(recipe, "--batch-out", str(tmp_path / "ask.jsonl")).returncode == 0
        answers = write_lines(tmp_path / "answers.jsonl", send(tmp_path / "ask.jsonl", server.url))
        sent = len(server.requests)
        done = judge_command(
            recipe,
            "--batch-in",
            str(answers),
            f"judge.base_url=http://127.0.0.1:{free_port()}/v1",
        )
        assert done.returncode == 0, done.stderr
        batched = exported(recipe)
        assert all(row.distribution for row in batched) and len(server.requests) == sent
        assert (
            judge_command(
                write_run(tmp_path / "live", make_items(2), server.url, scorer="caption_support")
            ).returncode
            == 0
        )
    live = exported(tmp_path / "live" / "recipe.yaml")
    assert [row.distribution for row in batched] == [row.distribution for row in live]


def take_in(recipe: Path, results: Path) -> dict:
    """Do the judge stage with the results of a batch, in this process: it is faster."""
    with open_run(load_recipe(str(recipe), [])) as run:
        return dict(judge_with_results(run, [results]).counts)


def batch_of(recipe: Path, out: Path, server_url: str) -> list[dict]:
    with open_run(load_recipe(str(recipe), [])) as run:
        write_batches(run, out)
    return send(out, server_url)


def test_results_are_stored_before_a_server_is_needed_and_refusals_are_results(
    tmp_path, monkeypatch, capsys
):
    """A batch of `vllm run-batch`, without server or key: two lines say, each in its way, that a
    prompt is too long.

    The result of the third prompt is lost, so the first command ends at the missing key, with all
    others stored.
    """
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    recipe = write_run(tmp_path, make_items(30), None)
    with judge_server() as server:
        rows = batch_of(recipe, tmp_path / "ask.jsonl", server.url)
    error = {
        "message": "This model's maximum context length is 40 tokens",
        "type": "BadRequestError",
        "code": 400,
    }
    rows[0] |= {"response": {"status_code": 400}, "error": {"error": error}}
    rows[1] |= {"response": {"status_code": 400, "body": {"error": error}}, "error": None}
    with pytest.raises(UserError, match="no API key"):
        take_in(recipe, write_lines(tmp_path / "part.jsonl", [*rows[:2], *rows[3:]]))
    assert "29 results are stored" in capsys.readouterr().err
    with RunStore(tmp_path / "runs" / "r") as store:
        stored = dict(store.rows("judgment"))
    assert stored.keys() == {row["custom_id"] for row in rows} - {rows[2]["custom_id"]}
    assert {row["custom_id"] for row in rows[:2]} == {
        key for key, row in stored.items() if row["status"] == "refused"
    }
    summary = take_in(recipe, write_lines(tmp_path / "rest.jsonl", rows[2:3]))
    assert (summary["scored"], summary["refused"], summary["reasons"]) == (
        28,
        2,
        {"context length": 2},
    )


def test_a_batch_that_was_refused_as_a_whole_is_not_stored(tmp_path):
    """A setting that its server does not know: refusals that are stored would not be asked
    again.
    """
    recipe = write_run(tmp_path, make_items(25), None)
    with judge_server(lambda *_: failure(400, "unknown field max_tokens")) as server:
        rows = batch_of(recipe, tmp_path / "ask.jsonl", server.url)
    with pytest.raises(
        UserError,
        match=r"25 of 25 results refuse their prompt.* HTTP 400: unknown field max_tokens",
    ):
        take_in(recipe, write_lines(tmp_path / "answers.jsonl", rows))
    with RunStore(tmp_path / "runs" / "r") as store:
        assert list(store.rows("judgment")) == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("{}\n", r"answers\.jsonl:1: no batch result"),
        ("nonsense\n", r"answers\.jsonl:1: no batch result"),
        (
            '{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}}\n',
            "this is a request",
        ),
    ],
)
def test_what_is_no_batch_output_is_refused_with_its_line(tmp_path, lines, message):
    from dpo_video.judge.batch_files import Results

    (tmp_path / "answers.jsonl").write_text(lines)
    with pytest.raises(UserError, match=message):
        Results([tmp_path / "answers.jsonl"])


def test_files_are_split_at_the_limits_of_the_vendor(tmp_path):
    body = {"model": "m", "messages": [{"role": "user", "content": "é" * 50}]}
    with BatchFiles(path=tmp_path / "ask.jsonl", max_requests=3) as files:
        for number in range(8):
            files.add(f"k{number}", body)
    assert [path.name for path in files.written] == [f"ask-0000{n}.jsonl" for n in (1, 2, 3)]
    assert [len(path.read_text().splitlines()) for path in files.written] == [3, 3, 2]
    assert files.requests == 8
    size = len(files.written[0].read_bytes()) // 3
    with BatchFiles(path=tmp_path / "small" / "ask.jsonl", max_bytes=2 * size) as files:
        for number in range(5):
            files.add(f"k{number}", body)
    assert [len(path.read_text().splitlines()) for path in files.written] == [2, 2, 1]
    assert all(path.stat().st_size <= 2 * size for path in files.written)
    with (
        pytest.raises(UserError, match=r"ask-00001\.jsonl' exists already"),
        BatchFiles(path=tmp_path / "ask.jsonl"),
    ):
        pass
    with pytest.raises(ZeroDivisionError), BatchFiles(path=tmp_path / "broken.jsonl") as files:
        files.add("k", body)
        raise ZeroDivisionError
    assert not list(tmp_path.glob("*broken*"))


def test_batches_of_a_local_judge_are_refused_and_one_option_at_a_time(tmp_path):
    recipe = write_run(
        tmp_path, make_items(1), None, backend="local", model="toy:judge", device="cpu"
    )
    done = judge_command(recipe, "--batch-out", str(tmp_path / "ask.jsonl"))
    assert done.returncode == 2 and "judge.backend is local" in done.stderr
    done = judge_command(recipe, "--batch-out", "x", "--reparse")
    assert done.returncode == 2 and "give one of them" in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"custom_id": "a", "response": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"custom_id": ["a"], "response": {}}',
        b'{"custom_id": 5, "response": {}}',
        b'{"custom_id": "\xff"}',
        b'{"custom_id": "a", "n": ' + b"9" * 5000 + b"}",
        b"5",
    ],
)
def test_a_line_that_is_no_result_is_told_by_file_and_line(tmp_path, line):
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"custom_id": "b", "response": null, "error": "x"}\n' + line + b"\n")
    with pytest.raises(UserError, match=r"results.jsonl:2: no batch result"):
        Results([path])
