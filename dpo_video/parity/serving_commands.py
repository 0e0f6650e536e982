"""Commands that serve a run and measure it with other tools, ready to paste.

The arguments are those of lmms-eval 75571cf, VLMEvalKit e8e78f0 and vLLM 0.33. None of these is
installed beside this package: each pins a stack of its own.
"""

from pathlib import Path

from dpo_video.core import strict_json
from dpo_video.models.decoding import hearing_word
from dpo_video.models.hub import model_spec
from dpo_video.models.served import fits_auto_classes
from dpo_video.parity.server_commands import (
    ASK_TO_HEAR,
    CommandBlock,
    num_frames,
    server_commands,
)
from dpo_video.recipe import Recipe

TASKS = "videomme,mvbench,tempcompass,mlvu_dev,longvideobench_val_v,tvbench"


def serving_commands(recipe: Recipe, merged: Path) -> list[CommandBlock]:
    """Return how to serve and measure a run: merged at `merged`, and as base and adapter."""
    return [
        *server_commands(recipe, merged),
        *_to_be_heard(recipe),
        *_lmms_eval(recipe, merged),
        *_vlmevalkit(recipe, merged),
    ]


def serving_text(recipe: Recipe, merged: Path) -> str:
    """Return the commands as they are printed."""
    blocks = []
    for title, lines in serving_commands(recipe, merged):
        blocks.append("\n".join([f"# {title}", *lines]))
    return "\n\n".join(blocks)


def _to_be_heard(recipe: Recipe) -> list[CommandBlock]:
    if hearing_word(model_spec(recipe.model), recipe.video) != "heard":
        return []
    return [
        CommandBlock(
            "the model was tuned on clips with their sound; a served clip is silent unless the "
            "request, of a clip that has sound, holds this beside `messages` (vLLM)",
            [ASK_TO_HEAR],
        )
    ]


def _lmms_eval(recipe: Recipe, merged: Path) -> list[CommandBlock]:
    frames, pixels = num_frames(recipe), recipe.video.max_pixels
    rate = f",fps={recipe.video.fps:g}" if recipe.video.policy in ("fps", "fit") else ""
    bounds = "" if pixels is None else f",max_pixels={pixels}"
    name = model_spec(recipe.model).family.name
    if name == "qwen2_5_vl":
        model = f"qwen2_5_vl --model_args pretrained={merged}{bounds},max_num_frames={frames}{rate}"
    else:
        model = (
            f"huggingface --model_args pretrained={merged},max_num_frames={frames},"
            "use_custom_video_loader=True"
        )
    blocks = [
        CommandBlock(
            "lmms-eval, the merged model (it loads no adapter; it takes frames of its own, so "
            "compare before and after in it)",
            [
                f"accelerate launch --num_processes 1 -m lmms_eval --model {model} "
                f"--tasks {TASKS} --batch_size 1 --log_samples --output_path logs/"
            ],
        ),
        CommandBlock(
            "lmms-eval, the server above",
            [
                "python -m lmms_eval --model async_openai --model_args model=tuned,"
                f"base_url=http://localhost:8000/v1,nframes={frames}{bounds} --tasks videomme"
            ],
        ),
    ]
    return blocks if fits_auto_classes(recipe) else blocks[1:]  # by these its loader reads models


def _vlmevalkit(recipe: Recipe, merged: Path) -> list[CommandBlock]:
    blocks = [
        CommandBlock(
            "VLMEvalKit, the server above",
            [
                "python run.py --model tuned --base-url http://localhost:8000/v1 --key x "
                "--video-llm --local-media --data Video-MME_64frame --api-mode"
            ],
        )
    ]
    if model_spec(recipe.model).family.name in ("qwen2_vl", "qwen2_5_vl"):
        pixels = recipe.video
        model = {
            "class": "Qwen2VLChat",
            "model_path": str(merged),
            "min_pixels": pixels.min_pixels or 100352,
            "max_pixels": pixels.max_pixels or 602112,
            "total_pixels": 19267584,
            "use_custom_prompt": False,
        }
        config = strict_json.dumps({"model": {"tuned": model}, "data": {"Video-MME_64frame": {}}})
        blocks.append(
            CommandBlock(
                "VLMEvalKit, the merged model",
                [f"echo '{config}' > tuned.json", "python run.py --config tuned.json"],
            )
        )
    return blocks
