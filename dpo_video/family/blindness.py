"""Whether a policy is blind: how far its log-probs move when a clip's frames change."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from dpo_video.models.load import Policy
from dpo_video.recipe import VideoSettings
from dpo_video.train.logps import answer_logps, clip_rows
from dpo_video.video import Frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Blindness:
    """How much answers' log-probs move when a clip's frames are shuffled or blanked."""

    shuffled: float
    """Largest change in nats over the answers, frames in another order; 0 for a model without a
    sense of time.
    """
    blanked: float
    """Largest change in nats over the answers, all frames mid-grey; 0 means that the clip does not
    reach the model.
    """


def shuffled_video_changes_logps(
    policy: Policy,
    frames: Frames,
    settings: VideoSettings,
    *,
    question: str,
    answers: Sequence[str],
    seed: int = 0,
) -> Blindness:
    """Return how far answers' log-probs move when the clip's frames change order, and when they
    turn grey.

    A model that reads its clip has `blanked` far above rounding (1e-4 in float32); one trained or
    served without its video features has exactly 0.
    """
    order = torch.randperm(
        len(frames.pixels), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    if order == sorted(order):
        order = order[::-1]
    grey = replace(frames, pixels=frames.pixels * 0 + 127)
    true, shuffled, blanked = (
        torch.tensor(
            answer_logps(
                policy, clip_rows(policy, clip, settings, question=question, answers=answers)
            )
        )
        for clip in (frames, replace(frames, pixels=frames.pixels[order]), grey)
    )
    return Blindness(
        shuffled=float((true - shuffled).abs().max()), blanked=float((true - blanked).abs().max())
    )
