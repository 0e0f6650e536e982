"""The shipped tiny models of the toy world."""

from pathlib import Path

from dpo_video.core.names import choose

CHECKPOINTS = ("qwen2_5_vl", "llava_next_video", "judge", "pairwise_judge")


def checkpoint(name: str) -> Path:
    """Return the folder of a shipped tiny model, for any `from_pretrained`."""
    folder = Path(__file__).parent / "checkpoints"
    return choose({model: folder / model for model in CHECKPOINTS}, name, "toy checkpoint")
