"""Commands that serve a run, ready to paste: vLLM 0.33, SGLang, transformers."""

from pathlib import Path
from typing import NamedTuple

from dpo_video.core import strict_json
from dpo_video.models.families.own_file import is_family_file
from dpo_video.models.served import fits_auto_classes, why_merged_only
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
    why = why_merged_only(recipe)
    commands = merged_commands(recipe, merged)
    return [
        CommandBlock(
            "the merged model, under the name `tuned`",
            commands if fits_auto_classes(recipe) else commands[:-1],
        ),
        CommandBlock(
            "base and adapter; vLLM refuses ranks above its default of 16 without --max-lora-rank",
            [adapter_command(recipe, base=recipe.model.name, adapter=str(_adapter(recipe)))],
        )
        if why is None
        else CommandBlock(f"base and adapter: there is no command, as {why}", []),
        CommandBlock(
            "is what it serves what was trained?",
            [
                f"dpo-video parity {recipe.run_folder} --base-url http://localhost:8000/v1 "
                "--model tuned"
            ],
        ),
    ]


def merged_commands(recipe: Recipe, merged: Path) -> list[str]:
    """Return the commands that serve the merged model, one of them, by vLLM, SGLang and
    transformers.
    """
    model = recipe.model
    own_file = model.family is not None and is_family_file(model.family)
    code = " --trust-remote-code" if model.trust_remote_code and not own_file else ""
    return [
        f"vllm serve {merged} --served-model-name tuned{code} {_frames(recipe)}",
        f"python -m sglang.launch_server --model-path {merged} --served-model-name tuned{code}",
        f"transformers serve {merged}{code}",
    ]


def adapter_command(recipe: Recipe, *, base: str, adapter: str) -> str:
    """Return the command by which vLLM serves a base and its adapter, under the name `tuned`."""
    tower = "" if set(recipe.train.tune) == {"language"} else " --enable-tower-connector-lora"
    return (
        f"vllm serve {base} --enable-lora --max-lora-rank {_served_rank(recipe.train.lora.rank)} "
        f"--lora-modules tuned={adapter} {_frames(recipe)}{tower}"
    )


def _adapter(recipe: Recipe) -> Path:
    return recipe.run_folder / "adapter"


def _frames(recipe: Recipe) -> str:
    """Return what tells vLLM how many frames a prompt may have, and how many it takes of a file."""
    count = num_frames(recipe)
    limits = strict_json.dumps({"video": 1, "image": count})
    kwargs = strict_json.dumps({"video": {"num_frames": count}})
    return f"--limit-mm-per-prompt '{limits}' --media-io-kwargs '{kwargs}'"


def num_frames(recipe: Recipe) -> int:
    """Return the most frames that the recipe takes of a clip."""
    video = recipe.video
    return video.num_frames if video.policy == "uniform" else video.max_frames


def _served_rank(rank: int) -> int:
    """Return the least rank that vLLM takes which holds an adapter of this one."""
    return next((size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), rank)
