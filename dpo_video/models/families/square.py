"""Families whose processor brings every frame to one size, whatever the clip: Video-LLaVA, InternVL and SmolVLM."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput

from dpo_video.errors import UserError
from dpo_video.models.families.family import ClipFeatures, Family, FrameSize, Model, VideoProcessor, pack_list


def square_size(processor: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]) -> FrameSize:
    """Return the size of the processor's crop, or what it resizes to where it does not crop."""
    chosen = processor.crop_size if processor.do_center_crop else processor.size
    return FrameSize(chosen["height"], chosen["width"])


def square_pixels(processor: VideoProcessor, least: int | None, most: int | None) -> dict[str, Any]:
    """Return no keyword arguments; raises UserError where pixel bounds are set, which could change nothing."""
    if least is not None or most is not None:
        raise UserError("this model family gives every frame the size that its checkpoint names: leave out "
                        "video.min_pixels and video.max_pixels, and use video.num_frames to save tokens")
    return {}


def pack_tensor(clips: Sequence[ClipFeatures]) -> ModelOutput:
    """Return features as one tensor (1, N, D), for models that fill the placeholders of a batch in a single sweep."""
    return BaseModelOutputWithPooling(pooler_output=torch.cat([clip.embeddings for clip in clips])[None])


def patches(size: FrameSize, patch: int | Sequence[int]) -> int:
    """Return the whole patches of one frame; `patch` is their side, or height and width."""
    height, width = (patch, patch) if isinstance(patch, int) else patch
    return (size.height // height) * (size.width // width)


def _video_llava_features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    # The generation class forwards get_image_features to its model, and has no get_video_features (transformers 5.23).
    out = model.model.get_video_features(inputs["pixel_values_videos"], return_dict=True)
    return ClipFeatures(out.pooler_output.flatten(0, 1))


def _video_llava_tokens(processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize) -> int:
    """As VideoLlavaProcessor.replace_video_token: video keeps the class token, whatever is selected for images."""
    return num_frames * (patches(size, config.vision_config.patch_size) + 1)


VIDEO_LLAVA = Family(
    name="video_llava",
    title="Video-LLaVA (LanguageBind/Video-LLaVA-7B-hf)",
    features=_video_llava_features,
    pack=pack_tensor,
    frame_size=square_size,
    video_tokens=_video_llava_tokens,
    vision_patches=_video_llava_tokens,
    pixel_kwargs=square_pixels,
    quirks="Frames are cropped to a square and cost 257 tokens each at the published 224 pixels, so that 8 frames, "
           "what it was trained with, fill half of its 4,096 tokens. It has a tower for images and another for video; "
           "only the latter is used.",
)


def _internvl_features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    out = model.get_image_features(inputs["pixel_values"], return_dict=True)  # (F, n, D)
    return ClipFeatures(out.pooler_output.flatten(0, 1))


def _internvl_tokens(processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize) -> int:
    """As InternVLProcessor: image_seq_length is patches x downsample_ratio^2, from the size of the frames."""
    return num_frames * int(patches(size, config.vision_config.patch_size) * config.downsample_ratio**2)


def _with_class_token(processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize) -> int:
    return num_frames * (patches(size, config.vision_config.patch_size) + 1)


INTERNVL = Family(
    name="internvl",
    title="InternVL 3 and 3.5 (OpenGVLab/InternVL3-1B-hf, -2B-, -8B-, -14B-, -38B-, -78B-hf, "
          "OpenGVLab/InternVL3_5-*-HF)",
    features=_internvl_features,
    pack=pack_tensor,
    modality="image",
    placeholder=lambda config: int(config.image_token_id),
    pixel_inputs=("pixel_values",),
    frame_size=square_size,
    video_tokens=_internvl_tokens,
    vision_patches=_with_class_token,
    pixel_kwargs=square_pixels,
    quirks="Its processor returns a video as images (`pixel_values`), a frame in one tile of 256 tokens at the "
           "published 448 pixels, squeezed to a square without a crop. The prompt numbers the frames and tells no "
           "times.",
)


def _smolvlm_features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    """Return the features of all frames, those of value 0 included.

    get_image_features takes a frame that is 0 everywhere for padding and drops it, and its tokens stay without
    features. One value of the smallest normal number keeps it; what the tower makes of it is the same.
    """
    pixels = inputs["pixel_values"].clone()  # (1, F, 3, H, W)
    empty = (pixels == 0).flatten(2).all(2)  # (1, F)
    pixels[..., 0, 0, 0][empty] = torch.finfo(model.dtype).tiny
    out = model.get_image_features(pixels, inputs["pixel_attention_mask"], return_dict=True)
    return ClipFeatures(torch.cat(list(out.pooler_output)))


def _smolvlm_size(processor: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]) -> FrameSize:
    """As SmolVLMVideoProcessor.resize: whatever comes between, frames end as squares of `max_image_size`."""
    edge = processor.max_image_size["longest_edge"]
    return FrameSize(edge, edge)


def _smolvlm_tokens(processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize) -> int:
    """As the connector: a square of scale_factor x scale_factor patches becomes one token."""
    return num_frames * (patches(size, config.vision_config.patch_size) // config.scale_factor**2)


def _smolvlm_patches(processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize) -> int:
    return num_frames * patches(size, config.vision_config.patch_size)


SMOLVLM = Family(
    name="smolvlm",
    title="SmolVLM2 (HuggingFaceTB/SmolVLM2-256M-Video-Instruct, -500M-Video-Instruct, -2.2B-Instruct)",
    features=_smolvlm_features,
    pack=pack_list,
    modality="image",
    placeholder=lambda config: int(config.image_token_id),
    pixel_inputs=("pixel_values", "pixel_attention_mask"),
    frame_size=_smolvlm_size,
    video_tokens=_smolvlm_tokens,
    vision_patches=_smolvlm_patches,
    pixel_kwargs=square_pixels,
    quirks="Its processor needs the package num2words (extra `families`): the prompt says in words how many frames "
           "there are, the clip's length, and each frame's minute and second. A frame takes 81 tokens in the 2.2B "
           "model and 64 in the smaller ones. In a batch the stock processor counts padded frames too; here clips are "
           "processed one by one, so a prompt never depends on its neighbours.",
)
