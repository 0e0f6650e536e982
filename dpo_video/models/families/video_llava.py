"""Video-LLaVA: a tower of its own for video, the class token of each frame kept."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput

from dpo_video.models.families.family import (
    ClipFeatures,
    Family,
    FrameSize,
    Model,
    VideoProcessor,
    no_pixel_bounds,
    square_size,
    whole_patches,
)


def _features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    # The generation class forwards get_image_features to its model, and has no get_video_features
    # (transformers 5.23).
    output = model.model.get_video_features(inputs["pixel_values_videos"], return_dict=True)
    return ClipFeatures(output.pooler_output.flatten(0, 1))


def _pack(clips: Sequence[ClipFeatures]) -> ModelOutput:
    """Return features as one tensor (1, N, D): the model words its check of their number with both
    axes.
    """
    return BaseModelOutputWithPooling(
        pooler_output=torch.cat([clip.embeddings for clip in clips])[None]
    )


def _tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    """As VideoLlavaProcessor.replace_video_token: video keeps the class token, whatever is selected
    for images.
    """
    return num_frames * (whole_patches(size, config.vision_config.patch_size) + 1)


VIDEO_LLAVA = Family(
    name="video_llava",
    title="Video-LLaVA (LanguageBind/Video-LLaVA-7B-hf)",
    features=_features,
    pack=_pack,
    frame_size=square_size,
    video_tokens=_tokens,
    vision_patches=_tokens,
    pixel_kwargs=no_pixel_bounds,
    lora_excludes=r".*image_tower.*",
    formula="F x ((H/14) x (W/14) + 1)",
    quirks="Frames are cropped to a square and cost 257 tokens each at the published 224 pixels, "
    "so that 8 frames, "
    "what it was trained with, fill half of its 4,096 tokens. It has a tower for images and "
    "another for video; "
    "only the latter is used.",
)
