"""What the memory estimate counts: the tensors that autograd keeps, and what each setting
changes.
"""

from itertools import pairwise

import pytest
import torch
from policies import each_kind
from tiny_models import Kind
from torch import Tensor
from trees import LONG, rows_of, run_engine, tuned_policy

from dpo_video.models.activations import ForwardShape, decoder_activations, kept_by_tower
from dpo_video.models.collate import TokenRow, encode_rows
from dpo_video.models.hub import model_spec
from dpo_video.models.load import Policy
from dpo_video.models.lora import keep_adapter_fp32
from dpo_video.models.memory import (
    GIB,
    PeakLoad,
    count_parameters,
    estimate_training,
    forward_pairs,
    forward_shape,
)
from dpo_video.models.shared_prefix.packed_rows import _clips, _tokens
from dpo_video.models.shared_prefix.tree import Packing, pack_rows
from dpo_video.recipe import LoraSettings, ModelSettings, TrainSettings
from dpo_video.train.forward import Engine, rows_engine
from dpo_video.train.pair_batches import loss_inputs
from dpo_video.train.shared_prefix import shared_prefix_engine

QWEN_7B = model_spec(ModelSettings(name="Qwen/Qwen2.5-VL-7B-Instruct"))
LOAD = PeakLoad(sequences=1, prompt_tokens=1200, answer_tokens=100, patches=4620)


