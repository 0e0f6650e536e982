"""Tiny random models of every family, with offline processors: one builder per row of FAMILIES.

Every dimension that 4-bit quantisation may touch is a multiple of 64 (bitsandbytes' block).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_models
from transformers import PreTrainedModel

from tiny_families import ernie, grids, images, omni, qformer, qwen, shapes, squares, videos

BUILDERS: dict[str, Callable[[], tuple[PreTrainedModel, Any]]] = {
    "qwen2_5_vl": tiny_models.qwen2_5_vl,
    "llava_next_video": tiny_models.llava_next_video,
    "qwen2_vl": qwen.qwen2_vl,
    "qwen3_vl": qwen.qwen3_vl,
    "qwen3_vl_moe": qwen.qwen3_vl_moe,
    "qwen3_5": qwen.qwen3_5,
    "qwen3_5_moe": qwen.qwen3_5_moe,
    "qwen2_5_omni": omni.qwen2_5_omni,
    "qwen3_omni_moe": omni.qwen3_omni_moe,
    "llava_onevision": squares.llava_onevision,
    "video_llama_3": grids.video_llama_3,
    "glm4v": grids.glm4v,
    "glm46v": grids.glm46v,
    "glm4v_moe": grids.glm4v_moe,
    "exaone4_5": qwen.exaone4_5,
    "lfm3_vl": qwen.lfm3_vl,
    "video_llava": videos.video_llava,
    "internvl": videos.internvl,
    "smolvlm": videos.smolvlm,
    "llava": images.llava,
    "llava_next": images.llava_next,
    "pixtral": images.pixtral,
    "mistral3": images.mistral3,
    "minicpmv4_6": images.minicpmv4_6,
    "minicpmv4_7": images.minicpmv4_7,
    "gemma4": shapes.gemma4,
    "gemma4_moe": shapes.gemma4_moe,
    "ernie4_5_vl_moe": ernie.ernie4_5_vl_moe,
    "kimi_k25": shapes.kimi_k25,
    "molmo2": squares.molmo2,
    "perception_lm": squares.perception_lm,
    "instructblipvideo": qformer.instructblipvideo,
}


def tiny_family(name: str, folder: Path) -> Path:
    """Write the checkpoint of a family's tiny model into `folder`; return the folder."""
    return tiny_models.write_tiny(BUILDERS[name], folder)
