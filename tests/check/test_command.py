"""The plan of a run: shipped recipes from configs alone, a user's data as they are, and what stands
in the way.
"""

import json
import math
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from check_runs import recipe_for
from clips import write_clip
from typer.testing import CliRunner

from dpo_video.check.calls import judge_calls
from dpo_video.check.command import check, optimizer_steps
from dpo_video.check.plan import plan_text
from dpo_video.check.recipe import check_recipe
from dpo_video.cli.app import app
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Sample
from dpo_video.judge.scorer import load_scorer
from dpo_video.models.load import load_policy
from dpo_video.models.prompts import encode_prompt, video_inputs
from dpo_video.recipe import VideoSettings
from dpo_video.recipe.file import load_recipe
from dpo_video.video.read import read_frames


@pytest.mark.parametrize(
    ("name", "tokens", "frames"),
    [
        ("qwen2_5_vl_7b", 4032, 32),
        ("qwen2_5_vl_3b", 4032, 32),
        ("llava_next_video_7b", 2304, 16),
        ("llava_hound_dpo", 1152, 8),
        ("mdpo", 4032, 32),
        ("tpo", 4032, 32),
        ("temple", 3780, 30),
        ("opa_dpo", 4032, 32),
        ("avc_dpo", 4032, 32),
        ("iterative_dpo", 4032, 32),
    ],
)
def test_shipped_recipes_are_planned_without_data_or_weights(
    name: str, tokens: int, frames: int
) -> None:
    """Qwen2.5-VL: 1280x720 under 200704 pixels in multiples of 28 is 588x336, 21 x 12 tokens for
    two frames; 16 such are 4032, 17 would pass 4096. LLaVA-NeXT-Video: 144 tokens a frame."""
    plan = check(load_recipe(name))
    assert plan.video_tokens == (tokens, tokens, tokens) and plan.frames.maximum == frames
    assert plan.problems == () and plan.decoded == 0 and plan.questions == 1000
    text = plan_text(plan)
    assert "is the example path of the shipped recipes" in text and "1280x720" in text
    assert f"{tokens:,}" in text and "memory to train" in text and plan.memory["train"]["total"] > 4


def test_trainable_parameters_are_rank_times_inputs_and_outputs_of_every_language_layer() -> None:
    """Qwen2.5-VL-7B, 28 layers: q and o 3584 + 3584, k and v 3584 + 512, gate, up and down 3584 +
    18944; rank 64.
    """
    per_layer = 2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944)
    assert check(load_recipe("qwen2_5_vl_7b")).trainable == 28 * 64 * per_layer


def test_a_users_data_are_counted_decoded_and_measured_as_the_model_will_see_them(
    world: Path,
) -> None:
    recipe = recipe_for(world)
    plan = check(recipe)
    assert (plan.questions, plan.clips, plan.heldout_questions, plan.heldout_clips) == (6, 2, 6, 2)
    policy = load_policy(recipe.model)
    sizes = []
    for clip in (0, 1):
        frames = read_frames(world / f"c{clip}.mp4", recipe.video, multiple_of=2)
        prompt = encode_prompt(policy, "", video_inputs(policy, frames, recipe.video))
        sizes.append(int((prompt.input_ids == policy.bare.config.video_token_id).sum()))
    assert sizes[0] < sizes[1]
    assert plan.video_tokens == (sizes[0], sum(sizes) / 2, sizes[1]) and plan.decoded == 2
    assert plan.problems == () and "assumed" not in plan_text(plan)
    assert "only 2 held-out clips" in plan_text(plan)


def test_judge_calls_and_tokens_are_those_of_the_prompts(world: Path) -> None:
    """Characters of each rendered prompt over 4, rounded up, for every candidate; a label is one
    token.
    """
    samples = [
        Sample(id=str(n), video="v", prompt="p" * 30, caption="c" * n * 50, answer=None)
        for n in range(4)
    ]
    recipe = recipe_for(world, judge={"scorer": "caption_score"}, generate={"num_candidates": 5})
    prompt = load_scorer("caption_score").prompt.rstrip("\n")
    length = sum(
        math.ceil(
            len(prompt.format(caption="c" * n * 50, question="p" * 30, answer="> " + "x" * 64)) / 4
        )
        for n in range(4)
    )
    assert judge_calls(recipe, samples, per_sample=5) == (20, 5 * length, 20)
    written = recipe_for(world, judge={"scorer": "hound_quality", "max_tokens": 300})
    assert judge_calls(written, samples, per_sample=5).tokens_out == 20 * 300


