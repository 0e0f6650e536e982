"""Judging and generating on a real Ray of two workers on this machine: the same rows and keys as
without it.
"""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is an extra of 200 MB: pip install 'dpo-video[ray]'")

import ray
from clips import write_clip
from generation_runs import make_recipe, run_generate, write_data
from judge_server import completion, judge_server, make_items
from tiny_judge import random_judge

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.progress import ProgressState, watch_progress
from dpo_video.core.ray_cluster import STARTS, start_ray
from dpo_video.core.records import Sample
from dpo_video.judge.ask import KIND
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.stage import judge_candidates
from dpo_video.recipe import JudgeSettings
from dpo_video.store import RunStore

TESTS = Path(__file__).parents[1]


WITHOUT_LIMITS = {
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_memory_monitor_refresh_ms": "0",
}
"""On a busy machine a worker starts late, and what others hold in memory would end ours."""


@pytest.fixture(scope="module", autouse=True)
def two_workers():
    """Start Ray with two CPUs, and so two workers, whose processes find the tests' modules too."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS / "support"), str(TESTS / "core")])
    settings = {
        "num_cpus": 2,
        "object_store_memory": 100 * 2**20,
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": "ERROR",
        "address": "local",
        "runtime_env": {"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in WITHOUT_LIMITS.items():
            patch.setenv(name, value)
        start_ray(partial(ray.init, **settings), ray.shutdown)
        yield
        ray.shutdown()


@pytest.mark.parametrize("num_late", [STARTS - 1, STARTS])
def test_ray_that_is_not_there_in_time_is_started_again(num_late):
    """What Ray raises then stands in its node.py."""
    calls = []

    def start():
        calls.append("start")
        if calls.count("start") <= num_late:
            raise Exception("The current node timed out during startup. This could happen.")

    stop = partial(calls.append, "stop")
    if num_late < STARTS:
        start_ray(start, stop)
        assert calls == [*["start", "stop"] * num_late, "start"]
    else:
        with pytest.raises(UserError, match=r"could not be started on this machine in 3 tries"):
            start_ray(start, stop)
        assert calls == ["start", "stop"] * STARTS


def last_bar(work):
    """Return what `work` does, and how far its one bar was at its end."""
    states: list[ProgressState] = []
    with watch_progress(states.append):
        done = work()
    (state,) = [state for state in states if state.is_over]
    return done, (state.done, state.total, state.counts)


def judged(folder, items, scorer="hound_quality", **settings):
    with RunStore(folder) as store:
        rows = judge_candidates(
            JudgeSettings(**settings), load_scorer(scorer), items, store
        ).judgments
        return list(rows.values()), dict(store.rows(KIND))


def test_workers_that_ask_a_server_answer_as_one_process_does_and_only_what_is_missing(tmp_path):
    items = make_items(15, 2)
    with judge_server() as server:
        settings = {
            "backend": "openai",
            "model": "m",
            "base_url": server.url,
            "concurrency": 4,
            "retries": 2,
        }
        alone, stored = judged(tmp_path / "alone", items, **settings)
        judged(tmp_path / "ray", items[:10], **settings)
        asked = len(server.requests)
        spread, stored_too = judged(tmp_path / "ray", items, **settings, engine="ray")
        assert len(server.requests) == asked + 20, "stored rows are not asked again"
    assert spread == alone
    assert stored_too.keys() == stored.keys()
    assert len({row.score for row in spread}) > 1


def test_money_is_spent_up_to_the_cap_and_a_first_few_replies(tmp_path):
    """Four are asked for before a price is known; by theirs, seven more fit."""
    (tmp_path / "prices.yaml").write_text("m: {input: 10, output: 10}\n")
    usage = {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}
    with (
        judge_server(lambda *_: completion("Score: 4", usage=usage)) as server,
        pytest.raises(UserError, match=r"judge\.max_cost is 0\.011 US dollars"),
    ):
        judged(
            tmp_path / "run",
            make_items(60, 1),
            backend="openai",
            model="m",
            base_url=server.url,
            concurrency=4,
            engine="ray",
            max_cost=0.011,
            prices=str(tmp_path / "prices.yaml"),
        )
    assert len(server.requests) == 11


def test_what_a_user_must_mend_is_told_by_the_worker_that_met_it(tmp_path):
    with (
        judge_server(lambda *_: completion("Verdict: A")) as server,
        pytest.raises(UserError, match="answers without label probabilities"),
    ):
        judged(
            tmp_path,
            make_items(1),
            "caption_support",
            backend="openai",
            model="m",
            base_url=server.url,
            engine="ray",
        )


def test_a_local_judge_on_two_workers_reads_the_same_label_probabilities(tmp_path):
    """One prompt is longer than the judge's context: it is counted in the bar, too."""
    model = random_judge(tmp_path / "model")
    settings = {
        "backend": "local",
        "model": str(model),
        "device": "cpu",
        "dtype": "float32",
        "batch_size": 2,
    }
    items = make_items(6)
    sample, candidate = items[2]
    items[2] = sample, replace(candidate, text="a dog jumps " * 400)
    (alone, stored), bar = last_bar(
        lambda: judged(tmp_path / "alone", items, "caption_score", **settings)
    )
    (spread, stored_too), bar_too = last_bar(
        lambda: judged(tmp_path / "ray", items, "caption_score", **settings, engine="ray")
    )
    assert stored_too.keys() == stored.keys()
    for one, other in zip(alone, spread, strict=True):
        assert (one.candidate_id, one.judge) == (other.candidate_id, other.judge)
        assert one.reason == other.reason and one.status == other.status
        assert one.distribution == pytest.approx(other.distribution, abs=1e-5)
    assert [row.status for row in spread].count("refused") == 1
    assert spread[2].reason.startswith("context length")
    for done, total, counts in (bar, bar_too):
        assert (done, total) == (6, 6) and counts.startswith("failed 1")


def test_policies_on_two_workers_write_the_same_candidates_and_report_what_they_cannot(tmp_path):
    """A clip is bad, and of the samples of another one is longer than the context."""
    data = tmp_path / "data"
    data.mkdir()
    write_data(data)
    (data / "3.mp4").write_bytes(b"no film")
    samples = list(read_jsonl(data / "samples.jsonl", Sample))
    long_prompt = "what happens ? " * 1400
    samples.append(replace(samples[0], id="long", prompt=long_prompt))
    write_jsonl(data / "samples.jsonl", samples)
    recipe = {"data": {"max_bad_fraction": 0.5}}
    (counts, alone), bar = last_bar(
        lambda: run_generate(make_recipe(tmp_path / "alone", data, **recipe))
    )
    (spread_counts, spread), spread_bar = last_bar(
        lambda: run_generate(
            make_recipe(tmp_path / "ray", data, generate={"engine": "ray"}, **recipe)
        )
    )
    assert spread == alone and len(alone) == 8
    assert spread_counts == counts
    assert (counts["bad_clips"], counts["samples_over_context"]) == (1, 1)
    assert spread_bar == bar == (14, 14, "bad_clips 1  samples_over_context 1")
    write_clip(data / "3.mp4", 30)
    again, candidates = run_generate(make_recipe(tmp_path / "ray", data))
    assert again["reused"] == 8 and len(candidates) == 12
