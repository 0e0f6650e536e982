"""A stand-in for Phi-3: names of weights as published, LongRoPE by its short factors."""

import math
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_phi3 import Phi3Config
from .language_parts import Norm, attention, rotated


class Phi3Attention(nn.Module):
    def __init__(self, config: Phi3Config) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        heads = config.num_attention_heads + 2 * config.num_key_value_heads
        self.qkv_proj = nn.Linear(config.hidden_size, heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        config = self.config
        groups = config.num_key_value_heads
        sizes = [config.num_attention_heads, groups, groups]
        parts = self.qkv_proj(states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        queries, keys, values = parts.split(sizes, dim=1)
        steps = range(0, self.head_dim, 2)
        frequencies = states.new_tensor(
            [
                config.rope_theta ** (-step / self.head_dim) / factor
                for step, factor in zip(steps, config.rope_scaling["short_factor"], strict=True)
            ]
        )
        original = config.original_max_position_embeddings
        longer = config.max_position_embeddings / original
        scale = math.sqrt(1 + math.log(longer) / math.log(original))
        turned = (rotated(part, frequencies, scale) for part in (queries, keys))
        return self.o_proj(attention(*turned, values))


class Phi3MLP(nn.Module):
    def __init__(self, config: Phi3Config) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(states).chunk(2, dim=-1)
        return self.down_proj(up * nn.functional.silu(gate))


class Phi3DecoderLayer(nn.Module):
    def __init__(self, config: Phi3Config) -> None:
        super().__init__()
        self.self_attn = Phi3Attention(config)
        self.mlp = Phi3MLP(config)
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.self_attn(self.input_layernorm(states))
        return states + self.mlp(self.post_attention_layernorm(states))


class Phi3Model(PreTrainedModel):
    config_class = Phi3Config

    def __init__(self, config: Phi3Config) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Phi3DecoderLayer(config) for _ in range(config.num_hidden_layers)
        )
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def forward(self, inputs_embeds: Tensor) -> Tensor:
        for layer in self.layers:
            inputs_embeds = layer(inputs_embeds)
        return self.norm(inputs_embeds)


class Phi3ForCausalLM(PreTrainedModel):
    config_class = Phi3Config

    def __init__(self, config: Phi3Config) -> None:
        super().__init__(config)
        self.model = Phi3Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(self, inputs_embeds: Tensor, **_: Any) -> CausalLMOutputWithPast:
        return CausalLMOutputWithPast(logits=self.lm_head(self.model(inputs_embeds)))
