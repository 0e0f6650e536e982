"""What autograd keeps of a forward for the backward pass, counted from a config alone.

The counting of Korthikanti et al. 2022 (arXiv:2205.05198), section 4, redone for a gated MLP,
grouped keys, LoRA on all linear layers and trees of shared prefixes; attention scores are not kept
(fused kernels). A test compares it with what autograd keeps.

Letters, numbers per token: H hidden size, I MLP size, Q and K widths of queries and keys, r LoRA
rank, L layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from dpo_video.models.families.family import Tower
from dpo_video.models.hub import ModelSpec

DEPTHS = ("depth", "num_hidden_layers", "num_layers")
"""Names under which vision configs state their layers."""
LINEARS = 7
"""Linear layers of a decoder layer that LoRA tunes: q, k, v, o, gate, up, down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardShape:
    """The tokens of a forward."""

    tokens: int
    """Run through the language model: of packed trees, or of rows with padding."""
    scored: int
    """Positions that reach the head."""
    masks: int = 0
    """Numbers in attention masks; 0 where kernels need none."""
    copied: int = 0
    """Tokens whose keys and values are copied together in every layer: paths of segments, where
    there is no mask.
    """
    repeated_keys: bool = False
    """Whether keys and values are kept once per query head: rows under transformers' attention with
    a mask.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Widths of a layer's attention."""

    rotary: int
    """Of the positions of one head."""
    queries: int
    """Of all queries of a token."""
    keys: int
    """Of all keys of a token."""
    cached: int
    """Of what a cache holds of a token."""


def decoder_activations(
    config: PretrainedConfig, shape: ForwardShape, *, size: int, rank: int, checkpointing: bool
) -> float:
    """Return bytes kept by all layers and the head's input.

    Args:
        size: bytes of a number in the compute type; below 4 under autocast, with float32 norms.
        checkpointing: layers keep their inputs, and one of them at a time all the rest.
    """
    text = config.get_text_config()
    layers = _layers(text, shape, size=size, rank=rank)
    inputs = shape.tokens * text.hidden_size * size
    whole = len(layers) * inputs + max(layers) if checkpointing else sum(layers)
    rope = 2 * shape.tokens * sum({attention.rotary for attention in attentions(text)}) * size
    once = size == 4 and not shape.repeated_keys  # otherwise each layer makes a copy of its own
    mask = shape.masks * 4 if once else 0
    head = (shape.scored + shape.tokens) * text.hidden_size * size  # its input, and the last norm's
    return float(whole + rope + mask + head)


def one_layer(config: PretrainedConfig, shape: ForwardShape, *, size: int, rank: int) -> float:
    """Return bytes that one layer keeps: the widest."""
    return max(_layers(config.get_text_config(), shape, size=size, rank=rank))


def passing_in_backward(config: PretrainedConfig, shape: ForwardShape, *, size: int) -> float:
    """Return bytes of gradients that are there at a time while a layer's MLP goes backward, beside
    what is kept.

    Of its product, of the two factors, and of the residual with what is added to it: 3I + 2H.
    """
    text = config.get_text_config()
    return float(shape.tokens * (3 * inner_width(text) + 2 * text.hidden_size) * size)


def _layers(text: Any, shape: ForwardShape, *, size: int, rank: int) -> list[float]:
    """Return what each layer keeps.

    The inputs of both norms (2H, float32) and their outputs as LoRA's inputs (2H; under autocast a
    cast copy for each of q, k, v, gate and up: 5H); queries, keys, values and the attention's
    output (2Q + 2K), its copy before the output layer (Q), and of the MLP gate, up, their
    activation and product (4I); r for each LoRA; of the softmax one number per head and of the
    norms one each, float32.
    """
    hidden, inner = text.hidden_size, inner_width(text)
    normed = (2 if size == 4 else 5) * hidden
    in_float32 = (2 * hidden + text.num_attention_heads + 2) * 4
    masks = shape.masks * size if shape.repeated_keys or size < 4 else 0

    def kept(queries: int, keys: int) -> float:
        attention = (
            4 * queries + (0 if size == 4 else queries)
            if shape.repeated_keys
            else 3 * queries + 2 * keys
        )
        layer = (normed + attention + 4 * inner + LINEARS * rank) * size
        return float(shape.tokens * (layer + in_float32) + shape.copied * 2 * keys * size + masks)

    return [kept(attention.queries, attention.keys) for attention in attentions(text)]


