"""Find a checkpoint: its folder or hub id, config, family and revision, without loading weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoVideoProcessor, PretrainedConfig

from dpo_video.core.errors import UserError
from dpo_video.core.names import did_you_mean
from dpo_video.models.families import FAMILIES, Family, VideoProcessor, family_of
from dpo_video.models.names import resolve_model
from dpo_video.models.published import PUBLISHED
from dpo_video.recipe import ModelSettings
from dpo_video.store import content_hash

PICKLED = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
"""How files of weights end that Python's pickle reads."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a checkpoint is without its weights: enough to count its tokens, parameters and
    memory.
    """

    family: Family
    config: PretrainedConfig
    video_processor: VideoProcessor


def refuse_pickled_weights(folder: Path, *, setting: str) -> None:
    """Raise UserError for a folder here whose weights are pickles: to read one can run its code."""
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        raise UserError(
            f"{setting}: its weights are a pickle ({pickled[0]}), which can run code while it is "
            "read, and are not loaded. Convert them to safetensors: load them where you trust "
            "them, then `model.save_pretrained(FOLDER)`"
        )


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """Turn the hub's and transformers' failures to find or open a checkpoint into a UserError."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        first = str(error).strip().splitlines()[0][:300]
        raise UserError(
            f"cannot get the model {name!r}: {first} Check the name and the network, log in with "
            "`hf auth login` if it is gated, or give a local folder"
        ) from error
    except (ImportError, ValueError) as error:
        raise UserError(
            f"cannot load the model {name!r}: {str(error).strip().splitlines()[0][:300]}"
        ) from error


def load_config(
    settings: ModelSettings, *, local_only: bool = False
) -> tuple[PretrainedConfig, Family]:
    """Return the config and the family row of a checkpoint; an unknown model type raises
    UserError.
    """
    name = resolve_model(settings.name)
    with one_line_errors(settings.name):
        raw, _ = PretrainedConfig.get_config_dict(
            name, revision=settings.revision, local_files_only=local_only
        )
        kind = raw.get("model_type")
        if kind is None:
            raise UserError(
                f"cannot load the model {settings.name!r}: its config.json has no `model_type`"
            )
        if settings.family is None and kind not in FAMILIES:
            raise UserError(_unsupported(settings.name, kind))
        config = AutoConfig.from_pretrained(
            name,
            revision=settings.revision,
            local_files_only=local_only,
            trust_remote_code=settings.trust_remote_code,
        )
    family = family_of(config, settings.family)
    stretch_context(config, family, settings.rope_factor)
    return config, family


def stretch_context(config: PretrainedConfig, family: Family, factor: float | None) -> None:
    """Set linear RoPE scaling by `model.rope_factor` in a config, and the context that goes with
    it.
    """
    if factor is None:
        return
    text = config.get_text_config()
    rope = dict(text.rope_parameters or {})
    if family.position_axes != 1 or rope.get("rope_type", "default") != "default":
        raise UserError(
            f"model.rope_factor is for models with plain RoPE positions; family {family.name!r} "
            f"has "
            f"{'M-RoPE' if family.position_axes != 1 else rope.get('rope_type')}. Leave it out"
        )
    text.rope_parameters = {**rope, "rope_type": "linear", "factor": factor}
    text.max_position_embeddings = int(text.max_position_embeddings * factor)


def _unsupported(name: str, kind: str) -> str:
    families = f"Known: {', '.join(sorted(FAMILIES))}"
    if kind not in SUCCESSORS:
        return (
            f"{name!r} is of model type {kind!r}, which is not a known family."
            f"{did_you_mean(kind, FAMILIES)} {families}"
        )
    system, nearest, why = SUCCESSORS[kind]
    return (
        f"{name!r} is {system} (model type {kind!r}). {why}. The nearest that can be trained is "
        f"{nearest!r}: "
        f"{FAMILIES[nearest].title}. {families}"
    )


def revision_of(settings: ModelSettings, config: PretrainedConfig) -> str:
    """Return what identifies the weights: the hub commit, or a content hash of a local folder."""
    name = resolve_model(settings.name)
    if Path(name).is_dir():
        return f"sha256:{content_hash(Path(name))[:16]}"
    # Set by from_pretrained for hub checkpoints; transformers records no other trace of what was
    # resolved.
    return str(config._commit_hash or settings.revision or "unknown")


def model_spec(settings: ModelSettings) -> ModelSpec:
    """Return what is known of a checkpoint without weights or network.

    A config on this disk (a folder or the hub's cache) comes first, then the published numbers of
    well-known checkpoints; any other hub id is asked for over the network.
    """
    name = resolve_model(settings.name)
    if Path(name).is_dir():
        return _from_files(settings, local_only=True)
    try:
        return _from_files(settings, local_only=True)
    except UserError:
        if name not in PUBLISHED:
            return _from_files(settings, local_only=False)
    published = settings.model_copy(update={"name": str(PUBLISHED[name]), "revision": None})
    return _from_files(published, local_only=True)


def published_names(family: Family) -> list[str]:
    """Return the well-known checkpoints of a family, which are planned for without a network."""
    return [
        name
        for name, folder in PUBLISHED.items()
        if family_of(AutoConfig.from_pretrained(folder, trust_remote_code=False)) is family
    ]


def _from_files(settings: ModelSettings, *, local_only: bool) -> ModelSpec:
    config, family = load_config(settings, local_only=local_only)
    with one_line_errors(settings.name):
        loader: Any = AutoVideoProcessor if family.frames_as == "video" else AutoImageProcessor
        processor = loader.from_pretrained(
            resolve_model(settings.name),
            revision=settings.revision,
            local_files_only=local_only,
            trust_remote_code=settings.trust_remote_code,
        )
    return ModelSpec(family=family, config=config, video_processor=processor)


OWN_CODE = (
    "Its repository's own code cannot be trained here, not with model.trust_remote_code either"
)
PER_QUESTION = (
    "Its vision features depend on the question's text, and it has no chat template; here a clip's "
    "features are made once and serve every question"
)
SUCCESSORS: dict[str, tuple[str, str, str]] = {
    "qwen": ("Qwen-VL 1, or a Qwen 1 text model", "qwen2_5_vl", OWN_CODE),
    "video_llama": ("Video-LLaMA 1", "video_llama_3", OWN_CODE),
    "videollama2_llama": ("VideoLLaMA 2", "video_llama_3", OWN_CODE),
    "videollama2_mistral": ("VideoLLaMA 2", "video_llama_3", OWN_CODE),
    "videollama2_mixtral": ("VideoLLaMA 2", "video_llama_3", OWN_CODE),
    "videollama2_qwen2": ("VideoLLaMA 2.1", "video_llama_3", OWN_CODE),
    "videollama3_qwen2": ("VideoLLaMA 3 in its authors' own code", "video_llama_3", OWN_CODE),
    "llava_llama": ("LLaVA in its authors' own code", "llava_next_video", OWN_CODE),
    "llava_mistral": ("LLaVA in its authors' own code", "llava_next_video", OWN_CODE),
    "llava_qwen": (
        "LLaVA-OneVision or LLaVA-Video in its authors' own code",
        "llava_onevision",
        OWN_CODE,
    ),
    "instructblip": ("InstructBLIP", "video_llava", PER_QUESTION),
    "instructblipvideo": ("InstructBLIP for video", "video_llava", PER_QUESTION),
    "molmo": ("Molmo 1", "molmo2", OWN_CODE),
}
"""Systems that cannot be trained here, by model type: what they are, the nearest family, and why.
"""
