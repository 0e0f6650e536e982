"""The table of sampled pairs that tracking shows: a strip of frames, both answers, scores and the
judge's reasons.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dpo_video.core.records import Judgment, Pair
from dpo_video.core.turns import whole_question
from dpo_video.recipe import VideoSettings
from dpo_video.video import Frames, VideoError, resolve_video
from dpo_video.video.read import read_frames

STRIP_HEIGHT = 96
"""Pixels."""
STRIP_FRAMES = 8


def tracked_rows(
    pairs: Sequence[Pair],
    judgments: Mapping[str, Judgment],
    *,
    root: Path,
    video: VideoSettings,
    count: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Return `count` pairs, drawn by seed, as table rows.

    `frames` is uint8 (96, W, 3), or None with a `note` for a clip that cannot be read.
    """
    drawn = random.Random(seed).sample(list(pairs), min(count, len(pairs)))
    rows = []
    for pair in drawn:
        try:
            read = read_frames(
                resolve_video(pair.video, root), video, start=pair.start, end=pair.end
            )
            strip, note = frame_strip(read), ""
        except VideoError as error:
            strip, note = None, str(error)
        rows.append(
            {
                "sample": pair.sample_id,
                "prompt": whole_question(pair),
                "frames": strip,
                "note": note,
                "chosen": pair.chosen,
                "chosen_score": pair.chosen_score,
                "chosen_reason": _reason(judgments.get(pair.chosen_id)),
                "rejected": pair.rejected,
                "rejected_score": pair.rejected_score,
                "rejected_reason": _reason(judgments.get(pair.rejected_id)),
            }
        )
    return rows


def frame_strip(frames: Frames) -> NDArray[np.uint8]:
    """Return at most 8 of the frames side by side, uint8 (96, W, 3)."""
    chosen = (
        np.linspace(0, len(frames.pixels) - 1, min(STRIP_FRAMES, len(frames.pixels)))
        .round()
        .astype(int)
    )
    height, width = frames.pixels.shape[1:3]
    size = (max(1, round(width * STRIP_HEIGHT / height)), STRIP_HEIGHT)
    return np.concatenate(
        [np.asarray(Image.fromarray(frames.pixels[index]).resize(size)) for index in chosen], axis=1
    )


def _reason(judgment: Judgment | None) -> str:
    return "" if judgment is None else judgment.reason