def kept_by_tower(
    tower: Tower, vision: Mapping[str, Any], patches: int, *, size: int, rank: int
) -> float:
    """Return bytes that a tuned tower keeps of a clip, of a few per cent's accuracy: towers differ
    in details.

    Gated MLPs (an activation of the silu kind) keep 4 of their inner widths per token, plain ones
    3; the rest keeps 11 and 8 hidden widths: in the former rotary positions make copies of queries
    and keys.
    """
    gated = "silu" in str(vision.get("hidden_act"))
    frozen = (11 * tower.width + 4 * tower.inner) if gated else (8 * tower.width + 3 * tower.inner)
    return float(tower_layers(vision) * patches * (frozen + 6 * rank) * size)


def tower_layers(vision: Mapping[str, Any]) -> int:
    """Return the layers that a vision config states, under any of the names in use, at any
    depth.
    """
    for name, value in vision.items():
        if name in DEPTHS and isinstance(value, int):
            return value
    nested = (tower_layers(value) for value in vision.values() if isinstance(value, Mapping))
    return next((layers for layers in nested if layers), 0)


def inner_width(text: Any) -> int:
    """Return the width of the MLP that a token runs through: the dense one, or that of its experts
    together where a config of experts states no other (Qwen3.5's).
    """
    sizes = text.to_dict()
    dense = sizes.get("intermediate_size")
    if dense is not None:
        return int(dense)
    shared = sizes.get("shared_expert_intermediate_size") or 0
    return int(sizes["num_experts_per_tok"] * sizes["moe_intermediate_size"] + shared)


def attentions(text: Any) -> list[Attention]:
    """Return the widths of each layer's attention; configs without `head_dim` divide the hidden
    size, and a config whose layers differ (Gemma 4's) states what a layer has of its own.
    """
    common = text.to_dict()
    apart = {int(layer): own for layer, own in (common.get("per_layer_config") or {}).items()}
    return [
        _attention(common | apart.get(layer, {})) for layer in range(common["num_hidden_layers"])
    ]


def _attention(sizes: Mapping[str, Any]) -> Attention:
    heads = sizes["num_attention_heads"]
    if sizes.get("kv_lora_rank"):  # compressed keys: DeepSeek-V2 (arXiv:2405.04434), section 2.1
        rotary = sizes["qk_rope_head_dim"]
        # A head's queries and keys are wider than its values: by the mean, operations come right.
        mean = (sizes["qk_nope_head_dim"] + rotary + sizes["v_head_dim"]) // 2 * heads
        return Attention(
            rotary=rotary, queries=mean, keys=mean, cached=sizes["kv_lora_rank"] + rotary
        )
    head = sizes.get("head_dim") or sizes["hidden_size"] // heads
    keys = head * sizes["num_key_value_heads"]
    return Attention(rotary=head, queries=head * heads, keys=keys, cached=2 * keys)


def cached_width(text: Any) -> int:
    """Return the width of what a cache holds of a token, in all layers: its keys and values."""
    return sum(attention.cached for attention in attentions(text))


def encoding_bytes(spec: ModelSpec, *, patches: int, sound_samples: int, size: int) -> float:
    """Return what encoding one clip under no_grad holds at a time: its frames, then its sound.

    Per patch: float32 pixels of the processor (3 channels, patch x patch, two frames at most), and
    in the tower the residual, normed input, queries, keys, values (5 widths) or the MLP's gate, up
    and product (3 inner widths). Per position of sound the same, of an MLP without a gate.

    Args:
        patches: tokens inside the vision tower.
        sound_samples: of the clip's sound.
        size: bytes of a number.
    """
    tower = spec.family.tower(spec.config)
    pixels = 4 * 3 * tower.patch * tower.patch * spec.family.frames_per_step
    seen = patches * (pixels + (2 * tower.width + max(3 * tower.width, 3 * tower.inner)) * size)
    hearing = spec.family.hearing(spec.config)
    if hearing is None or not sound_samples:
        return float(seen)
    numbers = 2 * hearing.width + max(3 * hearing.width, 2 * hearing.inner)
    return max(float(seen), hearing.positions(sound_samples) * numbers * size)
