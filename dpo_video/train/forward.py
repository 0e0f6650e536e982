"""The one place where TRL's forward for the loss is answered.

B pairs, R = 2B rows (chosen, then rejected), T tokens.
"""

import types
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from dpo_video.models.collate import TokenRow
from dpo_video.models.families import Family
from dpo_video.models.features import pack_features

Fused = Callable[..., FusedCausalLMOutput]
"""The bare model's forward with TRL's fused head."""
Engine = Callable[..., FusedCausalLMOutput]
"""engine(fused, family=, rows=, **batch) -> per-token results (R, T - 1), as TRL's fused head
returns them.
"""


def rows_engine(
    fused: Fused, *, family: Family, rows: Sequence[TokenRow], **batch: Any
) -> FusedCausalLMOutput:
    """Run every row on its own: a prompt is repeated for each of its answers."""
    packed = pack_features(family, [row.features for row in rows])
    return fused(**batch, fused_lm_head=True, mm_encoder_outputs=packed)


def install_engine(
    base: PreTrainedModel,
    family: Family,
    engine: Engine = rows_engine,
    *,
    encode: Callable[[Sequence[TokenRow]], Sequence[TokenRow]] | None = None,
) -> None:
    """Answer `base(..., fused_lm_head=True)`, as TRL's loss and reference ask it, by `engine`;
    other calls stay.

    Args:
        base: the bare model to which `trl.trainer.utils.add_fused_lm_head` was applied.
        encode: puts features into the rows, where tower or projector are tuned, or features depend
            on the question. It runs inside the
            model's forward: what DDP and FSDP do around one holds for the tower too, and so does an
            adapter that is off.
    """
    fused = base.forward

    @wraps(type(base).forward)  # generate() reads the signature
    def forward(
        self: PreTrainedModel,
        *args: Any,
        fused_lm_head: bool = False,
        rows: Sequence[TokenRow] | None = None,
        **kwargs: Any,
    ) -> Any:
        if not fused_lm_head:
            return fused(*args, **kwargs)
        if rows is None:
            raise RuntimeError(
                "a loss was asked for a batch without clip features: it would be trained blind"
            )
        return engine(fused, family=family, rows=rows if encode is None else encode(rows), **kwargs)

    base.forward = types.MethodType(forward, base)
