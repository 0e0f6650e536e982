"""EXAONE 4.5 and LFM3-VL: a grid of patches as Qwen's, plain positions, and language models most of
whose layers do not see the whole prefix.
"""

from dataclasses import replace

from dpo_video.models.families.family import LINEAR_PATH, SLIDING
from dpo_video.models.families.qwen import QWEN2_5_VL, QWEN3_5
from dpo_video.models.positions import plain_positions

EXAONE4_5 = replace(
    QWEN2_5_VL,
    name="exaone4_5",
    title="EXAONE 4.5 (LGAI-EXAONE/EXAONE-4.5-33B)",
    clip_inputs=("video_grid_thw",),
    position_axes=1,
    positions=plain_positions,
    install_positions=None,
    shared_prefix=False,
    why_not_shared=SLIDING,
    quirks="Frames as Qwen2.5-VL's, without times: positions count tokens.",
)
LFM3_VL = replace(
    QWEN3_5,
    name="lfm3_vl",
    title="LFM3-VL (LiquidAI/LFM3-VL-2B)",
    position_axes=1,
    positions=plain_positions,
    lora_targets=LINEAR_PATH
    + r"(self_attn\.(q|k|v|o|g)_proj|conv\.(in|out)_proj|feed_forward\.w[123])",
    why_not_shared="convolutions and sliding windows of its language model read a few tokens back, "
    "whatever a mask says",
    quirks="Frames and time stamps as Qwen3-VL's, with plain positions. Most layers are short "
    "convolutions or see 256 tokens back.",
)
