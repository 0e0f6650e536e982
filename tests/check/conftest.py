"""What the plan's tests share."""

from pathlib import Path

import pytest
from clips import write_clip
from tiny_models import tiny_policy

from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Sample


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint, four clips of 10 to 40 frames, samples about two, held-out ones about the
    others.
    """
    folder = tmp_path_factory.mktemp("world")
    tiny_policy("qwen2_5_vl", folder / "policy")
    for number in range(4):
        write_clip(folder / f"c{number}.mp4", 10 * (number + 1))
    for name, clips in (("train", (0, 1)), ("heldout", (2, 3))):
        write_jsonl(
            folder / f"{name}.jsonl",
            [
                Sample(
                    id=f"{clip}-{question}",
                    video=f"c{clip}.mp4",
                    prompt="what happens ?" * (question + 1),
                    caption="a dog runs " * 10,
                    answer="a dog",
                )
                for clip in clips
                for question in range(3)
            ],
        )
    return folder