def test_evaluation_judges_both_answers_by_both_scorers_and_the_drawn_ones(world: Path) -> None:
    """6 questions x 2 answers x 2 scorers, 4 x 3 drawn answers; at most 3 training pairs a
    question.
    """
    all_pairs = {"rule": "all_pairs", "max_pairs_per_sample": 3}
    plan = check(
        recipe_for(world, evaluate={"pair_samples": 4, "pair_candidates": 3}, pair=all_pairs)
    )
    assert plan.evaluation_judge is not None and plan.evaluation_judge.calls == 6 * 2 * 2 + 4 * 3
    assert plan.pairs == 6 * 3


def test_steps_are_counted_as_the_trainer_counts_them(world: Path) -> None:
    """10 pairs in batches of 3 are 4 forwards, in steps of 2 forwards 2 steps an epoch; 1.5 epochs
    are 3 steps.
    """
    train = {"batch_size": 3, "gradient_accumulation": 2, "epochs": 1.5}
    assert optimizer_steps(recipe_for(world, train=train), 10) == 3
    assert optimizer_steps(recipe_for(world, train={**train, "max_steps": 2}), 10) == 2


def test_steps_on_several_devices_stand_beside_those_on_one(world: Path) -> None:
    """The sampler gives 8 devices 2 pairs each of 12; 6 pairs in batches of 1, 2 a step."""
    train = {"batch_size": 1, "gradient_accumulation": 2, "epochs": 1}
    assert optimizer_steps(recipe_for(world, train=train), 12, devices=8) == 1
    plan = check(recipe_for(world, train=train))
    assert (plan.steps, dict(plan.steps_on)) == (3, {2: 2, 4: 1, 8: 1})
    assert "at most 3 of 2 pairs on one device; on 2, 4, 8 devices 2, 1, 1" in plan_text(plan)


def test_frames_lost_to_the_budget_of_tokens_stand_beside_those_that_are_taken() -> None:
    """30 s at 2 frames a second are 60 frames; 4,096 tokens have room for 32."""
    plan = check(load_recipe("qwen2_5_vl_7b"))
    assert plan.frames_taken.maximum == 60 and plan.frames.maximum == 32
    assert "frames per clip       32, of the 60 that video.policy takes" in plan_text(plan)
    assert any("of 60 frames the model sees 32" in warning for warning in plan.warnings)


def test_the_memory_of_a_small_model_is_no_0_gib(world: Path) -> None:
    plan = check(recipe_for(world, model={"device": "auto"}))
    assert any(re.search(r"about \d+\.\d MiB", warning) for warning in plan.warnings)


POLICIES = get_args(VideoSettings.model_fields["policy"].annotation)


@pytest.mark.parametrize(
    ("policy", "samples"),
    [(policy, samples) for policy in POLICIES for samples in ("train", "none")],
)
def test_every_frame_policy_is_planned_for_with_data_and_without(
    world: Path, policy: str, samples: str
) -> None:
    """Without data a clip of 30 s is assumed: 2 frames a second are 60, at most 40 are taken."""
    plan = check(
        recipe_for(
            world,
            data={
                "samples": "data/train.jsonl" if samples == "none" else f"{world / samples}.jsonl"
            },
            video={
                "policy": policy,
                "fps": 2,
                "max_frames": 40,
                "num_frames": 8,
                "reserve_tokens": 8,
            },
        )
    )
    text, assumed = plan_text(plan), samples != "train"
    assert ("1280x720" in text) == assumed
    assert (f"video.policy {policy} keeps every frame" in text) == (
        assumed and policy in ("scene", "diff_prune")
    )
    if assumed and policy != "fit":
        assert plan.frames.maximum == (8 if policy == "uniform" else 40)


