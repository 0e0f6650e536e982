"""Video-LLaMA's vision branch on transformers' own BLIP-2 parts and Llama, its weights by the names
of the published code.

Published code: DAMO-NLP-SG/Video-LLaMA, video_llama/models/. Shapes: F frames, S queries of a
frame, Q of a clip, D hidden size of the language model.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Blip2Config,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionModel,
    GenerationMixin,
)
from transformers.configuration_utils import SubConfigSpec
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.blip_2.modeling_blip_2 import Blip2PreTrainedModel

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""The published Q-Formers are frozen in eval mode, where they have none."""
LN_VISION_EPS = 1e-5
"""Of the norm after the tower, whose own norms have another."""


class VideoLlamaConfig(Blip2Config):
    """Sizes of the parts, and how turns are written."""

    model_type = "video_llama"
    sub_configs_defaults = {  # noqa: RUF012  # as transformers declares it
        **Blip2Config.sub_configs_defaults,
        "video_qformer_config": SubConfigSpec(config_class=Blip2QFormerConfig),
    }
    video_qformer_config: dict[str, Any] | Any = None
    num_video_query_tokens: int = 32
    max_frame_pos: int = 32
    """Frames that have a position."""
    conversation: str = "llama_v2"
    """The published code's `--model_type`: `llama_v2` or `vicuna`."""


class VideoLLAMA(Blip2PreTrainedModel, GenerationMixin):
    """Named as the published class, whose names of weights it loads and saves."""

    config_class = VideoLlamaConfig
    base_model_prefix = "video_llama"
    _keys_to_ignore_on_load_unexpected = [r"^audio_", r"rotary_emb\.inv_freq"]  # noqa: RUF012  # a list is asked for

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        frames, clip = config.qformer_config, config.video_qformer_config
        self.vision_model = Blip2VisionModel._from_config(config.vision_config)
        self.vision_model.post_layernorm.eps = LN_VISION_EPS
        self.qformer = Blip2QFormerModel._from_config(frames)
        self.query_tokens = nn.Parameter(
            torch.zeros(1, config.num_query_tokens, frames.hidden_size)
        )
        self.video_frame_position_embedding = nn.Embedding(config.max_frame_pos, frames.hidden_size)
        self.video_qformer = Blip2QFormerModel._from_config(clip)
        self.video_query_tokens = nn.Parameter(
            torch.zeros(1, config.num_video_query_tokens, clip.hidden_size)
        )
        self.llama_proj = nn.Linear(clip.hidden_size, config.text_config.hidden_size)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> Any:
        """Return the language model's."""
        return self.language_model.get_input_embeddings()

    def get_video_features(self, pixel_values_videos: Tensor, **more: Any) -> Any:
        """Return the rows of clips (B, F, 3, H, W) of one length as `pooler_output` (B, Q, D)."""
        count, num_frames = pixel_values_videos.shape[:2]
        states = self.vision_model(pixel_values_videos.flatten(0, 1)).last_hidden_state
        queries = self.query_tokens.expand(len(states), -1, -1)
        frames = self.qformer(query_embeds=queries, encoder_hidden_states=states).last_hidden_state
        frames = frames.unflatten(0, (count, num_frames))  # (B, F, S, hidden)
        places = torch.arange(num_frames, device=frames.device)
        frames = frames + self.video_frame_position_embedding(places)[:, None]
        queries = self.video_query_tokens.expand(count, -1, -1)
        clips = self.video_qformer(
            query_embeds=queries, encoder_hidden_states=frames.flatten(1, 2)
        ).last_hidden_state
        return BaseModelOutputWithPooling(pooler_output=self.llama_proj(clips))

    def forward(self, input_ids: Tensor, pixel_values_videos: Tensor, **inputs: Any) -> Any:
        """Return logits for ids (1, T) whose placeholders stand for a clip (1, F, 3, H, W)."""
        embeddings = self.get_input_embeddings()(input_ids)
        holes = (input_ids == torch.tensor(self.config.image_token_index))[..., None]
        features = self.get_video_features(pixel_values_videos).pooler_output.to(embeddings)
        return self.language_model(
            inputs_embeds=embeddings.masked_scatter(holes, features), **inputs
        )


class JoinBiases(ConversionOps):
    """Biases of queries and values, with zeros for the keys between them, as one bias."""

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the bias of the fused layer."""
        first, last = (one_tensor(input_dict[name]) for name in source_patterns)
        return {target_patterns[0]: torch.cat([first, torch.zeros_like(first), last])}

    @property
    def reverse_op(self) -> "SplitBias":
        """Return what saving does."""
        return SplitBias()


class SplitBias(ConversionOps):
    """The inverse of JoinBiases."""

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the biases of queries and values."""
        (joined,) = input_dict.values()
        first, _, last = one_tensor(joined).chunk(3)
        return dict(zip(target_patterns, (first.contiguous(), last.contiguous()), strict=True))

    @property
    def reverse_op(self) -> JoinBiases:
        """Return what loading does."""
        return JoinBiases()


def one_tensor(collected: Any) -> Tensor:
    """Return a tensor that transformers may give in a list."""
    tensor: Tensor = collected[0] if isinstance(collected, list) else collected
    return tensor


BLOCK, LAYER = r"^visual_encoder\.blocks\.(\d+)\.", r"^vision_model.encoder.layers.(\d+)."
NAMES = {
    r"^visual_encoder\.cls_token": "^vision_model.embeddings.class_embedding",
    r"^visual_encoder\.pos_embed": "^vision_model.embeddings.position_embedding",
    r"^visual_encoder\.patch_embed\.proj\.": "^vision_model.embeddings.patch_embedding.",
    BLOCK + r"norm1\.": LAYER + "layer_norm1.",
    BLOCK + r"norm2\.": LAYER + "layer_norm2.",
    BLOCK + r"attn\.qkv\.weight": LAYER + "self_attn.qkv.weight",
    BLOCK + r"attn\.q_bias": LAYER + "attn.q_bias",
    BLOCK + r"attn\.v_bias": LAYER + "attn.v_bias",
    BLOCK + r"attn\.proj\.": LAYER + "self_attn.projection.",
    BLOCK + r"mlp\.": LAYER + "mlp.",
    r"^ln_vision\.": "^vision_model.post_layernorm.",
    r"^Qformer\.bert\.embeddings\.LayerNorm\.": "^qformer.layernorm.",
    r"^video_Qformer\.bert\.embeddings\.LayerNorm\.": "^video_qformer.layernorm.",
    r"^Qformer\.bert\.encoder\.": "^qformer.encoder.",
    r"^video_Qformer\.bert\.encoder\.": "^video_qformer.encoder.",
    r"attention\.self\.": "attention.attention.",
    r"^llama_model\.": "^language_model.",
}
register_checkpoint_conversion_mapping(
    VideoLLAMA.__name__,
    [
        *(WeightRenaming(theirs, ours) for theirs, ours in NAMES.items()),
        WeightConverter(["attn.q_bias", "attn.v_bias"], "self_attn.qkv.bias", [JoinBiases()]),
    ],
    overwrite=True,
)
AutoConfig.register("video_llama", VideoLlamaConfig, exist_ok=True)
AutoModelForImageTextToText.register(VideoLlamaConfig, VideoLLAMA, exist_ok=True)
