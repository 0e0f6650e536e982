"""Tuning projector and tower: the gradients of plain forwards on pixels, and an adapter that all
stages use whole.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from policies import make_frames, tiny_folder
from tiny_models import Kind
from tiny_world import KINDS, adapter_weights, make_pairs, make_recipe, make_world, open_run
from torch import Tensor
from training import reward_margins
from trees import LONG, adapter_grads, answer_part, run_engine, tuned_policy

from dpo_video.core.errors import UserError
from dpo_video.core.records import Pair
from dpo_video.models.clip_source import ClipSource
from dpo_video.models.collate import TokenRow, collate, encode_rows
from dpo_video.models.families import FAMILIES
from dpo_video.models.features import encode_video, pending_features
from dpo_video.models.hub import own_code_rows, own_layout_rows
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import (
    ModelPart,
    lora_targets,
    part_of_module,
)
from dpo_video.models.prompts import answer_ids, encode_prompt, video_inputs
from dpo_video.recipe import ModelSettings, VideoSettings
from dpo_video.run import Run
from dpo_video.store import RunStore
from dpo_video.train.dpo_config import check_train_settings
from dpo_video.train.forward import rows_engine
from dpo_video.train.logps import answer_logps, clip_rows
from dpo_video.train.merge import merge
from dpo_video.train.pair_batches import completion_mask
from dpo_video.train.shared_prefix import shared_prefix_engine
from dpo_video.train.stage import train
from dpo_video.video import Frames
from dpo_video.video.read import read_frames

ALL: tuple[ModelPart, ...] = ("language", "projector", "vision")
TUNED: tuple[tuple[ModelPart, ...], ...] = (("projector",), ("vision",), ALL)
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.parametrize(
    ("family", "name", "part"),
    [
        ("instructblipvideo", "model.vision_model.encoder.layers.0.self_attn.projection", "vision"),
        ("instructblipvideo", "model.language_projection", "projector"),
        ("video_llama", "vision_model.encoder.layers.0.self_attn.projection", "vision"),
        ("video_llama", "video_qformer.encoder.layer.0.attention.attention.query", "projector"),
        ("video_llama", "llama_proj", "projector"),
        ("qwen", "visual.attn_pool.kv_proj", "projector"),
        ("qwen", "visual.transformer.resblocks.0.attn.in_proj", "vision"),
        ("internvl_chat", "mlp1.1", "projector"),
        ("internvl_chat", "vision_model.encoder.layers.0.mlp.fc1", "vision"),
        ("videollama2", "model.vision_tower.encoder.layers.0.mlp.fc1", "vision"),
        ("videollama2", "model.multi_modal_projector.readout.0", "projector"),
        ("videollama2", "model.audio_tower.encoder.layers.0.fc1", None),
        ("videollama2", "model.mm_projector_a.0", None),
        ("qwen2_5_omni", "audio_tower.layers.0.fc1", None),
        ("gemma4", "model.embed_audio.embedding_projection", None),
    ],
)
def test_layers_are_of_the_part_that_their_place_says(
    family: str, name: str, part: str | None
) -> None:
    """BLIP-2's tower calls a layer of its attention `projection`; what reads sound is no part."""
    rows = {**FAMILIES, **own_code_rows(), **own_layout_rows()}
    assert part_of_module(name, rows[family]) == part


def rows_with_pixels(policy: Policy) -> list[TokenRow]:
    """Return rows about two clips that wait for their features: two questions of the first, an
    answer in both.
    """
    rows = []
    for count, questions in (
        (6, {"what happens ?": ["yes", LONG], "describe": ["yes", "a red square"]}),
        (4, {"what ?": ["no", "left right"]}),
    ):
        clip = video_inputs(policy, make_frames(count), VideoSettings())
        features = pending_features(policy, clip)
        rows += [
            TokenRow(
                prompt=encode_prompt(policy, question, clip),
                clip=clip,
                features=features,
                answer=tuple(answer_ids(policy, answer)),
            )
            for question, answers in questions.items()
            for answer in answers
        ]
    return rows


def plain_pixels(policy: Policy, row: TokenRow) -> Tensor:
    """Return (answer tokens,) log-probs of a row alone, from a forward of the model on pixels,
    nats.
    """
    batch = collate(policy, [row], "right")
    del batch["mm_encoder_outputs"]
    logits = policy.bare(**batch, **row.clip.pixels, use_cache=False).logits[0, :-1].float()
    scored = completion_mask([row], batch)[0, 1:].bool()
    return logits.log_softmax(-1).gather(1, batch["input_ids"][0, 1:, None])[:, 0][scored]


def weighed(values: Sequence[Tensor]) -> Tensor:
    """Return a loss in which every token of every row has a weight of its own."""
    return torch.cat(
        [
            torch.linspace(-1, 2, len(value)) * (number + 1) * value
            for number, value in enumerate(values)
        ]
    ).mean()


