"""Judging and generating on a real Ray of two workers on this machine: the same rows and keys as
without it.
"""

import os
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is an extra of 200 MB: pip install 'dpo-video[ray]'")

import ray
from clips import write_clip
from generation_runs import make_recipe, run_generate, write_data
from judge_server import completion, judge_server, make_items
from tiny_judge import random_judge

from dpo_video.core.errors import UserError
from dpo_video.judge.ask import KIND
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.stage import judge_candidates
from dpo_video.recipe import JudgeSettings
from dpo_video.store import RunStore

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def two_workers():
    """Start Ray with two CPUs, and so two workers, whose processes find the tests' modules too."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS / "support"), str(TESTS / "core")])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        address="local",
        runtime_env={"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}},
    )
    yield
    ray.shutdown()


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
            make_items(4),
            "caption_support",
            backend="openai",
            model="m",
            base_url=server.url,
            engine="ray",
        )


def test_a_local_judge_on_two_workers_reads_the_same_label_probabilities(tmp_path):
    model = random_judge(tmp_path / "model")
    settings = {
        "backend": "local",
        "model": str(model),
        "device": "cpu",
        "dtype": "float32",
        "batch_size": 2,
    }
    items = make_items(6)
    alone, stored = judged(tmp_path / "alone", items, "caption_score", **settings)
    spread, stored_too = judged(tmp_path / "ray", items, "caption_score", **settings, engine="ray")
    assert stored_too.keys() == stored.keys()
    for one, other in zip(alone, spread, strict=True):
        assert (one.candidate_id, one.judge) == (other.candidate_id, other.judge)
        assert one.distribution == pytest.approx(other.distribution, abs=1e-5)


def test_policies_on_two_workers_write_the_same_candidates_and_report_bad_clips(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_data(data)
    (data / "3.mp4").write_bytes(b"no film")
    recipe = {"data": {"max_bad_fraction": 0.5}}
    counts, alone = run_generate(make_recipe(tmp_path / "alone", data, **recipe))
    spread_counts, spread = run_generate(
        make_recipe(tmp_path / "ray", data, generate={"engine": "ray"}, **recipe)
    )
    assert spread == alone and len(alone) == 8
    assert spread_counts == counts and counts["bad_clips"] == 1
    write_clip(data / "3.mp4", 30)
    again, candidates = run_generate(
        make_recipe(tmp_path / "ray", data, generate={"engine": "ray"})
    )
    assert again["reused"] == 8 and len(candidates) == 12
