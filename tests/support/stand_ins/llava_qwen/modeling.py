"""A stand-in for LlavaQwenForCausalLM: its names of weights, its call with `images` and
`modalities`, its way to put a clip among the words.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Model
from transformers.modeling_outputs import CausalLMOutputWithPast

from stand_ins.llava_qwen.mm_utils import IMAGE_TOKEN_INDEX
from stand_ins.siglip import SiglipVisionModel


class SigLipVisionTower(nn.Module):
    """The whole tower less its last layer and its head."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.vision_tower = SiglipVisionModel(config)
        del self.vision_tower.vision_model.encoder.layers[-1:]
        self.vision_tower.vision_model.head = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.vision_tower(images)[-1]


class LlavaQwenModel(Qwen2Model):
    def __init__(self, config: Qwen2Config, tower: dict[str, Any]) -> None:
        super().__init__(config)
        self.vision_tower = SigLipVisionTower(tower)
        self.mm_projector = nn.Sequential(
            nn.Linear(tower["hidden_size"], config.hidden_size),
            nn.GELU(),
            nn.Linear(config.hidden_size, config.hidden_size),
        )
        self.image_newline = nn.Parameter(torch.randn(config.hidden_size))


class LlavaQwenForCausalLM(Qwen2ForCausalLM):
    def __init__(self, config: Qwen2Config, tower: dict[str, Any]) -> None:
        super().__init__(config)
        self.model = LlavaQwenModel(config, tower)

    def get_2dPool(self, image_feature: Tensor, stride: int = 2) -> Tensor:
        """Return patches (F, S x S, D) pooled by hand to (F, R, R, D)."""
        side = int(image_feature.shape[1] ** 0.5)
        grid = image_feature.reshape(len(image_feature), side, side, -1)
        if self.config.mm_spatial_pool_mode == "bilinear":
            rows = -(-side // stride)
            return nn.functional.interpolate(
                grid.permute(0, 3, 1, 2), size=[rows, rows], mode="bilinear"
            ).permute(0, 2, 3, 1)
        pooled = []
        for top in range(0, side - stride + 1, stride):
            for left in range(0, side - stride + 1, stride):
                square = grid[:, top : top + stride, left : left + stride].flatten(1, 2)
                largest = self.config.mm_spatial_pool_mode == "max"
                pooled.append(square.amax(1) if largest else square.mean(1))
        rows = side // stride
        return torch.stack(pooled, dim=1).unflatten(1, (rows, rows))

    def encode_video(self, video: Tensor) -> Tensor:
        """Return the rows (n, D) of a clip (F, 3, H, W), newline by newline."""
        pooled = self.get_2dPool(self.model.mm_projector(self.model.vision_tower(video)))
        position = self.config.mm_newline_position
        rows: list[Tensor] = []
        for frame in pooled:
            for line in frame:
                rows += list(line)
                rows += [self.model.image_newline] * (position == "grid")
            rows += [self.model.image_newline] * (position == "frame")
        rows += [self.model.image_newline] * (position == "one_token")
        return torch.stack(rows)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        images: list[Tensor] | None = None,
        image_sizes: list[list[int]] | None = None,
        modalities: list[str] | None = None,
        **more: Any,
    ) -> CausalLMOutputWithPast:
        """Run on one row of ids, among them IMAGE_TOKEN_INDEX for the clip."""
        if images is None:
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, **more)
        assert modalities == ["video"], "only videos are stood in for"
        (ids,), (video,) = input_ids, images
        place = ids.tolist().index(IMAGE_TOKEN_INDEX)
        words = self.model.embed_tokens
        row = torch.cat([words(ids[:place]), self.encode_video(video), words(ids[place + 1 :])])
        return super().forward(inputs_embeds=row[None], **more)
