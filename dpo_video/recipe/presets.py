"""Frames as the families' own code takes them, as data: values of the `video` section by the name
of a preset.

Sources: LLaVA-Hound (8 frames, linspace), LLaVA-NeXT's video blog (16 frames of 144 tokens in
    4,096; 56 in 8,192 with
linear RoPE scaling by 2), qwen-vl-utils (2 fps, 4 to 768 frames, 128 to 768 tokens a pair of
frames, a total of pixels over the clip), VideoLLaMA 3 (1 fps, at most 180 frames).
"""

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """What a preset is for, and the settings it stands for."""

    meaning: str
    video: dict[str, Any]


PRESETS: dict[str, Preset] = {
    "llava_hound": Preset("LLaVA-Hound: 8 frames", {"policy": "uniform", "num_frames": 8}),
    "llava_next_video": Preset(
        "LLaVA-NeXT-Video: 16 frames of 144 tokens, in a context of 4,096",
        {"policy": "uniform", "num_frames": 16},
    ),
    "llava_next_video_long": Preset(
        "LLaVA-NeXT-Video: 56 frames in 8,192; set model.rope_factor=2 with it",
        {"policy": "uniform", "num_frames": 56},
    ),
    "qwen2_5_vl": Preset(
        "Qwen2.5-VL: 2 fps, 4 to 768 frames, 128 to 768 tokens a pair, total pixels capped",
        {
            "policy": "fps",
            "fps": 2.0,
            "min_frames": 4,
            "max_frames": 768,
            "min_pixels": 128 * 28 * 28,
            "max_pixels": 768 * 28 * 28,
            "cap_pixels": True,
        },
    ),
    "video_llama_3": Preset(
        "VideoLLaMA 3: 1 fps, at most 180 frames",
        {"policy": "fps", "fps": 1.0, "min_frames": 1, "max_frames": 180},
    ),
}
