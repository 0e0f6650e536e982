"""Language models that repositories bring in code of 2024, on transformers' own classes: InternLM2,
which is Llama with other names and one projection for queries, keys and values; and Phi-3.

Their code no longer imports (transformers 5 has no modeling_attn_mask_utils), and has a cache and
masks of its own. Weights and configs keep their published names on disk.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PretrainedConfig,
)
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming

from dpo_video.core.errors import UserError
from dpo_video.models.families.own_code.loading import (
    OwnCodeModel,
    commit_of,
    put_modules,
)

PUBLISHED = "published_config"
"""Name under which a native config holds the published one's fields."""


class InternLM2OnLlama(LlamaForCausalLM):
    """InternLM2: its weights are renamed and split while they are read, and joined again while
    they are written.
    """


class SplitQueriesKeysValues(ConversionOps):
    """`wqkv` of InternLM2, (G x (H/G + 2) x D, ...), as queries, keys and values.

    Each of the G heads of keys has its H/G heads of queries before it, and its values after it.
    """

    @torch.no_grad()
    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        config: PretrainedConfig | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        parts = _tensor(input_dict[source_patterns[0]]).unflatten(0, (*_heads(config), -1))
        queries = parts[:, :-2].flatten(0, 2)
        keys, values = (parts[:, place].flatten(0, 1) for place in (-2, -1))
        made = (part.contiguous() for part in (queries, keys, values))
        return dict(zip(target_patterns, made, strict=True))

    @property
    def reverse_op(self) -> ConversionOps:
        return JoinQueriesKeysValues()


class JoinQueriesKeysValues(ConversionOps):
    """The reverse."""

    @torch.no_grad()
    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        config: PretrainedConfig | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        groups, parts = _heads(config)
        queries, keys, values = (_tensor(input_dict[name]) for name in source_patterns)
        joined = torch.cat(
            [
                queries.unflatten(0, (groups, parts - 2, -1)),
                keys.unflatten(0, (groups, 1, -1)),
                values.unflatten(0, (groups, 1, -1)),
            ],
            dim=1,
        )
        return {target_patterns[0]: joined.flatten(0, 2)}

    @property
    def reverse_op(self) -> ConversionOps:
        return SplitQueriesKeysValues()


def _tensor(value: Tensor | list[Tensor]) -> Tensor:
    return value[0] if isinstance(value, list) else value


def _heads(config: PretrainedConfig | None) -> tuple[int, int]:
    """Return the heads of keys, and those that stand in `wqkv` for each."""
    assert config is not None, "transformers hands a conversion the model's config"
    text = config.get_text_config()
    return text.num_key_value_heads, text.num_attention_heads // text.num_key_value_heads + 2


LAYER = {
    r"\.attention\.wo": ".self_attn.o_proj",
    r"\.feed_forward\.w1": ".mlp.gate_proj",
    r"\.feed_forward\.w3": ".mlp.up_proj",
    r"\.feed_forward\.w2": ".mlp.down_proj",
    r"\.attention_norm": ".input_layernorm",
    r"\.ffn_norm": ".post_attention_layernorm",
    r"\.tok_embeddings": ".embed_tokens",
    r"(?<![\w.])output\.weight": "lm_head.weight",
}
"""Names of InternLM2's weights as patterns, and Llama's."""


def _llama_config(fields: dict[str, Any]) -> PretrainedConfig:
    """As InternLM2's own modelling reads its config: `bias` is that of its attention."""
    names = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "num_key_value_heads", "hidden_act", "initializer_range"),
        *("max_position_embeddings", "rms_norm_eps", "tie_word_embeddings"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "rope_theta", "rope_scaling"),
    )
    values: dict[str, Any] = {name: fields.get(name) for name in names}
    return LlamaConfig(**values, attention_bias=fields["bias"], mlp_bias=False)


def _phi3_config(fields: dict[str, Any]) -> PretrainedConfig:
    """The window of Phi-3-mini-128k, 262,144 tokens, is more than its context: it is left out.

    `su` is what its first config calls LongRoPE; another of the time, `yarn`, has other sizes than
    transformers 5.24 gives it.
    """
    scaling = fields.get("rope_scaling")
    if scaling is not None:
        if scaling["type"] not in ("su", "longrope"):
            raise UserError(
                f"the rotation of its language model, Phi-3, is of type {scaling['type']!r}: only "
                "'su' and 'longrope' run here (OpenGVLab/InternVL2-4B). The nearest family is "
                "'internvl'"
            )
        fields["rope_scaling"] = {
            **scaling,
            "rope_type": "longrope",
            "original_max_position_embeddings": fields["original_max_position_embeddings"],
        }
        del fields["rope_scaling"]["type"]
    if (fields.get("sliding_window") or 0) >= fields["max_position_embeddings"]:
        fields["sliding_window"] = None
    for name in ("auto_map", "rope_parameters", "attn_implementation", "model_type"):
        fields.pop(name, None)
    return Phi3Config(**fields)