def test_missing_data_of_both_splits_are_told_together_and_nothing_is_planned(world: Path) -> None:
    data = {"samples": str(world / "mine.jsonl"), "heldout": str(world / "none.jsonl")}
    with pytest.raises(UserError, match=r"mine\.jsonl.*\n.*none\.jsonl"):
        check(recipe_for(world, data=data))


def test_clips_that_are_missing_or_broken_are_counted_and_named(
    world: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"")
    (tmp_path / "good.mp4").write_bytes((world / "c0.mp4").read_bytes())
    write_jsonl(
        tmp_path / "s.jsonl",
        [
            Sample(id=name, video=f"{name}.mp4", prompt="p", caption="c")
            for name in ("good", "broken", "gone", "lost")
        ],
    )
    plan = check(recipe_for(world, data={"samples": str(tmp_path / "s.jsonl")}))
    file = tmp_path / "s.jsonl"
    assert len(plan.problems) == 2
    assert plan.problems[0].startswith(f"2 of 4 clips are missing: {file}:3: no file at ")
    assert plan.problems[1].startswith(f"{file}:4: no file at ")
    assert any(
        "1 of 2 clips that were tried cannot be read" in warning for warning in plan.warnings
    )


def test_of_many_missing_clips_twenty_are_named_and_the_others_counted(
    world: Path, tmp_path: Path
) -> None:
    (tmp_path / "good.mp4").write_bytes((world / "c0.mp4").read_bytes())
    names = ["good", *(f"gone{number}" for number in range(23))]
    write_jsonl(
        tmp_path / "s.jsonl",
        [Sample(id=name, video=f"{name}.mp4", prompt="p", caption="c") for name in names],
    )
    plan = check(recipe_for(world, data={"samples": str(tmp_path / "s.jsonl")}))
    assert len(plan.problems) == 21 and plan.problems[-1] == "and 3 more clips"
    lines = [problem.rpartition("s.jsonl:")[2].partition(":")[0] for problem in plan.problems[:-1]]
    assert lines == [str(number) for number in range(2, 22)]


def test_where_no_clip_can_be_read_no_plan_is_made_up(world: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    write_jsonl(
        tmp_path / "s.jsonl",
        [Sample(id="a", video="broken.mp4", prompt="?", caption="a dog runs")],
    )
    recipe = recipe_for(
        world, data={"samples": str(tmp_path / "s.jsonl")}, generate={"temperature": 0}
    )
    with pytest.raises(UserError) as error:
        check(recipe)
    assert "no clip could be decoded" in str(error.value) and "broken.mp4" in str(error.value)
    assert "generate.temperature is 0" in str(error.value)


def test_a_clip_that_the_processor_refuses_leaves_the_plan_of_the_others(
    world: Path, tmp_path: Path
) -> None:
    write_clip(tmp_path / "banner.mp4", 4, size=(4096, 16))
    (tmp_path / "good.mp4").write_bytes((world / "c0.mp4").read_bytes())
    write_jsonl(
        tmp_path / "s.jsonl",
        [
            Sample(id=name, video=f"{name}.mp4", prompt="p", caption="c")
            for name in ("good", "banner")
        ],
    )
    plan = check(recipe_for(world, data={"samples": str(tmp_path / "s.jsonl")}))
    assert plan.problems == ()
    assert any(
        "1 of 2 clips looked at will be set aside; first: the processor refuses" in warning
        for warning in plan.warnings
    )


def test_a_clip_in_both_splits_is_a_problem(world: Path) -> None:
    plan = check(recipe_for(world, data={"heldout": str(world / "train.jsonl")}))
    assert any("c0.mp4" in problem or "c1.mp4" in problem for problem in plan.problems)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generate": {"temperature": 0}}, "all candidates of a question would be the same answer"),
        ({"generate": {"num_candidates": 1}}, "a pair needs two answers"),
        (
            {"pair": {"min_margin": 4.5}},
            "pair.min_margin 4.5 is wider than the scores of hound_quality (1 to 5)",
        ),
        (
            {"pair": {"rule": "hound", "threshold": 6}},
            "pair.threshold 6 leaves no answer on one side",
        ),
        (
            {"judge": {"base_url": "https://api.example.com/v1", "api_key_env": "NO_SUCH_KEY"}},
            "NO_SUCH_KEY is not set",
        ),
        ({"train": {"loss": ["sigmod"]}}, "Did you mean 'sigmoid'?"),
        ({"train": {"loss": ["exo_pair"]}}, "needs `train.trl.label_smoothing` above 0"),
        ({"train": {"optimizer": "adamw_torhc"}}, "adamw_torhc is not a valid OptimizerNames"),
        (
            {"train": {"trl": {"weight_decay": "a lot"}}},
            "`train.trl.weight_decay` must be a number, got 'a lot'",
        ),
        (
            {"train": {"trl": {"use_weighting": 1}}},
            "`train.trl.use_weighting` must be true or false, got 1",
        ),
        ({"judge": {"max_cost": 3.0}}, "judge.prices is not set"),
        ({"evaluate": {"hallucination_scorer": "none_such.yaml"}}, "no scorer file at"),
    ],
)
def test_a_recipe_that_cannot_run_is_told_why(
    world: Path, changes: dict[str, Any], message: str
) -> None:
    findings = check_recipe(recipe_for(world, **changes), [], [])
    assert any(message in problem for problem in findings.problems), findings.problems


