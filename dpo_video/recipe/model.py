"""Section `model`."""

from typing import Literal

from pydantic import Field

from dpo_video.recipe.section import Section


class ModelSettings(Section):
    """The policy: the video model that is tuned."""

    name: str
    """Hub id, local folder, or `toy:NAME`."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    family: str | None = None
    """Row of FAMILIES; None reads it from the checkpoint's `model_type`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights and compute; auto is bfloat16 where the device has it, else float32."""
    quantize: Literal["none", "nf4"] = "none"
    """`nf4` loads the language model in 4 bit (QLoRA); tower, projector and head stay out."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention kernel; auto leaves the choice to transformers."""
    positions: Literal["checkpoint", "transformers"] = "checkpoint"
    """M-RoPE rule: that of the published Qwen2/2.5-VL checkpoints, or that of transformers >= 5.3.
    """
    rope_factor: float | None = Field(default=None, gt=1)
    """Linear RoPE scaling: positions are divided by it, and the context is that much longer.
    LLaVA-NeXT-Video uses 2 for long clips. None leaves the checkpoint's positions."""
    trust_remote_code: bool = False
    """Allow code from the checkpoint's repository to run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is cuda when there is one."""
