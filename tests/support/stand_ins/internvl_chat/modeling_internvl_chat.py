"""A stand-in for InternVLChatModel: its signatures, its names of weights, what trips a loader of
today (no `post_init`, numbers read off tensors while it is made), and what its tower does in
training mode alone: it leaves out paths at random, and recomputes layers in torch's old way.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithPast

from .configuration_internvl_chat import InternVisionConfig, InternVLChatConfig
from .conversation import get_conv_template
from .modeling_internlm2 import InternLM2ForCausalLM
from .modeling_phi3 import Phi3ForCausalLM

LANGUAGE = {
    "InternLM2ForCausalLM": InternLM2ForCausalLM,
    "LlamaForCausalLM": LlamaForCausalLM,
    "Phi3ForCausalLM": Phi3ForCausalLM,
    "Qwen2ForCausalLM": Qwen2ForCausalLM,
}


class InternAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        parts = self.qkv(states).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*parts)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class InternMLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, states: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(states)))


class InternVisionEncoderLayer(nn.Module):
    def __init__(self, config: InternVisionConfig, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.attn = InternAttention(config.hidden_size, config.num_attention_heads)
        self.mlp = InternMLP(config.hidden_size, config.intermediate_size)
        self.norm1 = nn.LayerNorm(config.hidden_size)
        self.norm2 = nn.LayerNorm(config.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.kept(self.attn(self.norm1(states)))
        return states + self.kept(self.mlp(self.norm2(states)))

    def kept(self, update: Tensor) -> Tensor:
        """Leave out the update of whole frames at random, as timm's DropPath does."""
        if not self.training or self.drop_path == 0:
            return update
        keep = torch.rand(len(update), 1, 1) >= self.drop_path
        return update * keep / (1 - self.drop_path)


class InternVisionModel(PreTrainedModel):
    main_input_name = "pixel_values"
    config_class = InternVisionConfig

    def __init__(self, config: InternVisionConfig) -> None:
        super().__init__(config)
        count = (config.image_size // config.patch_size) ** 2
        self.class_embedding = nn.Parameter(torch.randn(1, 1, config.hidden_size))
        self.position_embedding = nn.Parameter(torch.randn(1, count + 1, config.hidden_size))
        self.patch_embedding = nn.Conv2d(
            3, config.hidden_size, config.patch_size, stride=config.patch_size
        )
        rates = torch.linspace(0, config.drop_path_rate, config.num_hidden_layers)
        self.layers = nn.ModuleList(InternVisionEncoderLayer(config, rate.item()) for rate in rates)
        self.gradient_checkpointing = True

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput:
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), -1, -1)
        states = torch.cat([first, patches], dim=1) + self.position_embedding
        every = [states]
        for layer in self.layers:
            recomputed = self.gradient_checkpointing and self.training
            states = checkpoint(layer, states) if recomputed else layer(states)
            every.append(states)
        return BaseModelOutput(last_hidden_state=states, hidden_states=tuple(every))


class InternVLChatModel(PreTrainedModel):
    config_class = InternVLChatConfig
    main_input_name = "pixel_values"
    base_model_prefix = "language_model"
    _no_split_modules = (
        "InternVisionModel",
        "LlamaDecoderLayer",
        "InternLM2DecoderLayer",
        "Phi3DecoderLayer",
        "Qwen2DecoderLayer",
    )
    supports_gradient_checkpointing = True

    def __init__(
        self,
        config: InternVLChatConfig,
        vision_model: Any = None,
        language_model: Any = None,
        use_flash_attn: bool = True,
    ) -> None:
        super().__init__(config)
        self.select_layer = config.select_layer
        self.downsample_ratio = config.downsample_ratio
        self.ps_version = config.ps_version
        self.vision_model = vision_model or InternVisionModel(config.vision_config)
        make = LANGUAGE[config.llm_config.architectures[0]]
        self.language_model = language_model or make(config.llm_config)
        stacked = config.vision_config.hidden_size * int(1 / config.downsample_ratio) ** 2
        width = config.llm_config.hidden_size
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(stacked), nn.Linear(stacked, width), nn.GELU(), nn.Linear(width, width)
        )
        self.img_context_token_id = None
        self.conv_template = get_conv_template(config.template)
        self.system_message = self.conv_template.system_message

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        image_flags: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutputWithPast:
        flags = image_flags.squeeze(-1)
        embeddings = self.language_model.get_input_embeddings()(input_ids).clone()
        frames = self.extract_feature(pixel_values)[flags == 1]
        holes = input_ids == self.img_context_token_id
        embeddings[holes] = embeddings[holes] * 0.0 + frames.reshape(-1, embeddings.shape[-1])
        cached = {} if past_key_values is None else {"past_key_values": past_key_values}
        output = self.language_model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            **cached,
        )
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(
                output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            )
        return CausalLMOutputWithPast(
            loss=loss, logits=output.logits, past_key_values=output.past_key_values
        )

    def pixel_shuffle(self, x: Tensor, scale_factor: float = 0.5) -> Tensor:
        step = int(1 / scale_factor)
        count, height, width, depth = x.shape
        tiles = x.reshape(count, height // step, step, width // step, step, depth)
        rows = tiles.permute(0, 1, 3, 2, 4, 5).flatten(3)
        return rows.transpose(1, 2) if self.ps_version == "v1" else rows

    def extract_feature(self, pixel_values: Tensor) -> Tensor:
        output = self.vision_model(
            pixel_values=pixel_values,
            output_hidden_states=self.select_layer != -1,
            return_dict=True,
        )
        states = output.hidden_states[self.select_layer][:, 1:]
        side = int(states.shape[1] ** 0.5)
        grid = states.reshape(len(states), side, side, -1)
        return self.mlp1(self.pixel_shuffle(grid, self.downsample_ratio).flatten(1, 2))

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()
