"""Commands that serve a run, ready to paste: vLLM 0.33, SGLang, transformers."""

from pathlib import Path
from typing import NamedTuple

from dpo_video.core import strict_json
from dpo_video.recipe import Recipe

ASK_TO_HEAR = '"mm_processor_kwargs": {"use_audio_in_video": true}'
"""A field of a request: vLLM then takes the sound of its video, too (vllm-project/vllm#36319, March
2026); asked without it, it reads frames alone.
"""


class CommandBlock(NamedTuple):
    """Commands for one purpose."""

    title: str
    lines: list[str]


def server_commands(recipe: Recipe, merged: Path) -> list[CommandBlock]:
    """Return how to serve a run: merged, as base and adapter, and how to tell that it is served."""
    adapter = recipe.run_folder / "adapter"
    tunes_tower = bool({"projector", "vision"} & set(recipe.train.tune))
    tower = " --enable-tower-connector-lora" if tunes_tower else ""
    images = num_frames(recipe)
    limits = strict_json.dumps({"video": 1, "image": images})
    kwargs = strict_json.dumps({"video": {"num_frames": images}})
    frames = f"--limit-mm-per-prompt '{limits}' --media-io-kwargs '{kwargs}'"
    return [
        CommandBlock(
            "the merged model, under the name `tuned`",
            [
                f"vllm serve {merged} --served-model-name tuned {frames}",
                f"python -m sglang.launch_server --model-path {merged} --served-model-name tuned",
                f"transformers serve {merged}",
            ],
        ),
        *(
            []
            if recipe.train.lora.experts  # no server was seen to read PEFT's updates of experts
            else [
                CommandBlock(
                    "base and adapter; vLLM refuses ranks above its default of 16 without "
                    "--max-lora-rank",
                    [
                        f"vllm serve {recipe.model.name} --enable-lora --max-lora-rank "
                        f"{_served_rank(recipe.train.lora.rank)} --lora-modules tuned={adapter} "
                        f"{frames}{tower}"
                    ],
                )
            ]
        ),
        CommandBlock(
            "is what it serves what was trained?",
            [
                f"dpo-video parity {recipe.run_folder} --base-url http://localhost:8000/v1 "
                "--model tuned"
            ],
        ),
    ]


def num_frames(recipe: Recipe) -> int:
    """Return the most frames that the recipe takes of a clip."""
    video = recipe.video
    return video.num_frames if video.policy == "uniform" else video.max_frames


def _served_rank(rank: int) -> int:
    """Return the least rank that vLLM takes which holds an adapter of this one."""
    return next((size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), rank)