INTERNLM2 = "InternLM2ForCausalLM"
NATIVE = {INTERNLM2: _llama_config, "Phi3ForCausalLM": _phi3_config}
"""Configs of language models that run on transformers' own classes, by their published names."""
_CLASSES: Mapping[str, Mapping[str, Any]] = {
    "modeling_internlm2": {INTERNLM2: InternLM2OnLlama},
    "modeling_phi3": {"Phi3ForCausalLM": Phi3ForCausalLM},
}
"""What stands for a repository's modules."""


def native_config(published: PretrainedConfig, fields: Mapping[str, Any]) -> PretrainedConfig:
    """Return the config of transformers' own class for a published language model's, and that
    itself where there is none.

    Args:
        fields: as they stand on disk. transformers 5 puts `rope_scaling` elsewhere while it reads.
    """
    architecture = (published.architectures or [""])[0]
    if architecture not in NATIVE:
        return published
    native = NATIVE[architecture](deepcopy({**published.to_dict(), **fields}))
    native.architectures = [architecture]  # by which a repository's code picks the class
    vars(native)[PUBLISHED] = deepcopy(dict(fields))
    return native


def as_published(config: PretrainedConfig) -> dict[str, Any]:
    """Return a language model's config as it is saved: a native one by its published fields."""
    if PUBLISHED not in vars(config):
        return {**config.to_dict(), **_earlier_rope(config)}
    published: dict[str, Any] = deepcopy(vars(config)[PUBLISHED])
    if config.rope_parameters["rope_type"] == "linear":  # model.rope_factor
        factor = float(config.rope_parameters["factor"])
        published["rope_scaling"] = {"type": "linear", "factor": factor}
        published["max_position_embeddings"] = config.max_position_embeddings
    return published


def _earlier_rope(config: PretrainedConfig) -> dict[str, Any]:
    """Return the rotation by the names that transformers 4 reads, for which the published code was
    written: 5 writes `rope_parameters` alone, and 4 would take its default theta.
    """
    rope = deepcopy(dict(config.rope_parameters or {}))
    theta, kind = rope.pop("rope_theta", None), rope.pop("rope_type", "default")
    scaling = None if kind == "default" else {"type": kind, "rope_type": kind, **rope}
    return {"rope_scaling": scaling, **({} if theta is None else {"rope_theta": theta})}


def longest_native(config: PretrainedConfig) -> int:
    """Return the context of a language model.

    Under LongRoPE (Phi-3-mini-128k) it ends where the rotation of every token of a batch changes
    with its longest row: beyond, no two answers could share a prompt's keys.
    """
    text = config.get_text_config()
    rope = text.rope_parameters or {}
    if rope.get("rope_type") == "longrope":
        return int(text.original_max_position_embeddings)
    return int(text.max_position_embeddings)


class NativeLanguageModel(OwnCodeModel):
    """AutoModel for repositories' own code that finds transformers' classes where it imports its
    language models.
    """

    @staticmethod
    def from_pretrained(name: str, *, config: PretrainedConfig, **options: Any) -> Any:
        """As OwnCodeModel's."""
        put_modules(config, name, options.get("revision"), _CLASSES)
        return OwnCodeModel.from_pretrained(name, config=config, **options)

    @staticmethod
    def from_config(config: PretrainedConfig, **options: Any) -> Any:
        """As OwnCodeModel's."""
        put_modules(config, str(config.name_or_path), commit_of(config), _CLASSES)
        return OwnCodeModel.from_config(config, **options)


register_checkpoint_conversion_mapping(
    InternLM2OnLlama.__name__,
    [
        *(WeightRenaming(source, target) for source, target in LAYER.items()),
        WeightConverter(
            r"\.attention\.wqkv",
            [f".self_attn.{part}_proj" for part in "qkv"],
            operations=[SplitQueriesKeysValues()],
        ),
    ],
    overwrite=True,
)
