"""Find a checkpoint: its folder or hub id, config, family and revision, without loading weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoVideoProcessor, PretrainedConfig

from dpo_video.errors import UserError
from dpo_video.models.families import FAMILIES, Family, VideoProcessor, family_of
from dpo_video.models.published import PUBLISHED
from dpo_video.names import choose, did_you_mean
from dpo_video.recipe import ModelSettings
from dpo_video.store import content_hash


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """What a checkpoint is without its weights: enough to count its tokens, parameters and memory."""

    family: Family
    config: PretrainedConfig
    video_processor: VideoProcessor


def resolve_model(name: str) -> str:
    """Return what `from_pretrained` takes for a `model.name`: a folder that exists, or a hub id."""
    if name.startswith("toy:"):
        from dpo_video.toy import CHECKPOINTS, checkpoint

        toy = name.removeprefix("toy:")
        if toy not in CHECKPOINTS:
            raise UserError(f"unknown toy model {name!r}.{did_you_mean(toy, CHECKPOINTS)} "
                            f"Known: {', '.join(f'toy:{known}' for known in CHECKPOINTS)}")
        return str(checkpoint(toy))
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"no config.json in the model folder {name!r}: it is not a transformers checkpoint. "
                            "For an adapter, first merge it or give its base model")
        return str(folder)
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UserError(f"no model folder at {name!r}. Give a folder that exists, a hub id (owner/name), or toy:NAME")
    return name


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """Turn the hub's and transformers' failures to find or open a checkpoint into a UserError."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        first = str(error).strip().splitlines()[0][:300]
        raise UserError(f"cannot get the model {name!r}: {first} Check the name and the network, log in with "
                        "`hf auth login` if it is gated, or give a local folder") from error
    except (ImportError, ValueError) as error:
        raise UserError(f"cannot load the model {name!r}: {str(error).strip().splitlines()[0][:300]}") from error


def load_config(settings: ModelSettings, *, local_only: bool = False) -> tuple[PretrainedConfig, Family]:
    """Return the config and the family row of a checkpoint; an unknown model type raises UserError."""
    name = resolve_model(settings.name)
    with one_line_errors(settings.name):
        raw, _ = PretrainedConfig.get_config_dict(name, revision=settings.revision, local_files_only=local_only)
        kind = raw.get("model_type")
        if kind is None:
            raise UserError(f"cannot load the model {settings.name!r}: its config.json has no `model_type`")
        if settings.family is None and kind not in FAMILIES:
            known = ", ".join(sorted(FAMILIES))
            raise UserError(f"{settings.name!r} is of model type {kind!r}, which is not a known family."
                            f"{did_you_mean(kind, FAMILIES)} Known: {known}")
        config = AutoConfig.from_pretrained(name, revision=settings.revision, local_files_only=local_only,
                                            trust_remote_code=settings.trust_remote_code)
    family = family_of(config, settings.family)
    stretch_context(config, family, settings.rope_factor)
    return config, family


def stretch_context(config: PretrainedConfig, family: Family, factor: float | None) -> None:
    """Set linear RoPE scaling by `model.rope_factor` in a config, and the context that goes with it."""
    if factor is None:
        return
    text = config.get_text_config()
    rope = dict(text.rope_parameters or {})
    if family.position_axes != 1 or rope.get("rope_type", "default") != "default":
        raise UserError(f"model.rope_factor is for models with plain RoPE positions; family {family.name!r} has "
                        f"{'M-RoPE' if family.position_axes != 1 else rope.get('rope_type')}. Leave it out")
    text.rope_parameters = {**rope, "rope_type": "linear", "factor": factor}
    text.max_position_embeddings = int(text.max_position_embeddings * factor)


def revision_of(settings: ModelSettings, config: PretrainedConfig) -> str:
    """Return what identifies the weights: the hub commit, or a content hash of a local folder."""
    name = resolve_model(settings.name)
    if Path(name).is_dir():
        return f"sha256:{content_hash(Path(name))[:16]}"
    # Set by from_pretrained for hub checkpoints; transformers records no other trace of what was resolved.
    return str(config._commit_hash or settings.revision or "unknown")


def blueprint(settings: ModelSettings) -> Blueprint:
    """Return what is known of a checkpoint without weights or network.

    A config on this disk (a folder or the hub's cache) comes first, then the published numbers of well-known
    checkpoints; any other hub id is asked for over the network.
    """
    name = resolve_model(settings.name)
    if Path(name).is_dir():
        return _from_files(settings, local_only=True)
    try:
        return _from_files(settings, local_only=True)
    except UserError:
        if name not in PUBLISHED:
            return _from_files(settings, local_only=False)
    row = PUBLISHED[name]
    config = AutoConfig.for_model(**_copy(row.config))
    family = choose(FAMILIES, settings.family or config.model_type, "model.family")
    stretch_context(config, family, settings.rope_factor)
    return Blueprint(family=family, config=config,
                     video_processor=row.video_processor())


def _from_files(settings: ModelSettings, *, local_only: bool) -> Blueprint:
    config, family = load_config(settings, local_only=local_only)
    with one_line_errors(settings.name):
        processor = AutoVideoProcessor.from_pretrained(
            resolve_model(settings.name), revision=settings.revision, local_files_only=local_only,
            trust_remote_code=settings.trust_remote_code)
    return Blueprint(family=family, config=config, video_processor=processor)


def _copy(config: dict[str, Any]) -> dict[str, Any]:
    """Copy nested dicts, since config classes keep and change those they are given."""
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in config.items()}
