"""Perception LM: square frames through a timm tower, pooled by two on each side."""

from collections.abc import Mapping

from torch import Tensor
from transformers import PretrainedConfig

from dpo_video.models.families.family import (
    ClipFeatures,
    Family,
    FrameSize,
    Model,
    Tower,
    VideoProcessor,
    no_pixel_bounds,
    pack_tensor,
    square_size,
)


def _features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    """Return the features of frames, which the model takes as tiles of one image."""
    output = model.model.get_image_features(
        pixel_values=inputs["pixel_values_videos"], return_dict=True
    )
    return ClipFeatures(output.pooler_output.flatten(0, 1))


def _tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    """As PerceptionLMProcessor.replace_video_token; the projector pools by the same ratio."""
    step = _patch(config) * config.projector_pooling_ratio
    return num_frames * (size.height // step) * (size.width // step)


def _patches(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    return num_frames * (
        (size.height // _patch(config)) * (size.width // _patch(config))
        + bool(config.vision_use_cls_token)
    )


def _patch(config: PretrainedConfig) -> int:
    """Return the patch size, which a timm tower's config states as its grid over an image."""
    tower = config.vision_config.model_args
    return int(tower["img_size"][0] // tower["ref_feat_shape"][0])


def _tower(config: PretrainedConfig) -> Tower:
    """Return the tower's sizes; timm's default is an MLP four times as wide as the residual
    stream.
    """
    tower = config.vision_config.model_args
    return Tower(
        width=tower["embed_dim"],
        inner=round(tower["embed_dim"] * tower.get("mlp_ratio", 4)),
        patch=_patch(config),
    )


PERCEPTION_LM = Family(
    name="perception_lm",
    title="Perception LM (facebook/Perception-LM-1B, -3B, -8B)",
    features=_features,
    pack=pack_tensor,
    tower=_tower,
    frame_size=square_size,
    video_tokens=_tokens,
    vision_patches=_patches,
    pixel_kwargs=no_pixel_bounds,
    formula="F x (H/14 / 2) x (W/14 / 2)",
    quirks="Needs the package timm: `pip install dpo-video[families]`. Every frame is squeezed to "
    "a square.",
)
