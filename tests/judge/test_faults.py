"""Judging against a failing server, killed at random points (`scripts/fuzz_judge.py` does it a
hundred times).
"""

import pytest
from fault_server import answers_as_another, fault_of, ignores_logprobs, passing_faults
from judge_fuzz import fuzz
from judge_runs import write_run
from judge_server import judge_server, make_items

from dpo_video.core.errors import UserError
from dpo_video.judge.ask import KIND
from dpo_video.judge.stage import judge
from dpo_video.recipe.file import load_recipe
from dpo_video.run import open_run


def test_the_faults_are_all_met_and_the_same_each_time():
    prompts = [f"prompt {number}" for number in range(2000)]
    met = [fault_of(prompt, 1) for prompt in prompts]
    assert set(met) == {*passing_faults(0.0), None}
    assert met == [fault_of(prompt, 1) for prompt in prompts]
    assert {fault_of(prompt, 3) for prompt in prompts} == {None}


def test_a_run_killed_at_random_points_ends_as_the_undisturbed_one(tmp_path):
    result = fuzz(tmp_path, kills=4, samples=60, seed=3, stall=0.5, most_requests=120)
    assert result.kills == 4
    result.check()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (ignores_logprobs, "answers without label probabilities"),
        (answers_as_another, "answers as model 'another-model'"),
    ],
)
def test_a_server_that_cannot_be_trusted_stops_the_run_and_nothing_is_scored(
    tmp_path, answer, message
):
    with judge_server(answer) as server:
        recipe = write_run(tmp_path, make_items(8), server.url, scorer="caption_support")
        with open_run(load_recipe(str(recipe), [])) as run, pytest.raises(UserError, match=message):
            judge(run)
        assert len(server.requests) == 1
    with open_run(load_recipe(str(recipe), [])) as run:
        assert list(run.store.rows(KIND)) == []
    assert not (tmp_path / "runs" / "r" / "judgments.jsonl").exists()
