"""A stand-in for VideoLLaMA 2's models: their names of weights, their call with `images` as pairs
of a tensor and its kind, or of a dict of a clip's two tensors, their way to put a clip among the
words.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MistralForCausalLM,
    MistralModel,
    PretrainedConfig,
    Qwen2ForCausalLM,
    Qwen2Model,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from stand_ins.clip import CLIPVisionModel
from stand_ins.siglip import SiglipVisionModel
from stand_ins.videollama2.beats import SIZES, BEATs
from stand_ins.videollama2.mm_utils import VIDEO_TOKEN_INDEX
from stand_ins.videollama2.projector import STCConnector


class VisionTower(nn.Module):
    """The whole tower, of which the last layer but one is read."""

    def __init__(self, tower: dict[str, Any]) -> None:
        super().__init__()
        clip = tower["model_type"] == "clip_vision_model"
        self.vision_tower = CLIPVisionModel(tower) if clip else SiglipVisionModel(tower)
        self.class_tokens = int(clip)

    def forward(self, images: Tensor) -> Tensor:
        return self.vision_tower(images)[-2][:, self.class_tokens :]


class Videollama2MistralModel(MistralModel):
    def __init__(self, config: PretrainedConfig, tower: dict[str, Any]) -> None:
        super().__init__(config)
        self.vision_tower = VisionTower(tower)
        self.mm_projector = STCConnector(config)


class Videollama2Qwen2Model(Qwen2Model):
    def __init__(self, config: PretrainedConfig, tower: dict[str, Any]) -> None:
        super().__init__(config)
        self.vision_tower = VisionTower(tower)
        self.mm_projector = STCConnector(config)
        if hasattr(config, "mm_audio_tower"):
            self.audio_tower = BEATs(SIZES)
            self.mm_projector_a = build_audio_projector(config)


def build_audio_projector(config: PretrainedConfig) -> nn.Module:
    width, hidden = config.mm_hidden_size_a, config.hidden_size_a
    if config.mm_projector_a_type == "linear":
        return nn.Linear(width, hidden)
    assert config.mm_projector_a_type == "mlp2x_gelu", "other depths are not stood in for"
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))


class WithClips:
    """What both models have beside their language models."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        images: list[tuple[Tensor | dict[str, Tensor], str]] | None = None,
        **more: Any,
    ) -> CausalLMOutputWithPast:
        """Run on one row of ids, among them VIDEO_TOKEN_INDEX for the clip."""
        if images is None:
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, **more)
        (ids,), ((clip, kind),) = input_ids, images
        assert kind == "video", "only videos are stood in for"
        video = clip["video"] if isinstance(clip, dict) else clip
        rows = self.model.mm_projector(self.model.vision_tower(video)[None])[0]
        if isinstance(clip, dict):
            heard, _, _ = self.model.audio_tower.extract_features(clip["audio"])
            rows = torch.cat([rows, self.model.mm_projector_a(heard)[0]], dim=0)
        place = ids.tolist().index(VIDEO_TOKEN_INDEX)
        words = self.model.embed_tokens
        row = torch.cat([words(ids[:place]), rows, words(ids[place + 1 :])])
        return super().forward(inputs_embeds=row[None], **more)


class Videollama2MistralForCausalLM(WithClips, MistralForCausalLM):
    def __init__(self, config: PretrainedConfig, tower: dict[str, Any]) -> None:
        super().__init__(config)
        self.model = Videollama2MistralModel(config, tower)


class Videollama2Qwen2ForCausalLM(WithClips, Qwen2ForCausalLM):
    def __init__(self, config: PretrainedConfig, tower: dict[str, Any]) -> None:
        super().__init__(config)
        self.model = Videollama2Qwen2Model(config, tower)
