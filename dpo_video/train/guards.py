"""What stops a training whose numbers could not be trusted: not finite, or a reference that is
another model.

B pairs, R = 2B rows (chosen, then rejected), T tokens.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile

import torch
from torch import Tensor
from transformers import TrainingArguments

from dpo_video.core.errors import UserError
from dpo_video.train.checkpoints import diverged_advice
from dpo_video.train.pair_batches import PairBatch

MARGIN_PER_TOKEN: dict[torch.dtype, float] = {
    torch.float32: 1e-5,
    torch.bfloat16: 2e-2,
    torch.float16: 5e-3,
}
"""Nats per answer token by which policy and reference may differ at step 0, where the adapter
changes nothing.

Both run the same kernels on the same rows, so 0 is expected; kernels chosen by batch or by gradient
mode may round differently, by about one unit in the last place of the logits (2e-2 at a logit of 4
in bfloat16).
"""
WRITE_FAILED = r"no space|quota|i/o error|writing file|write failed|unexpected pos"
"""How safetensors and torch tell of a disk that is full or fails, without an OSError; their words
change, so the disk itself is asked, too.
"""
PROBE_BYTES = 1 << 20


def not_finite(
    name: str, value: float, *, step: int, dtype: torch.dtype, args: TrainingArguments
) -> UserError:
    """Return the error for a number of a step, counted from 1, that is not finite."""
    if step == 1:
        return UserError(
            f"step 1: the {name} is {value} before any update, so the model itself gives no finite "
            f"number in {dtype}. Set model.dtype to float32 or bfloat16"
        )
    return UserError(f"step {step}: the {name} is {value}. {diverged_advice(args)}")


def check_reference(pairs: PairBatch, logps: Tensor, scored: Tensor, *, dtype: torch.dtype) -> None:
    """Raise UserError for log-probs (R, T - 1) of the reference that are not finite where `scored`
    (R, T - 1) is True.
    """
    row_is_finite = (torch.isfinite(logps) | ~scored).all(1).tolist()
    if not all(row_is_finite):
        pair = pairs.pairs[row_is_finite.index(False) % len(pairs.pairs)].pair
        raise UserError(
            f"before the first step: the reference gives an answer to sample {pair.sample_id!r} a "
            f"log-prob that is not finite in {dtype}. Set model.dtype to float32 or bfloat16, or "
            "take that pair out"
        )


def check_step_zero(differences: Sequence[float], *, num_tokens: int, dtype: torch.dtype) -> None:
    """Raise unless the policy says in the first step what the model says that training starts
    from: a new adapter changes nothing.

    Args:
        differences: between the mean log-ratios of policy and reference that TRL noted and those
            that the stored log-probs give, of chosen and of rejected answers, in nats.
        num_tokens: of the longest answer.
    """
    worst = max(map(abs, differences))
    allowed = MARGIN_PER_TOKEN[dtype] * num_tokens
    if not worst <= allowed:
        raise RuntimeError(
            f"before the first step, policy and reference differ by {worst:.3g} nats more than "
            f"they should on an answer of {num_tokens} tokens (at most {allowed:.3g} is rounding "
            f"in {dtype}). No step has changed anything, so one of them is another model than it "
            "is taken for, and no result could be trusted. With `train.trl.disable_dropout: false` "
            "the model's own dropout does "
            "this; otherwise please report it"
        )


def is_disk_error(error: Exception, folder: Path) -> bool:
    """Return whether writing to a folder failed because of the disk: by the error, or because it
    takes no more bytes now.
    """
    told = isinstance(error, OSError) or re.search(WRITE_FAILED, str(error), re.I) is not None
    return told or not _takes_bytes(folder)


def disk_error(error: Exception, folder: Path) -> UserError:
    """Return the error for a checkpoint that the disk did not take."""
    reason = str(error).strip().splitlines()[0][:200]
    return UserError(
        f"cannot write {str(folder)!r}: {reason}. Nothing stored is lost: make room or allow "
        "writing there, and run the same command again; training goes on from the last checkpoint"
    )


def _takes_bytes(folder: Path) -> bool:
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    return True
