"""A stand-in for InternLM2: names of weights and layout of `wqkv` as published."""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_internlm2 import InternLM2Config
from .language_parts import Norm, attention, rotated


class InternLM2Attention(nn.Module):
    def __init__(self, config: InternLM2Config) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        heads = config.num_attention_heads + 2 * config.num_key_value_heads
        self.wqkv = nn.Linear(config.hidden_size, heads * self.head_dim, bias=config.bias)
        self.wo = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)

    def forward(self, states: Tensor) -> Tensor:
        groups = self.config.num_key_value_heads
        parts = self.wqkv(states).unflatten(-1, (groups, -1, self.head_dim))
        queries = parts[:, :, :, :-2].flatten(2, 3)
        keys, values = parts[:, :, :, -2], parts[:, :, :, -1]
        steps = range(0, self.head_dim, 2)
        theta = self.config.rope_theta
        frequencies = states.new_tensor([theta ** (-step / self.head_dim) for step in steps])
        queries, keys, values = (part.transpose(1, 2) for part in (queries, keys, values))
        return self.wo(attention(rotated(queries, frequencies), rotated(keys, frequencies), values))


class InternLM2MLP(nn.Module):
    def __init__(self, config: InternLM2Config) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        return self.w2(nn.functional.silu(self.w1(states)) * self.w3(states))


class InternLM2DecoderLayer(nn.Module):
    def __init__(self, config: InternLM2Config) -> None:
        super().__init__()
        self.attention = InternLM2Attention(config)
        self.feed_forward = InternLM2MLP(config)
        self.attention_norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.ffn_norm = Norm(config.hidden_size, config.rms_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.attention(self.attention_norm(states))
        return states + self.feed_forward(self.ffn_norm(states))


class InternLM2Model(PreTrainedModel):
    config_class = InternLM2Config

    def __init__(self, config: InternLM2Config) -> None:
        super().__init__(config)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            InternLM2DecoderLayer(config) for _ in range(config.num_hidden_layers)
        )
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def forward(self, inputs_embeds: Tensor) -> Tensor:
        for layer in self.layers:
            inputs_embeds = layer(inputs_embeds)
        return self.norm(inputs_embeds)


class InternLM2ForCausalLM(PreTrainedModel):
    config_class = InternLM2Config

    def __init__(self, config: InternLM2Config) -> None:
        super().__init__(config)
        self.model = InternLM2Model(config)
        self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.tok_embeddings

    def get_output_embeddings(self) -> nn.Module:
        return self.output

    def forward(self, inputs_embeds: Tensor, **_: Any) -> CausalLMOutputWithPast:
        return CausalLMOutputWithPast(logits=self.output(self.model(inputs_embeds)))
