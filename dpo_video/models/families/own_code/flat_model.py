"""Models of a flat layout: transformers' tower, a projector of the system's own and transformers'
language model, put together as LLaVA-OneVision's are there.

Shapes: B clips or rows, F frames, T tokens, n video tokens of a clip, D hidden size.
"""

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import (
    AutoModel,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionModel,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from dpo_video.models.families.own_code.flat_layout import FlatConfig


class FlatModel(LlavaOnevisionModel):
    """Tower, projector and language model without its head."""

    config_class = FlatConfig
    multi_modal_projector: Any
    read: ClassVar[tuple[str, ...]] = ("pixel_values_videos",)
    """What `get_video_features` takes of a processor's outputs, where they have it."""

    def __init__(self, config: FlatConfig) -> None:
        super(LlavaOnevisionModel, self).__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.add_projector(config)
        self.language_model = AutoModel.from_config(config.get_text_config())
        self.post_init()

    def add_projector(self, config: FlatConfig) -> None:
        """Set `multi_modal_projector`, and what parameters stand beside it."""
        raise NotImplementedError

    def encode(self, clips: Tensor) -> Tensor:
        """Return the rows (B, n, D) of clips (B, F, 3, H, W) of one length."""
        raise NotImplementedError

    def _init_weights(self, module: nn.Module) -> None:
        PreTrainedModel._init_weights(self, module)

    def get_video_features(self, pixel_values_videos: Tensor, **more: Any) -> Any:
        """Return the rows of clips as `pooler_output`."""
        return BaseModelOutputWithPooling(pooler_output=self.encode(pixel_values_videos))

    def forward(self, input_ids: Tensor | None = None, **inputs: Any) -> Any:
        """Return hidden states; the placeholder's id may be one that has no embedding."""
        features = (inputs.pop("mm_encoder_outputs", None) or {}).get("video")
        given = {name: inputs.pop(name, None) for name in self.read}
        read = {name: value for name, value in given.items() if value is not None}
        if features is None and read:
            features = self.get_video_features(**read)
        if input_ids is not None and inputs.get("inputs_embeds") is None:
            holes = input_ids == self.config.video_token_id
            embeddings = self.get_input_embeddings()(input_ids.masked_fill(holes, 0))
            if features is not None:
                rows = features.pooler_output.to(embeddings).flatten(0, -2)
                assert int(holes.sum()) == len(rows), (
                    f"{int(holes.sum())} placeholders and {len(rows)} rows of features"
                )
                embeddings = embeddings.masked_scatter(holes[..., None], rows)
            inputs["inputs_embeds"] = embeddings
        return super().forward(**inputs)


class FlatForCausalLM(LlavaOnevisionForConditionalGeneration):
    """A FlatModel with its head."""

    config_class = FlatConfig
    body: ClassVar[type[FlatModel]] = FlatModel

    def __init__(self, config: FlatConfig) -> None:
        super(LlavaOnevisionForConditionalGeneration, self).__init__(config)
        self.model = self.body(config)
        text = config.get_text_config()
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        PreTrainedModel._init_weights(self, module)

    def get_video_features(self, pixel_values_videos: Tensor, **more: Any) -> Any:
        """See FlatModel."""
        return self.model.get_video_features(pixel_values_videos, **more)
