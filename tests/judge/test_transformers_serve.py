"""The judge stage over HTTP against the real `transformers serve`, which ignores logprobs."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from judge_runs import exported, start_judging, write_run
from judge_server import free_port
from tiny_judge import CAPTION, SCORES, trained_judge, write_scorer

from dpo_video.core.records import Candidate, Sample

START_SECONDS = 240


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server process and the folder of the model that it serves; both end with the module."""
    folder = trained_judge(tmp_path_factory.mktemp("served"))
    cache = tmp_path_factory.mktemp("hub")
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        str(folder),
        "--device",
        "cpu",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
    }
    with (cache / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + START_SECONDS
            while not _listens(port):
                assert process.poll() is None and time.monotonic() < end, (
                    cache / "log"
                ).read_text()[-2000:]
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1", folder
        finally:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _items() -> list[tuple[Sample, Candidate]]:
    sample = Sample(id="s", video="v.mp4", caption=CAPTION, prompt="what plays?")
    texts = [f"it is a {word}" for word in SCORES]
    return [
        (sample, Candidate(id=f"s#{k}", sample_id="s", text=text, model="m", settings="h", seed=k))
        for k, text in enumerate([*texts, texts[0]])
    ]


def test_the_judge_stage_runs_against_transformers_serve(served, tmp_path):
    """Written verdicts by the rule that the judge was trained on; the sixth candidate repeats the
    first.
    """
    url, model = served
    recipe = write_run(
        tmp_path,
        _items(),
        url,
        model=str(model),
        scorer=str(write_scorer(tmp_path)),
        score_from="verdict",
        max_tokens=16,
        concurrency=2,
    )
    out, errors = (process := start_judging(recipe)).communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "judge: candidates 6, scored 6, unscored 0, failed 0" in out
    assert [row.score for row in exported(recipe)] == [5, 4, 3, 2, 1, 5]
    assert [row.reply for row in exported(recipe)] == [
        f"Score: {score}" for score in (5, 4, 3, 2, 1, 5)
    ]


def test_a_server_that_ignores_logprobs_is_named_with_the_remedy(served, tmp_path):
    url, model = served
    recipe = write_run(
        tmp_path, _items(), url, model=str(model), scorer=str(write_scorer(tmp_path)), max_tokens=16
    )
    errors = (process := start_judging(recipe)).communicate(timeout=240)[1]
    assert process.returncode == 2
    assert "answers without label probabilities" in errors and "judge.score_from=verdict" in errors
    assert "Traceback" not in errors


def test_a_model_that_is_not_served_is_an_error_of_one_line(served, tmp_path):
    url, _ = served
    recipe = write_run(tmp_path, _items(), url, model="someone/else", concurrency=1)
    errors = (process := start_judging(recipe)).communicate(timeout=240)[1]
    assert process.returncode == 2, errors
    assert "refused each of the first 3 requests (HTTP 400)" in errors
    assert "Traceback" not in errors
