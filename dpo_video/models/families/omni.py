"""Qwen2.5-Omni and Qwen3-Omni: the thinker, which reads a clip's frames and writes text."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dpo_video.models.families.family import FUSED_EXPERTS, Model, VideoProcessor, is_router
from dpo_video.models.families.qwen import QWEN2_5_VL, QWEN3_VL_MOE
from dpo_video.video import Frames

SILENT = (
    "The thinker is trained, from the whole checkpoint or one of its own; what is merged is a "
    "thinker, and its talker stays as it was published. A clip is read without its sound."
)


def _process(
    processor: Any, text: str, frames: Frames, kwargs: Mapping[str, Any]
) -> Mapping[str, Any]:
    """As the processor's own call, told how far apart the frames are: it takes them for 2 or 1 a
    second otherwise, whatever their times.
    """
    apart = (frames.times[-1] - frames.times[0]) / max(len(frames.times) - 1, 1)
    return processor(
        text=[text],
        videos=[frames.pixels],
        return_text_replacement_offsets=True,
        videos_kwargs={
            "do_sample_frames": False,
            "return_tensors": "pt",
            "fps": 1.0 / float(apart) if apart > 0 else 1.0,
            **kwargs,
        },
    )


def _positions(model: Model, input_ids: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return (3, P) positions; text stands above a clip's last step, as at release."""
    positions: Tensor = model.model.get_rope_index(
        input_ids[None],
        video_grid_thw=inputs["video_grid_thw"],
        attention_mask=torch.ones_like(input_ids)[None],
        second_per_grids=inputs["video_second_per_grid"],
    )[0][:, 0]
    return positions.long()


def _pixels(
    processor: VideoProcessor, min_pixels: int | None, max_pixels: int | None
) -> dict[str, Any]:
    """Return the bounds that the whole processor has, which stand above its video part's own
    (transformers 5.24), where a recipe sets none.
    """
    token = (processor.patch_size * processor.merge_size) ** 2
    return {
        "cap_pixels_per_frame": bool(processor.cap_pixels_per_frame),
        "size": {
            "shortest_edge": min_pixels or 128 * token,
            "longest_edge": max_pixels or 768 * token,
        },
    }


QWEN2_5_OMNI = replace(
    QWEN2_5_VL,
    name="qwen2_5_omni",
    title="Qwen2.5-Omni (Qwen/Qwen2.5-Omni-3B, -7B)",
    also=("qwen2_5_omni_thinker",),
    config_part="thinker_config",
    process=_process,
    clip_inputs=("video_grid_thw", "video_second_per_grid"),
    positions=_positions,
    install_positions=None,
    pixel_kwargs=_pixels,
    quirks=f"Frames and positions as Qwen2.5-VL's. {SILENT}",
)
QWEN3_OMNI_MOE = replace(
    QWEN3_VL_MOE,
    name="qwen3_omni_moe",
    title="Qwen3-Omni (Qwen/Qwen3-Omni-30B-A3B-Instruct)",
    also=("qwen3_omni_moe_thinker",),
    config_part="thinker_config",
    process=_process,
    clip_inputs=("video_grid_thw", "video_second_per_grid"),
    positions=_positions,
    pixel_kwargs=_pixels,
    lora_excludes=r".*audio_tower.*",
    untuned=is_router,
    no_4_bit=FUSED_EXPERTS,
    frame_size=QWEN2_5_VL.frame_size,
    resized=QWEN2_5_VL.resized,
    per_clip_bounds=frozenset(),
    formula="ceil(F/2) x (H/32) x (W/32)",
    quirks=f"Frames as Qwen2.5-VL's, features as Qwen3-VL's. LoRA tunes "
    f"attention, and the experts under `train.lora.experts`. {SILENT}",
)
