"""TRL's trainer on video equals plain DPO through pixels; the tower runs once a clip; guards refuse
blind training.
"""

import math
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
import torch
from peft import get_peft_model_state_dict
from slow_dpo import slow_dpo
from tiny_world import FRAMES, adapter_weights, made_trainer, make_pairs, make_recipe
from torch import nn

from dpo_video.models.collate import TokenRow
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import adapter_parameters
from dpo_video.train.dpo_config import LOSSES
from dpo_video.train.pair_batches import PairTokens, loss_inputs, tokenize_pair
from dpo_video.train.sampler import ClipSampler
from dpo_video.video.read import read_frames


def test_losses_margins_and_adapter_equal_plain_dpo_through_pixels(world: Path) -> None:
    """6 steps, batches of 2 pairs with different clips, questions and lengths, a last batch that is
    not full.
    """
    pairs = make_pairs(7)
    recipe = make_recipe(world)
    with made_trainer(world, recipe, pairs) as (trainer, _):
        trainer.train()
        weights = get_peft_model_state_dict(trainer.model)
        log = [row for row in trainer.state.log_history if "loss" in row]
    slow_log, slow_weights = slow_dpo(world, recipe, pairs)
    assert len(log) == len(slow_log) == 6
    for row, slow in zip(log, slow_log, strict=True):
        assert row["loss"] == pytest.approx(slow["loss"], abs=1e-5)
        assert row["rewards/margins"] == pytest.approx(slow["rewards/margins"], abs=1e-5)
    assert max(abs(row["rewards/margins"]) for row in log) > 1e-2, (
        "nothing was learnt: the comparison is empty"
    )
    for name, weight in weights.items():
        torch.testing.assert_close(weight, slow_weights[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cache", ["auto", "none"])
def test_the_tower_runs_once_a_clip_and_gets_no_gradient_and_hooks_do_not_pile_up(
    qwen: Path, cache: str
) -> None:
    pairs = make_pairs(7)
    recipe = make_recipe(qwen, name=f"tower-{cache}", epochs=2, video={"cache": cache})
    outputs: list[bool] = []
    with made_trainer(qwen, recipe, pairs) as (trainer, _):
        base = trainer.model.get_base_model()
        base.model.visual.register_forward_hook(
            lambda *call: outputs.append(call[2].pooler_output[0].requires_grad)
        )
        embeddings = (base.get_input_embeddings(), base.model.visual.patch_embed)
        trainer.args.max_steps = 1
        trainer.train()
        hooks = [len(module._forward_hooks) for module in embeddings]
        trainer.args.max_steps = -1
        trainer.train()
        assert [len(module._forward_hooks) for module in embeddings] == [
            count + 1 for count in hooks
        ]
        assert not any(parameter.grad is not None for parameter in base.model.visual.parameters())
        order = trainer.order
    order.set_epoch(0)
    first_step = len({pairs[place].video for batch in list(order)[:2] for place in batch})
    # kept features serve the whole run; without them each step and epoch reads its clips anew
    assert len(outputs) == (len(FRAMES) if cache == "auto" else first_step + 2 * len(FRAMES))
    assert not any(outputs)


def test_each_clip_is_decoded_once_an_epoch(qwen: Path) -> None:
    pairs = sorted(make_pairs(9), key=lambda pair: pair.sample_id)
    with made_trainer(qwen, make_recipe(qwen, epochs=3, batch_size=1), pairs) as (trainer, reader):
        trainer.train()
        assert reader.num_read == 3 * len(FRAMES)


def test_before_the_first_step_policy_and_reference_agree_exactly(world: Path) -> None:
    with made_trainer(world, make_recipe(world, epochs=1), make_pairs(4)) as (trainer, _):
        trainer.train()
        first = trainer.state.log_history[0]
    assert first["rewards/margins"] == first["rewards/chosen"] == first["rewards/rejected"] == 0.0
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-7)


def test_an_adapter_that_changes_the_model_from_the_start_stops_training(qwen: Path) -> None:
    with made_trainer(qwen, make_recipe(qwen, epochs=1), make_pairs(4)) as (trainer, _):
        for name, parameter in adapter_parameters(trainer.model):
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.2)
        with pytest.raises(
            RuntimeError, match="before the first step, policy and reference differ"
        ):
            trainer.train()


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_the_adapter_alone_is_trained_and_in_float32(world: Path, quantize: str) -> None:
    recipe = make_recipe(world, quantize=quantize, epochs=4)
    with made_trainer(world, recipe, make_pairs(4)) as (trainer, _):
        before = {
            name: weight.clone()
            for name, weight in get_peft_model_state_dict(trainer.model).items()
        }
        trained = [
            (name, parameter)
            for name, parameter in trainer.model.named_parameters()
            if parameter.requires_grad
        ]
        assert {parameter.dtype for _, parameter in trained} == {torch.float32}
        assert all(".language_model." in name and ".lora_" in name for name, _ in trained)
        trainer.train()
        after = get_peft_model_state_dict(trainer.model)
        assert trainer.optimizer.param_groups[0]["params"][0].dtype == torch.float32
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_every_loss_of_trl_trains(qwen: Path) -> None:
    recipe = make_recipe(qwen, trl={"label_smoothing": 1e-3})
    with made_trainer(qwen, recipe, make_pairs(4)) as (trainer, _):
        trainer._metrics["train"]["rewards/chosen"] = [0.0]
        batch = {"pairs": trainer._read([0, 1])}
        trainer.model.train()
        trainer._started = True
        for loss_type in LOSSES:
            trainer.loss_types, trainer.loss_weights = [loss_type], [1.0]
            trainer.model.zero_grad()
            loss = trainer.compute_loss(trainer.model, batch)
            loss.backward()
            grads = [
                parameter.grad.abs().sum()
                for _, parameter in adapter_parameters(trainer.model)
                if parameter.grad is not None
            ]
            assert loss.isfinite() and sum(grads) > 0, loss_type


