"""VideoLLaMA 3: a grid of patches of any size, a time stamp a frame, and near-duplicate tokens
dropped.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.models.video_llama_3.video_processing_video_llama_3 import smart_resize

from dpo_video.models.families.family import (
    ClipFeatures,
    Family,
    FrameSize,
    Model,
    VideoProcessor,
    pack_list,
)
from dpo_video.models.families.qwen import grid_patches, grid_tokens, pixel_bounds


def _features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    """Return the features that compression keeps: as many as the prompt has placeholders.

    The forward would drop the others itself given the mask, but generate cannot repeat them for
    several answers.
    """
    output = model.get_video_features(
        inputs["pixel_values_videos"],
        inputs["video_grid_thw"],
        video_merge_sizes=inputs["video_merge_sizes"],
        return_dict=True,
    )
    return ClipFeatures(torch.cat(list(output.pooler_output))[inputs["video_compression_mask"]])


def _size(
    processor: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]
) -> FrameSize:
    """As VideoLlama3VideoProcessor.resize (transformers 5.23): the frames share the upper bound,
    each has the lower.
    """
    edges = {**dict(processor.size), **kwargs.get("size", {})}
    height, width = smart_resize(
        size.height,
        size.width,
        processor.patch_size * processor.merge_size,
        min_pixels=edges["shortest_edge"],
        max_pixels=edges["longest_edge"] // num_frames,
    )
    return FrameSize(height, width)


VIDEO_LLAMA_3 = Family(
    name="video_llama_3",
    title="VideoLLaMA 3 (lkhl/VideoLLaMA3-2B-Image-HF and the other conversions of "
    "DAMO-NLP-SG/VideoLLaMA3)",
    features=_features,
    pack=pack_list,
    pixel_inputs=(
        "pixel_values_videos",
        "video_grid_thw",
        "video_merge_sizes",
        "video_compression_mask",
    ),
    frame_size=_size,
    video_tokens=grid_tokens,
    vision_patches=grid_patches,
    pixel_kwargs=pixel_bounds,
    per_clip_bounds=frozenset({"max"}),
    compresses=True,
    formula="at most F x (H/28) x (W/28), and a time stamp a frame",
    quirks="Tokens that hardly differ from the frame before are dropped: a static clip costs far "
    "less than counted. "
    "DAMO-NLP-SG's own repositories need their code; use the conversions of model type "
    "`video_llama_3`.",
)