@pytest.mark.parametrize("tune", TUNED, ids=" ".join)
@each_kind
def test_log_probs_and_gradients_are_those_of_plain_forwards_on_pixels(
    kind: Kind, tune: tuple[ModelPart, ...]
) -> None:
    policy = tuned_policy(kind, tune=tune)
    rows = rows_with_pixels(policy)
    expected = [plain_pixels(policy, row) for row in rows]
    theirs = adapter_grads(policy, weighed(expected))
    for engine in (shared_prefix_engine, rows_engine):
        got = answer_part(rows, run_engine(policy, engine, rows, encode=True).log_probs)
        torch.testing.assert_close(torch.cat(got), torch.cat(expected), atol=1e-5, rtol=0)
        mine = adapter_grads(policy, weighed(got))
        assert mine.keys() == theirs.keys()
        assert {part_of_module(bare_name(name), policy.family) for name in mine} == set(tune)
        for name, grad in theirs.items():
            assert float(grad.norm()) > 0, name
            assert float((mine[name] - grad).norm()) <= 1e-5 * float(grad.norm()) + 1e-7, name


def bare_name(name: str) -> str:
    """Return the module's name in the bare model of a PEFT parameter."""
    return name.removeprefix("base_model.model.").partition(".lora_")[0]


def test_each_clip_goes_through_the_tower_once_a_forward() -> None:
    policy = tuned_policy("qwen2_5_vl", tune=ALL)
    rows = rows_with_pixels(policy)
    calls: list[int] = []
    handle = policy.bare.model.visual.register_forward_hook(lambda *call: calls.append(1))
    run_engine(policy, shared_prefix_engine, rows, encode=True)
    handle.remove()
    assert len(rows) == 6 and len(calls) == 2


def test_gradient_checkpointing_changes_no_gradient_of_the_tower() -> None:
    policy = tuned_policy("qwen2_5_vl", tune=ALL)
    rows = rows_with_pixels(policy)
    policy.model.train()
    grads = []
    for on in (False, True):
        if on:
            policy.bare.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
            policy.bare.enable_input_require_grads()
        values = answer_part(
            rows, run_engine(policy, shared_prefix_engine, rows, encode=True).log_probs
        )
        grads.append(adapter_grads(policy, weighed(values)))
    assert grads[0].keys() == grads[1].keys()
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name], atol=1e-6, rtol=1e-5)


@pytest.fixture(scope="module", params=KINDS)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    """A world with a run of three steps that tuned all parts."""
    world = make_world(tmp_path_factory.mktemp("tune"), request.param)
    recipe = make_recipe(
        world,
        tune=list(ALL),
        epochs=3,
        batch_size=2,
        gradient_accumulation=2,
        max_steps=3,
        learning_rate=1e-2,
    )
    with open_tuned(recipe, world) as run:
        train(run)
    return world, recipe


@contextmanager
def open_tuned(recipe: Any, world: Path) -> Iterator[Run]:
    with RunStore(recipe.run_folder) as store:
        yield open_run(recipe, store, world, make_pairs(7))


def test_three_steps_change_every_chosen_layer_and_the_adapter_holds_nothing_else(
    trained: tuple[Path, Any],
) -> None:
    """LLaVA's features come from before the tower's last layer, so that no gradient reaches that
    one.
    """
    _, recipe = trained
    base = load_policy(recipe.model)
    weights = adapter_weights(recipe.run_folder / "adapter")
    layers = {bare_name(name) for name in weights}
    assert layers == {
        name
        for name, module in base.bare.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head")
    }
    assert {part_of_module(name, base.family) for name in layers} == set(ALL)
    still = {
        bare_name(name) for name, weight in weights.items() if "lora_B" in name and not weight.any()
    }
    unused = "vision_tower.encoder.layers.2." if base.family.name == "llava_next_video" else "none"
    assert still == {name for name in layers if unused in name}
    tuned = load_policy(recipe.model, adapter=recipe.run_folder / "adapter")
    own = dict(base.bare.named_parameters())
    for name, weight in tuned.bare.named_parameters():
        if ".lora_" not in name:
            assert torch.equal(weight, own[name.replace(".base_layer", "")]), name


def test_evaluation_compares_with_the_untouched_model(trained: tuple[Path, Any]) -> None:
    """Its margins are those of tuned and base model, each loaded on its own and encoding the clips
    itself.
    """
    world, recipe = trained
    pairs = sorted(make_pairs(4), key=lambda pair: pair.video)
    with open_tuned(recipe, world) as run:
        first = read_log(run)[0]
        got = reward_margins(run, pairs)
    assert first["rewards/margins"] == 0.0
    tuned, base = (
        sums_of(load_policy(recipe.model, adapter=adapter), recipe, pairs, world)
        for adapter in (recipe.run_folder / "adapter", None)
    )
    rewards = [recipe.train.beta * (own - other) for own, other in zip(tuned, base, strict=True)]
    expected = [
        chosen - rejected for chosen, rejected in zip(rewards[::2], rewards[1::2], strict=True)
    ]
    assert [one.clip for one in got] == [pair.video for pair in pairs]
    assert [one.margin for one in got] == pytest.approx(expected, abs=1e-5)
    assert min(map(abs, expected)) > 1e-3


