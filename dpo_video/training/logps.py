"""Log-probabilities of given answers, for implicit rewards and for the check that a model is not blind.

R rows, T tokens, V vocabulary.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from peft import PeftModel
from torch import Tensor

from dpo_video.models.batches import Row, collate
from dpo_video.models.features import encode_video
from dpo_video.models.load import Policy
from dpo_video.models.prompts import answer_ids, encode_prompt, video_inputs
from dpo_video.recipe import VideoSettings
from dpo_video.training.batches import check_rows, completion_mask
from dpo_video.video import Frames

SCORED_POSITIONS = 1024
"""Positions whose logits exist at a time: (1024, V) float32 is 0.6 GB at V = 152,000."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blindness:
    """How much answers' log-probs move when a clip's frames are shuffled or blanked."""

    shuffled: float
    """Largest change in nats over the answers, frames in another order; 0 for a model without a sense of time."""
    blanked: float
    """Largest change in nats over the answers, all frames mid-grey; 0 means that the clip does not reach the model."""


def answer_logps(policy: Policy, rows: Sequence[Row], *, batch_size: int, adapter: bool = True) -> list[float]:
    """Return the log-prob of each row's answer, end of turn included: a sum over its tokens, in nats."""
    return [math.fsum(logps) for logps in token_logps(policy, rows, batch_size=batch_size, adapter=adapter)]


@torch.no_grad()
def token_logps(policy: Policy, rows: Sequence[Row], *, batch_size: int, adapter: bool = True) -> list[list[float]]:
    """Return the log-prob of each token of each row's answer, end of turn included, in nats.

    Rows are batched by length, which changes the results by rounding only.

    Args:
        batch_size: rows per forward.
        adapter: False switches the policy's adapter off: the reference's log-probs, of features made without it.
    """
    check_rows(policy, rows)
    order = sorted(range(len(rows)), key=lambda position: len(rows[position]))
    logps: list[list[float]] = [[]] * len(rows)
    with _adapter(policy, on=adapter), torch.autocast(policy.device.type, policy.dtype, enabled=_mixed(policy)):
        for begin in range(0, len(order), batch_size):
            chunk = order[begin:begin + batch_size]
            found = _forward(policy, [rows[position] for position in chunk])
            for position, values in zip(chunk, found, strict=True):
                logps[position] = values.tolist()
    return logps


def _forward(policy: Policy, rows: Sequence[Row]) -> list[Tensor]:
    """Return (answer tokens,) float32 nats for each row."""
    batch = collate(policy, rows, "right")
    model = policy.bare
    hidden = model.base_model(**batch, use_cache=False).last_hidden_state  # (R, T, D)
    scored = completion_mask(rows, batch)[:, 1:].bool()  # (R, T - 1), True where the next token is the answer's
    states, targets = hidden[:, :-1][scored], batch["input_ids"][:, 1:][scored]
    parts = []
    for begin in range(0, len(targets), SCORED_POSITIONS):
        part = slice(begin, begin + SCORED_POSITIONS)
        logits = model.get_output_embeddings()(states[part]).float()  # (positions, V)
        parts.append(logits.log_softmax(-1).gather(1, targets[part, None])[:, 0])
    return list(torch.cat(parts).split([len(row.answer) for row in rows]))


def _adapter(policy: Policy, *, on: bool) -> AbstractContextManager[None]:
    if on or not isinstance(policy.model, PeftModel):
        return nullcontext()
    return policy.model.disable_adapter()


def _mixed(policy: Policy) -> bool:
    """Return whether float32 adapters meet weights of another type: as in training, autocast brings them together."""
    return policy.dtype != torch.float32


def shuffled_video_changes_logps(policy: Policy, frames: Frames, settings: VideoSettings, *, question: str,
                                 answers: Sequence[str], seed: int = 0) -> Blindness:
    """Return how far answers' log-probs move when the clip's frames change order, and when they turn grey.

    A model that reads its clip has `blanked` far above rounding (1e-4 in float32); one trained or served without its
    video features has exactly 0.
    """
    order = torch.randperm(len(frames.pixels), generator=torch.Generator().manual_seed(seed)).tolist()
    if order == sorted(order):
        order = order[::-1]
    grey = replace(frames, pixels=frames.pixels * 0 + 127)
    true, shuffled, blanked = (
        torch.tensor(answer_logps(policy, clip_rows(policy, clip, settings, question=question, answers=answers),
                                  batch_size=8))
        for clip in (frames, replace(frames, pixels=frames.pixels[order]), grey))
    return Blindness(shuffled=float((true - shuffled).abs().max()), blanked=float((true - blanked).abs().max()))


def clip_rows(policy: Policy, frames: Frames, settings: VideoSettings, *, question: str,
              answers: Sequence[str]) -> list[Row]:
    """Return a row for each answer to one question about a clip."""
    clip = video_inputs(policy, frames, settings)
    features = encode_video(policy, clip)
    prompt = encode_prompt(policy, question, clip)
    return [Row(prompt=prompt, clip=clip, features=features, answer=tuple(answer_ids(policy, answer)))
            for answer in answers]
