"""Section `model`."""

from typing import Annotated, Literal

from pydantic import Field

from dpo_video.recipe.affects import CONTENTS_IN_KEYS, Affects
from dpo_video.recipe.section import Section

ANSWERS_AND_WEIGHTS = Affects.ANSWERS | Affects.WEIGHTS


class ModelSettings(Section):
    """The policy: the video model that is tuned."""

    name: Annotated[str, ANSWERS_AND_WEIGHTS]
    """Hub id, local folder, or `toy:NAME`."""
    revision: Annotated[str | None, ANSWERS_AND_WEIGHTS] = None
    """Hub revision (branch, tag or commit)."""
    adapter: Annotated[str | None, ANSWERS_AND_WEIGHTS, CONTENTS_IN_KEYS] = None
    """Folder of a LoRA adapter that the policy starts with, e.g. that of an SFT stage: it samples
    with it, training goes on from it, and evaluation compares with it. Its rank, alpha and layers
    must be those of `train`. None starts from the model alone."""
    family: Annotated[str | None, ANSWERS_AND_WEIGHTS] = None
    """Row of FAMILIES, or a Python file that holds one of your own (docs/families.md); None reads
    it from the checkpoint's `model_type`."""
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], ANSWERS_AND_WEIGHTS] = (
        "auto"
    )
    """Weights and compute; auto is bfloat16 where the device has it, else float32."""
    quantize: Annotated[Literal["none", "nf4"], ANSWERS_AND_WEIGHTS] = "none"
    """`nf4` loads the language model in 4 bit (QLoRA); tower, projector and head stay out."""
    attention: Annotated[
        Literal["auto", "sdpa", "eager", "flash_attention_2"], ANSWERS_AND_WEIGHTS
    ] = "auto"
    """Attention kernel; auto leaves the choice to transformers."""
    positions: Annotated[Literal["checkpoint", "transformers"], ANSWERS_AND_WEIGHTS] = "checkpoint"
    """M-RoPE rule: that of the published Qwen2/2.5-VL checkpoints, or that of transformers >= 5.3.
    """
    rope_factor: Annotated[float | None, ANSWERS_AND_WEIGHTS] = Field(default=None, gt=1)
    """Linear RoPE scaling: positions are divided by it, and the context is that much longer.
    LLaVA-NeXT-Video uses 2 for long clips. None leaves the checkpoint's positions."""
    trust_remote_code: Annotated[bool, ANSWERS_AND_WEIGHTS] = False
    """Allow code that is not ours to run: the checkpoint's repository's, of a commit that
    `model.revision` pins, or that of the file in `model.family`."""
    device: Annotated[Literal["auto", "cpu", "cuda"], Affects.ANSWERS] = "auto"
    """auto is cuda when there is one."""