def sums_of(policy: Policy, recipe: Any, pairs: Sequence[Pair], world: Path) -> list[float]:
    """Return the log-probs of the pairs' answers, chosen and rejected in turn, nats."""
    sums = []
    for pair in pairs:
        frames = read_frames(
            world / str(pair.video), recipe.video, multiple_of=policy.family.frames_per_step
        )
        assert isinstance(frames, Frames)
        rows = clip_rows(
            policy, frames, recipe.video, question=pair.prompt, answers=[pair.chosen, pair.rejected]
        )
        sums += answer_logps(policy, rows)
    return sums


def read_log(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "train_log.jsonl").read_text().splitlines()]


def test_generation_encodes_with_the_tuned_tower_and_merging_keeps_it(
    trained: tuple[Path, Any], tmp_path: Path
) -> None:
    world, recipe = trained
    base, tuned = (
        load_policy(recipe.model),
        load_policy(recipe.model, adapter=recipe.run_folder / "adapter"),
    )
    clip = video_inputs(base, make_frames(6), VideoSettings())
    with open_tuned(recipe, world) as run:
        merge(run, tmp_path / "merged")
    merged = load_policy(ModelSettings(name=str(tmp_path / "merged"), device="cpu"))
    features = [encode_video(policy, clip).embeddings for policy in (base, tuned, merged)]
    assert float((features[0] - features[1]).abs().max()) > 1e-4
    torch.testing.assert_close(features[1], features[2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        encode_video(tuned, clip, adapter=False).embeddings, features[0], atol=0, rtol=0
    )


def test_the_reference_is_made_of_features_without_the_adapter(trained: tuple[Path, Any]) -> None:
    _, recipe = trained
    policy = load_policy(recipe.model, adapter=recipe.run_folder / "adapter")
    assert isinstance(policy.model, PeftModel)
    frames = make_frames(6)
    base = load_policy(recipe.model)
    rows = clip_rows(policy, frames, VideoSettings(), question="what ?", answers=["yes", "no"])
    off = [replace(row, features=encode_video(policy, row.clip, adapter=False)) for row in rows]
    wanted = answer_logps(
        base, clip_rows(base, frames, VideoSettings(), question="what ?", answers=["yes", "no"])
    )
    assert answer_logps(policy, off, adapter=False) == pytest.approx(wanted, abs=1e-5)
    assert answer_logps(policy, rows, adapter=False) != pytest.approx(wanted, abs=1e-3)


def test_a_cache_of_features_is_refused(trained: tuple[Path, Any]) -> None:
    _, recipe = trained
    cached = recipe.model_copy(update={"video": VideoSettings(cache="features")})
    with pytest.raises(
        UserError, match=r"`train\.tune` has 'projector'.*Set video\.cache to 'frames'"
    ):
        check_train_settings(cached)
    check_train_settings(recipe.model_copy(update={"video": VideoSettings(cache="frames")}))
    tuned = load_policy(recipe.model, adapter=recipe.run_folder / "adapter")
    with pytest.raises(UserError, match=r"this adapter has tuned the vision tower.*'frames'"):
        ClipSource(tuned, VideoSettings(cache="features"))


def test_a_part_without_linear_layers_is_refused_and_language_alone_is_the_family_pattern() -> None:
    policy = load_policy(ModelSettings(name=str(tiny_folder("qwen2_5_vl")), device="cpu"))
    assert lora_targets(policy.bare, policy.family, ["language"]) == policy.family.lora_targets
    with pytest.raises(
        UserError, match=r"train\.tune: found no linear layer of the part 'vision'.*Leave it out"
    ):
        lora_targets(policy.bare.get_decoder(), policy.family, ["vision"])


def test_training_with_a_cache_of_frames_gives_the_same_adapter(trained: tuple[Path, Any]) -> None:
    world, recipe = trained
    other = recipe.model_copy(
        update={"name": "cached", "video": recipe.video.model_copy(update={"cache": "frames"})}
    )
    with open_tuned(other, world) as run:
        train(run)
    mine, theirs = (adapter_weights(one.run_folder / "adapter") for one in (other, recipe))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_encoding_rows_leaves_their_order_and_shares_a_clip_s_features() -> None:
    policy = tuned_policy("llava_next_video", tune=["projector"])
    rows = rows_with_pixels(policy)
    made = encode_rows(policy, rows)
    assert [row.answer for row in made] == [row.answer for row in rows]
    assert len({id(row.features) for row in made}) == 2
    assert all(row.features.embeddings.requires_grad for row in made)
