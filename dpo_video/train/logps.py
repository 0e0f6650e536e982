"""Log-probabilities of given answers, for implicit rewards and for merging.

R rows, T tokens, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from dpo_video.core.errors import UserError
from dpo_video.core.records import History
from dpo_video.models.adapter import as_reference
from dpo_video.models.collate import TokenRow, encode_rows
from dpo_video.models.features import encode_video
from dpo_video.models.load import Policy
from dpo_video.models.prompts import answer_ids, encode_prompt, video_inputs
from dpo_video.models.shared_prefix.packed_rows import why_not_shared
from dpo_video.recipe import VideoSettings
from dpo_video.train.forward import Fused, rows_engine
from dpo_video.train.pair_batches import loss_inputs
from dpo_video.train.shared_prefix import IGNORED, shared_prefix_engine
from dpo_video.video import Frames

TREE_ROWS_AT_ONCE = 128
"""Answers about a clip that run as one tree: it bounds the memory of a clip with many questions."""
ROWS_AT_ONCE = 2
"""Of a model whose prefixes cannot be shared: as many as training has at least."""


def answer_logps(policy: Policy, rows: Sequence[TokenRow], *, adapter: bool = True) -> list[float]:
    """Return the log-prob of each row's answer, end of turn included: a sum over its tokens, in
    nats.
    """
    return [math.fsum(logps) for logps in token_logps(policy, rows, adapter=adapter)]


@torch.no_grad()
def token_logps(
    policy: Policy, rows: Sequence[TokenRow], *, adapter: bool = True
) -> list[list[float]]:
    """Return the log-prob of each token of each row's answer, end of turn included, in nats.

    Rows of a clip run as one tree where the model allows it, TREE_ROWS_AT_ONCE at a time, else
    ROWS_AT_ONCE.

    Args:
        adapter: False for the log-probs of the policy's reference, of features that it made.
    """
    engine, at_once = shared_prefix_engine, TREE_ROWS_AT_ONCE
    if why_not_shared(policy) is not None:
        engine, at_once = rows_engine, ROWS_AT_ONCE
    logps: list[list[float]] = []
    with (
        nullcontext() if adapter else as_reference(policy.model),
        torch.autocast(policy.device.type, policy.dtype, enabled=_mixed(policy)),
        fused_head(policy.bare) as fused,
    ):
        for begin in range(0, len(rows), at_once):
            batch = loss_inputs(policy, rows[begin : begin + at_once])
            if policy.family.encode == "in_forward":
                batch["rows"] = encode_rows(policy, batch["rows"])
            answered = batch.pop("completion_mask").bool()  # (R, T)
            labels = batch["input_ids"].masked_fill(~answered, IGNORED)
            log_probs = engine(
                fused, family=policy.family, labels=labels, **batch
            ).log_probs  # (R, T - 1)
            assert log_probs is not None, "the fused head gives log-probs always"
            if not torch.isfinite(log_probs[answered[:, 1:]]).all():
                raise UserError(
                    f"the model gives an answer a log-prob that is not finite in {policy.dtype}. "
                    "Set model.dtype to float32 or bfloat16"
                )
            logps += [
                row_logps[is_scored].tolist()
                for row_logps, is_scored in zip(log_probs, answered[:, 1:], strict=True)
            ]
    return logps


@contextmanager
def fused_head(model: PreTrainedModel) -> Iterator[Fused]:
    """Give the model's forward with TRL's fused head; afterwards the model is as it was."""
    forward = model.__dict__.get("forward")
    add_fused_lm_head(model)
    try:
        yield model.forward
    finally:
        if forward is None:
            del model.forward
        else:
            model.forward = forward


def _mixed(policy: Policy) -> bool:
    """Return whether float32 adapters meet weights of another type: as in training, autocast brings
    them together.
    """
    return policy.dtype != torch.float32


def clip_rows(
    policy: Policy,
    frames: Frames,
    settings: VideoSettings,
    *,
    question: str,
    answers: Sequence[str],
    history: History = None,
) -> list[TokenRow]:
    """Return a row for each answer to one question about a clip, behind earlier turns."""
    clip = video_inputs(policy, frames, settings)
    features = encode_video(policy, clip)
    prompt = encode_prompt(policy, question, clip, history=history)
    return [
        TokenRow(
            prompt=prompt, clip=clip, features=features, answer=tuple(answer_ids(policy, answer))
        )
        for answer in answers
    ]
