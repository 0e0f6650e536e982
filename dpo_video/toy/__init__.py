"""A small synthetic world of moving shapes, with tiny models, for the quickstart and tests."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dpo_video.names import choose

CHECKPOINTS = ("qwen2_5_vl", "llava_next_video", "judge", "pairwise_judge")


def checkpoint(name: str) -> Path:
    """Return the folder of a shipped tiny model, for any `from_pretrained`."""
    folder = Path(__file__).parent / "checkpoints"
    return choose({known: folder / known for known in CHECKPOINTS}, name, "toy checkpoint")


def write_split(
    split: Literal["train", "heldout"], folder: Path, *, num_clips: int, seed: int
) -> Path:
    """Return `samples.jsonl` of a toy split, written with its mp4 clips unless already there."""
    from dpo_video.toy import clips

    return clips.write_split(split, folder, num_clips=num_clips, seed=seed)