def test_decoding_at_a_size_that_the_family_does_not_state_is_a_problem() -> None:
    internvl = ["model.name=OpenGVLab/InternVL3-8B-hf", "video.max_pixels=null"]
    plan = check(load_recipe("qwen2_5_vl_7b", [*internvl, "video.decode_size=model"]))
    assert any("'internvl' does not state the size" in problem for problem in plan.problems)


def test_an_unknown_scorer_leaves_the_rest_of_the_plan(world: Path) -> None:
    text = plan_text(check(recipe_for(world, judge={"scorer": "hound_qualty"})))
    assert "Did you mean 'hound_quality'?" in text.partition("problems")[2]
    assert "judge the candidates  unknown, see the problems" in text and "optimizer steps" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"generate": {"max_new_tokens": 4090}},
            "no answer can be written: the shortest clip looked at takes 24 tokens, "
            "an answer up to 4,090 (generate.max_new_tokens), and the model's context is 4,096. "
            "Lower",
        ),
        (
            {"train": {"max_length": 24}},
            "no pair can be trained on: the shortest clip looked at takes 24 tokens, and "
            "train.max_length is 24. Raise it, or lower",
        ),
    ],
)
def test_what_fits_no_context_is_a_problem(
    world: Path, changes: dict[str, Any], message: str
) -> None:
    """Four frames of 168 x 56 after resizing: two steps of 12 tokens."""
    plan = check(recipe_for(world, **changes))
    assert len(plan.problems) == 1 and message in plan.problems[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"max_length": 40}}, "do not fit the 40 there is room for"),
        ({"video": {"max_tokens": 24}}, "over their budget of tokens and lose frames"),
        ({"data": {"heldout": None}}, "the run ends without numbers before and after"),
    ],
)
def test_what_will_disappoint_is_a_warning(
    world: Path, changes: dict[str, Any], message: str
) -> None:
    plan = check(recipe_for(world, **changes))
    assert any(message in warning for warning in plan.warnings), plan.warnings
    assert plan.problems == ()


def test_a_judge_server_that_is_not_there_stands_in_the_way(world: Path, tmp_path: Path) -> None:
    """The plan is printed all the same, and the command does not say that all is well."""
    recipe = recipe_for(world, judge={"retries": 0})
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe.model_dump(exclude_unset=True)))
    result = CliRunner().invoke(app, ["check", str(path)])
    assert isinstance(result.exception, UserError)
    assert "1 problem(s) above stand in the way" in str(result.exception)
    assert "steps" in result.output
    assert "judge.scorer 'hound_quality'" in result.output and "127.0.0.1:9" in result.output