@pytest.fixture(scope="module")
def a_row(qwen: Path) -> tuple[Policy, TokenRow]:
    from dpo_video.train.logps import clip_rows

    recipe = make_recipe(qwen)
    policy = load_policy(recipe.model)
    frames = read_frames(qwen / "c1.mp4", recipe.video, multiple_of=policy.family.frames_per_step)
    return policy, clip_rows(policy, frames, recipe.video, question="what ?", answers=["yes"])[0]


def test_a_text_with_more_video_tokens_than_features_is_refused(
    a_row: tuple[Policy, TokenRow],
) -> None:
    policy, row = a_row
    short = replace(row.features, embeddings=row.features.embeddings[:-1])
    tokens = len(row.features.embeddings)
    with pytest.raises(
        RuntimeError, match=f"has {tokens} video tokens in its text and {tokens - 1} features"
    ):
        loss_inputs(policy, [replace(row, features=short)])


def test_a_text_without_video_tokens_is_refused(a_row: tuple[Policy, TokenRow]) -> None:
    policy, row = a_row
    text = row.prompt.input_ids != policy.family.placeholder(policy.bare.config)
    prompt = replace(
        row.prompt,
        input_ids=row.prompt.input_ids[text],
        positions=row.prompt.positions[:, text],
        token_types=row.prompt.token_types[text],
    )
    blind = replace(row.features, embeddings=row.features.embeddings[:0])
    with pytest.raises(RuntimeError, match="0 video tokens in its text and 0 features"):
        loss_inputs(policy, [replace(row, prompt=prompt, features=blind)])


def test_a_fully_masked_answer_is_refused(a_row: tuple[Policy, TokenRow]) -> None:
    policy, row = a_row
    with pytest.raises(RuntimeError, match="has no answer token"):
        loss_inputs(policy, [replace(row, answer=())])


def test_a_forward_for_the_loss_without_clips_is_refused(qwen: Path) -> None:
    with made_trainer(qwen, make_recipe(qwen), make_pairs(4)) as (trainer, _):
        ids = torch.ones(2, 5, dtype=torch.long)
        with pytest.raises(RuntimeError, match="trained blind"):
            trainer.model(input_ids=ids, labels=ids, fused_lm_head=True)


def test_answers_without_text_and_equal_answers_cannot_be_tokenized_as_a_pair(
    a_row: tuple[Policy, TokenRow],
) -> None:
    policy, _ = a_row
    pair = make_pairs(1)[0]
    assert isinstance(tokenize_pair(policy, pair), PairTokens)
    assert tokenize_pair(policy, replace(pair, chosen=" \n")) is None
    assert tokenize_pair(policy, replace(pair, chosen=pair.rejected)) is None


def test_the_order_of_this_test_s_clips_mixes_them_in_batches() -> None:
    """The comparison with plain DPO must meet batches with two clips and batches with one."""
    order = ClipSampler([pair.video for pair in make_pairs(7)], batch_size=2, seed=3)
    sizes = {len(list(groupby(make_pairs(7)[place].video for place in batch))) for batch in order}
    assert sizes == {1, 2}


def test_adapter_weights_carry_the_names_that_peft_and_vllm_load(
    qwen: Path, tmp_path: Path
) -> None:
    with made_trainer(qwen, make_recipe(qwen), make_pairs(4)) as (trainer, _):
        trainer.save_model(str(tmp_path))
    names = adapter_weights(tmp_path)
    assert "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight" in names
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in names)