def kept_bytes(
    policy: Policy, engine: Engine, rows: list[TokenRow], *, bfloat16: bool = False
) -> int:
    """Return the bytes of all storages that autograd keeps in a forward, without the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in policy.model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = (
                tensor  # held, so that no address is used twice
            )
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
    ):
        output = run_engine(policy, engine, rows)
    assert output.log_probs.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def packing_of(policy: Policy, rows: list[TokenRow]) -> Packing:
    batch = loss_inputs(policy, rows)
    positions = batch["position_ids"].reshape(
        policy.family.position_axes, *batch["input_ids"].shape
    )
    return pack_rows(_tokens(batch["input_ids"], positions, batch["attention_mask"]), _clips(rows))


def tree_shape(packing: Packing, rows: list[TokenRow]) -> ForwardShape:
    """Return the shape of trees: each has a mask of its lower tokens by all its tokens."""
    roots = [number for number, segment in enumerate(packing.segments) if not segment.ancestors]
    masks = 0
    for first, last in pairwise([*roots, len(packing.segments)]):
        root, end = packing.segments[first], packing.segments[last - 1].end
        masks += (end - root.end) * (end - root.begin)
    return ForwardShape(
        tokens=packing.num_tokens, scored=sum(len(row.answer) for row in rows), masks=masks
    )


CLIPS = [
    ({"count": 6}, {"what happens ?": ["yes", "a red square"]}),
    ({"count": 20}, {"what ?": ["yes", LONG]}),
]


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@each_kind
def test_what_autograd_keeps_is_what_is_counted(kind: Kind, bfloat16: bool) -> None:
    """Within 3 %, of trees and of rows: the first layer keeps one norm input less; indices are not
    counted.
    """
    policy = tuned_policy(kind, dtype="bfloat16" if bfloat16 else "float32")
    keep_adapter_fp32(policy.model)
    rows = rows_of(policy, *CLIPS)
    width = max(map(len, rows))
    tree = tree_shape(packing_of(policy, rows), rows)
    plain = ForwardShape(
        tokens=len(rows) * width,
        scored=len(rows) * width,
        masks=len(rows) * width**2,
        repeated_keys=True,
    )
    engines: list[tuple[Engine, ForwardShape]] = [
        (shared_prefix_engine, tree),
        (rows_engine, plain),
    ]
    for engine, shape in engines:
        counted = decoder_activations(
            policy.bare.config, shape, size=2 if bfloat16 else 4, rank=4, checkpointing=False
        )
        assert counted == pytest.approx(
            kept_bytes(policy, engine, rows, bfloat16=bfloat16), rel=0.03
        )


@each_kind
def test_a_tuned_tower_keeps_what_is_counted(kind: Kind) -> None:
    """Within 15 %: what a forward from pixels keeps more than one on features that are there."""
    policy = tuned_policy(kind, tune=["language", "projector", "vision"])
    rows = rows_of(policy, *CLIPS)
    encoded = [row.clip.pixels["pixel_values_videos"] for row in rows[::2]]

    def engine(fused: object, *, rows: list[TokenRow], **batch: object) -> object:
        return shared_prefix_engine(fused, rows=encode_rows(policy, rows), **batch)  # type: ignore[arg-type]

    more = kept_bytes(policy, engine, rows) - kept_bytes(policy, shared_prefix_engine, rows)  # type: ignore[arg-type]
    patches = (
        sum(len(pixels) for pixels in encoded)
        if kind == "qwen2_5_vl"
        else sum(pixels.shape[1] * 17 for pixels in encoded)
    )  # 4 x 4 patches and a class token per frame
    counted = kept_by_tower(
        policy.family.tower(policy.bare.config),
        policy.bare.config.vision_config.to_dict(),
        patches,
        size=4,
        rank=4,
    )
    assert counted == pytest.approx(more, rel=0.15)


def estimate(**train: object) -> dict[str, float]:
    settings = TrainSettings.model_validate({"gradient_checkpointing": False, **train})
    return estimate_training(QWEN_7B, ModelSettings(name="x"), settings, LOAD)


def test_the_budget_of_tokens_decides_how_many_pairs_are_in_memory() -> None:
    """A pair is 1200 + 2 x 100 tokens; 3 of them fit 4300, and a step has no more than its own."""

    def pairs(**train: int) -> int:
        return forward_pairs(TrainSettings.model_validate(train), LOAD)

    assert pairs(batch_size=4) == 4
    assert pairs(tokens_per_batch=4300, batch_size=2, gradient_accumulation=8) == 3
    assert pairs(tokens_per_batch=100_000, batch_size=2, gradient_accumulation=8) == 16
    assert pairs(tokens_per_batch=100) == 1
    assert estimate(tokens_per_batch=4300)["activations"] == pytest.approx(
        3 * estimate()["activations"]
    )


def test_rows_hold_the_prompt_twice_and_score_every_position_on_a_cpu() -> None:
    train = TrainSettings(share_prefix=False, batch_size=3)
    rows = forward_shape(train, LOAD, pairs=3)
    assert rows.tokens == 3 * 2 * 1300 and rows.scored == 3 * 200
    assert forward_shape(train, LOAD, pairs=3, masks=True).scored == rows.tokens
    assert estimate(share_prefix=False)["activations"] > 1.8 * estimate()["activations"]


def test_offloaded_activations_leave_one_layer_on_the_device() -> None:
    assert estimate(activation_offloading=True)["activations"] < estimate()["activations"] / 10


def test_tuning_the_tower_adds_its_adapter_and_its_activations() -> None:
    """Qwen2.5-VL-7B's projector: 5120 to 5120 and 5120 to 3584; its tower has 32 gated layers of
    width 1280.
    """
    language, projector, every = (
        count_parameters(QWEN_7B, tune).lora_per_rank  # type: ignore[arg-type]
        for tune in (["language"], ["language", "projector"], ["language", "projector", "vision"])
    )
    assert projector - language == 5120 + 5120 + 5120 + 3584
    assert every - projector == 32 * (1280 + 3840 + 1280 + 1280 + 3 * (1280 + 3420))
    both = {
        tune: estimate(tune=["language", tune], lora=LoraSettings(rank=64))
        for tune in ("projector", "vision")
    }
    assert both["projector"]["vision"] == pytest.approx(estimate()["vision"])
    more = (both["vision"]["vision"] - both["projector"]["vision"]) * GIB
    assert more == pytest.approx(32 * 4620 * (11 * 1280 + 4 * 3420 + 6 * 64) * 2)


def test_what_a_frozen_tower_needs_is_gone_before_the_peak() -> None:
    """Its features stay; its working set counts only where the language model keeps less than
    it.
    """
    assert estimate()["vision"] == pytest.approx(1200 * 3584 * 2 / GIB)
    small = estimate(activation_offloading=True, gradient_checkpointing=True)
    assert small["vision"] >= estimate()["vision"]
