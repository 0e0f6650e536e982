"""InternVL 3: frames in one tile each, which its processor returns as images."""

from collections.abc import Mapping

from torch import Tensor
from transformers import PretrainedConfig

from dpo_video.models.families.family import (
    ClipFeatures,
    Family,
    FrameSize,
    Model,
    VideoProcessor,
    no_pixel_bounds,
    pack_tensor,
    square_size,
    whole_patches,
)


def _features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    output = model.get_image_features(inputs["pixel_values"], return_dict=True)  # (F, n, D)
    return ClipFeatures(output.pooler_output.flatten(0, 1))


def shuffled_tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    """Return a clip's tokens as InternVLProcessor, and InternVLChatModel's `num_image_token`, count
    them: patches x downsample_ratio^2 a frame in one tile.
    """
    return num_frames * int(
        whole_patches(size, config.vision_config.patch_size) * config.downsample_ratio**2
    )


def patches_with_class_token(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    """Return the patches that the tower reads, a class token with each frame."""
    return num_frames * (whole_patches(size, config.vision_config.patch_size) + 1)


INTERNVL = Family(
    name="internvl",
    title="InternVL 3 and 3.5 (OpenGVLab/InternVL3-1B-hf, -2B-, -8B-, -14B-, -38B-, -78B-hf, "
    "OpenGVLab/InternVL3_5-1B-HF, -2B-, -4B-, -8B-, -14B-, -38B-HF)",
    features=_features,
    pack=pack_tensor,
    modality="image",
    placeholder=lambda config: int(config.image_token_id),
    pixel_inputs=("pixel_values",),
    frame_size=square_size,
    video_tokens=shuffled_tokens,
    vision_patches=patches_with_class_token,
    pixel_kwargs=no_pixel_bounds,
    formula="F x (H/28) x (W/28)",
    quirks="Its processor returns a video as images (`pixel_values`), a frame in one tile of 256 "
    "tokens at the "
    "published 448 pixels, squeezed to a square without a crop. The prompt numbers the frames and "
    "tells no "
    "times.",
)
