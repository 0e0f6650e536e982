"""Hours by stage, what judging costs, frames asked for and kept: against counts by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from check_runs import recipe_for
from clips import write_clip
from judge_server import completion, judge_server
from typer.testing import CliRunner

from dpo_video.check.calls import judge_calls, most_dollars
from dpo_video.check.command import CheckOptions, check
from dpo_video.check.devices import GPUS, Gpu
from dpo_video.check.hours import (
    WorkLoad,
    evaluate_work,
    generate_work,
    judge_work,
    served,
    train_work,
)
from dpo_video.check.plan import Calls, plan_text
from dpo_video.check.work import ModelSize, Work
from dpo_video.cli.app import app
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Sample
from dpo_video.recipe.file import load_recipe

MODEL = ModelSize(
    linear=1000, head=100, tower=50, layers=2, queries=8, cache_bytes=8, weight_bytes=2200.0
)
LOAD = WorkLoad(
    questions=3,
    clips=2,
    candidates=4,
    pairs=3,
    passes=2,
    evaluated=6,
    evaluated_clips=2,
    drawn=0,
    patches=5,
    video_tokens=20,
    question_tokens=10,
    answer_tokens=6,
    evaluated_tokens=6,
    pair_tokens=(6, 4),
    at_once=5,
    shared=True,
    computes_again=False,
    trains_tower=False,
    keeps_features=False,
)


def forward(tokens: int, *, before: int = 0, scored: int = 0) -> float:
    """Return the operations of a forward, token by token: 2 for each weight; scores and sums over
    all earlier positions and half of the token's own, 2 each for every unit of all layers' width.
    """
    total = 0.0
    for position in range(tokens):
        attended = before + position + 0.5
        total += 2 * MODEL.linear + 2 * (2 * attended * MODEL.queries)
    return total + 2 * MODEL.head * scored


def test_generate_reads_clips_and_questions_once_and_writes_every_answer() -> None:
    work = generate_work(MODEL, LOAD)
    towers = 2 * (2 * 50 * 5)
    assert work.flops == pytest.approx(towers + 2 * forward(20) + 3 * forward(10, before=20))
    answer = sum(forward(1, before=30 + token, scored=1) for token in range(6))
    assert work.written_flops == pytest.approx(12 * answer, rel=1e-3)
    assert work.layer_steps == 3 * 6 * 2  # 12 answers, 5 at a time: 3 batches of 6 steps, 2 layers


def test_writing_reads_the_weights_and_the_cache_at_every_step() -> None:
    """5 answers at a time, 6 to a clip: a prompt of 30 tokens is read once for its 6, and the
    answers' own are 3 tokens on average, 8 bytes each.
    """
    work = generate_work(MODEL, LOAD)
    assert work.written_bytes == pytest.approx(3 * 6 * (2200 + 5 * (30 / 6 + 3) * 8))


def test_without_shared_prefixes_every_answer_reads_its_own_prompt() -> None:
    work = generate_work(MODEL, replace(LOAD, shared=False))
    assert work.flops == pytest.approx(2 * (2 * 50 * 5) + 12 * forward(30))


def test_a_step_is_a_forward_and_a_backward_and_the_reference_a_forward() -> None:
    """3 pairs, twice, forward and backward, and once for the reference; 2 clips encoded 3 times."""
    pair = forward(30) + forward(6, before=30, scored=6) + forward(4, before=30, scored=4)
    work = train_work(MODEL, LOAD)
    assert work.flops == pytest.approx(pair * (3 * 2 * 2 + 3) + 2 * 3 * (2 * 50 * 5))
    again = train_work(MODEL, replace(LOAD, computes_again=True, keeps_features=True))
    assert again.flops == pytest.approx(pair * (3 * 2 * 3 + 3))
    given = train_work(MODEL, replace(LOAD, keeps_features=True, questions=0))
    assert given.flops == pytest.approx(pair * (3 * 2 * 2 + 3) + 2 * (2 * 50 * 5))
    rows = train_work(MODEL, replace(LOAD, shared=False, keeps_features=True))
    assert rows.flops == pytest.approx((pair + forward(30)) * (3 * 2 * 2 + 3))


def test_evaluation_answers_every_question_twice() -> None:
    work = evaluate_work(MODEL, LOAD)
    once = 2 * (2 * 50 * 5) + 2 * forward(20) + 6 * forward(10, before=20)
    assert work.flops == pytest.approx(2 * once)
    kept = evaluate_work(MODEL, replace(LOAD, keeps_features=True))
    assert kept.flops == pytest.approx(2 * once - 2 * (2 * 50 * 5))


def test_a_judge_of_labels_writes_nothing() -> None:
    """10 prompts of 30 tokens, the head at the last of each."""
    work = judge_work(MODEL, Calls(10, 300, 10), at_once=4)
    assert work == Work(flops=pytest.approx(10 * forward(30, scored=1)))
    written = judge_work(MODEL, Calls(10, 300, 200), at_once=4)
    assert written.layer_steps == 3 * 20 * 2


def test_a_gpu_is_taken_at_its_shares() -> None:
    gpu = Gpu(title="x", tflops=2, terabytes=1, gigabytes=10, named=("x",))
    assert gpu.seconds(Work(flops=8e12)) == pytest.approx(10)  # of 2e12 a second 40 %
    assert gpu.seconds(Work(written_bytes=5e12)) == pytest.approx(10)  # of 1e12 a second 50 %
    assert gpu.seconds(Work(written_bytes=5e12, layer_steps=20_000)) == pytest.approx(20)


def test_the_time_to_train_a_7b_model_follows_from_its_published_sizes() -> None:
    """Qwen2.5-VL-7B: 28 layers of q and o 3584 x 3584, k and v 3584 x 512, gate, up and down 3584 x
    18944; head 3584 x 152064. A prompt is 4,032 video tokens, 20 of the question and 32 of the
    template; answers of 256. 1,000 pairs with gradient checkpointing: 3 forwards' worth, and one of
    the reference. The tower has 676 M parameters and sees 16 pairs of frames of 42 x 24 patches,
    in each epoch and for the reference where features are not kept.
    """
    layer = 2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944
    prompt, answer = 4032 + 20 + 32, 256
    tokens = prompt + 2 * answer
    flops = 2 * 28 * layer * tokens + 2 * 3584 * 152064 * 2 * answer
    flops += 4 * 28 * 3584 * (prompt**2 / 2 + 2 * (answer * prompt + answer**2 / 2))
    recipe = load_recipe("qwen2_5_vl_7b", ["video.cache=features"])
    plan = check(recipe, options=CheckOptions(gpu="a100"))
    seconds = 1000 * flops * (3 * recipe.train.epochs + 1) / (312e12 * 0.4)
    (time,) = [time for time in plan.times if time.stage == "train"]
    assert time.seconds == pytest.approx(seconds, rel=0.01)
    video = recipe.video.model_copy(update={"cache": "none"})
    again = check(recipe.model_copy(update={"video": video}), options=CheckOptions(gpu="a100"))
    tower = 1000 * 2 * 676e6 * 16 * 42 * 24 * (recipe.train.epochs + 1) / (312e12 * 0.4)
    (time_again,) = [time for time in again.times if time.stage == "train"]
    assert time_again.seconds == pytest.approx(time.seconds + tower, rel=0.02)
    assert (time.device, time.basis) == ("one A100 80 GB", "estimate")
    assert "40% of its stated 312 TFLOPS" in plan_text(plan)
    assert [time.stage for time in plan.times] == [
        "generate",
        "judge",
        "train",
        "evaluate",
        "evaluate, judge",
    ]


def test_an_unknown_gpu_is_told_with_its_neighbours() -> None:
    with pytest.raises(UserError, match=r"unknown GPU 'h10'\. Did you mean 'h100'"):
        check(load_recipe("qwen2_5_vl_7b"), options=CheckOptions(gpu="h10"))
    assert all(gpu.tflops > 50 for gpu in GPUS.values())


def test_a_server_is_timed_by_its_first_replies() -> None:
    """1,000 calls of 2 s on average, 50 at a time."""
    time = served("judge", Calls(1000, 1, 1), latencies=[1.0, 3.0], in_flight=50)
    assert time.seconds == 40 and "a first prompt took 2 s" in time.note


def test_a_small_model_that_is_here_is_measured_and_leaves_nothing_behind(world: Path) -> None:
    recipe = recipe_for(
        world,
        judge={"model": "toy:judge", "backend": "local", "base_url": None, "device": "cpu"},
        data={"heldout": None},
        generate={"num_candidates": 3},
    )
    plan = check(recipe, options=CheckOptions(measure=True))
    assert [(time.stage, time.basis) for time in plan.times] == [
        ("generate", "measured"),
        ("judge", "measured"),
        ("train", "measured"),
    ]
    assert all(time.seconds and time.device == "this CPU" for time in plan.times)
    assert plan.times[0].note.startswith("18 answers about 2 clips took ")  # 6 questions x 3
    assert not recipe.run_folder.exists()
    looked_at = check(recipe)
    assert {time.basis for time in looked_at.times} == {"unknown"}
    assert "not known: no sample was measured, and this CPU is in no table" in plan_text(looked_at)


def test_what_judging_costs_is_its_tokens_by_the_price_list(world: Path, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: {input: 2, output: 10}\nsmall: {input: 1, output: 1}\n")
    judge = {"prices": str(prices), "scorer": "hound_quality", "max_tokens": 100}
    recipe = recipe_for(world, judge=judge)
    samples = [Sample(id="a", video="v", prompt="p", caption="c")]
    calls = judge_calls(recipe, samples, per_sample=4)
    assert most_dollars(recipe, calls) == pytest.approx(
        (calls.tokens_in * 2 + 4 * 100 * 10) / 1_000_000
    )
    jury = recipe_for(world, judge={**judge, "jury": [{}, {"model": "small"}]})
    both = judge_calls(jury, samples, per_sample=4)
    assert both.calls == 8
    assert most_dollars(jury, both) == pytest.approx(
        (both.tokens_in / 2 * (2 + 1) + 400 * 10 + 400 * 1) / 1_000_000
    )
    assert most_dollars(recipe_for(world), calls) is None


def test_more_than_max_cost_is_a_problem_with_exit_code_2(world: Path, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: {input: 1000, output: 1000}\n")
    recipe = recipe_for(world, judge={"prices": str(prices), "max_cost": 0.5})
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe.model_dump(exclude_unset=True)))
    result = CliRunner().invoke(app, ["check", str(path), "--no-judge", "--no-sample", "--json"])
    assert isinstance(result.exception, UserError)
    plan = json.loads(result.stdout)
    assert plan["dollars"] > 0.5 and plan["judge"]["calls"] == 6 * recipe.generate.num_candidates
    assert plan["problems"][0].startswith("judging the candidates may cost up to ")
    assert "judge.max_cost is 0.5" in plan["problems"][0]


def test_without_the_judge_nothing_is_asked_and_with_it_its_pace_is_measured(
    world: Path, tmp_path: Path
) -> None:
    with judge_server(lambda prompt, _: completion("Score: 4")) as server:
        recipe = recipe_for(
            world,
            judge={"base_url": server.url, "concurrency": 4},
            evaluate={"hallucination_scorer": None},
        )
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(recipe.model_dump(exclude_unset=True)))
        words = ["check", str(path), "--no-sample", "--json"]
        plan = json.loads(CliRunner().invoke(app, [*words, "--no-judge"]).stdout)
        assert server.requests == []
        asked = json.loads(CliRunner().invoke(app, words).stdout)
        prompts = [request["messages"][0]["content"] for request in server.requests]
    assert prompts and all("What does the dog pick up?" in prompt for prompt in prompts)
    times = {time["stage"]: time for time in plan["times"]}
    assert times["judge"]["seconds"] is None and times["judge"]["note"] == "no judge was asked"
    times = {time["stage"]: time for time in asked["times"]}
    assert times["judge"]["device"] == "the judge's server"
    calls = asked["judge"]["calls"], asked["evaluation_judge"]["calls"]
    seconds = times["judge"]["seconds"], times["evaluate, judge"]["seconds"]
    assert seconds[0] * calls[1] == pytest.approx(seconds[1] * calls[0])


def test_json_of_wrong_data_holds_the_problems_and_nothing_else(world: Path) -> None:
    path = world / "wrong.yaml"
    recipe = recipe_for(world, data={"samples": str(world / "none.jsonl")})
    path.write_text(json.dumps(recipe.model_dump(exclude_unset=True)))
    result = CliRunner().invoke(app, ["check", str(path), "--json"])
    assert isinstance(result.exception, UserError)
    row = json.loads(result.stdout)
    assert set(row) == {"recipe", "problems"} and "none.jsonl" in row["problems"][0]


def test_frames_asked_for_and_kept_stand_by_the_size_of_the_clips(
    world: Path, tmp_path: Path
) -> None:
    """Clips of 4 and 40 frames under a policy of 6 frames: one has no more than 4."""
    write_clip(tmp_path / "short.mp4", 4, size=(160, 96))
    (tmp_path / "long.mp4").write_bytes((world / "c3.mp4").read_bytes())
    write_jsonl(
        tmp_path / "s.jsonl",
        [
            Sample(id=name, video=f"{name}.mp4", prompt="p", caption="c")
            for name in ("short", "long")
        ],
    )
    plan = check(
        recipe_for(
            world,
            data={"samples": str(tmp_path / "s.jsonl")},
            video={"policy": "uniform", "num_frames": 6},
        )
    )
    classes = {(group.width, group.height): group for group in plan.frame_classes}
    short = classes.pop((160, 96))
    assert (short.asked.maximum, short.kept.maximum) == (6, 4)
    assert short.why == ("the clip has no more",)
    (long,) = classes.values()
    assert (long.asked.maximum, long.kept.maximum, long.why) == (6, 6, ())
    (row,) = [line for line in plan_text(plan).splitlines() if "160x96" in line]
    assert row.split(maxsplit=1)[1] == "6 asked for, 4 kept (the clip has no more)"
