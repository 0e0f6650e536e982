"""Names of models: where a `model.name` leads, and the names of the families. Needs no torch."""

from pathlib import Path

from dpo_video.core.errors import UserError
from dpo_video.core.names import did_you_mean
from dpo_video.recipe import ModelSettings
from dpo_video.toy.models import CHECKPOINTS, checkpoint

FAMILY_NAMES = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen2_5_omni",
    "qwen3_omni_moe",
    "llava_next_video",
    "llava_onevision",
    "video_llama_3",
    "glm4v",
    "glm46v",
    "glm4v_moe",
    "exaone4_5",
    "lfm3_vl",
    "molmo2",
    "perception_lm",
    "video_llava",
    "internvl",
    "llava",
    "llava_next",
    "smolvlm",
    "pixtral",
    "mistral3",
    "minicpmv4_6",
    "minicpmv4_7",
    "gemma4",
    "gemma4_moe",
    "kimi_k25",
    "ernie4_5_vl_moe",
    "instructblipvideo",
)
"""The rows of `models.families`, by name."""


def resolve_model(name: str) -> str:
    """Return what `from_pretrained` takes for a `model.name`: a folder that exists, or a hub id."""
    if name.startswith("toy:"):
        toy = name.removeprefix("toy:")
        if toy not in CHECKPOINTS:
            raise UserError(
                f"unknown toy model {name!r}.{did_you_mean(toy, CHECKPOINTS)} "
                f"Known: {', '.join(f'toy:{checkpoint_name}' for checkpoint_name in CHECKPOINTS)}"
            )
        return str(checkpoint(toy))
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(
                f"no config.json in the model folder {name!r}: it is not a transformers "
                f"checkpoint. "
                "For an adapter, first merge it or give its base model"
            )
        return str(folder)
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UserError(
            f"no model folder at {name!r}. Give a folder that exists, a hub id (owner/name), or "
            f"toy:NAME"
        )
    return name


def local_file(settings: ModelSettings, name: str) -> Path | None:
    """Return a file of a checkpoint that is on this disk: in its folder, or in the hub's cache."""
    source = resolve_model(settings.name)
    folder = Path(source)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import try_to_load_from_cache  # here: a second, and only for hub ids

    cached = try_to_load_from_cache(source, name, revision=settings.revision)
    return Path(cached) if isinstance(cached, str) else None
