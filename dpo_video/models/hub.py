"""Find a checkpoint: its folder or hub id, config, family and revision, without loading weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoVideoProcessor, PretrainedConfig

from dpo_video.core.errors import UserError
from dpo_video.core.names import did_you_mean
from dpo_video.models.families import FAMILIES, Family, VideoProcessor, family_of, row_name
from dpo_video.models.families.own_file import is_family_file, load_family_file
from dpo_video.models.hearing import check_hearing
from dpo_video.models.load_errors import one_line_errors
from dpo_video.models.names import resolve_model
from dpo_video.models.published import PUBLISHED
from dpo_video.models.remote_code import check_own_code, check_repositories_of_code
from dpo_video.recipe import ModelSettings
from dpo_video.store import content_hash

IN_PIECES = re.compile(r"DAMO-NLP-SG/Video-LLaMA-(2-\d+B-\w+|Series)")
"""Repositories of parts, without a config."""
PIECES = "?L_LLaMA_2_*.pth"
"""Files of theirs."""
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

    @cached_property
    def meta_model(self) -> Any:
        """The model without storage, on torch's meta device: its modules, and their shapes."""
        with torch.device("meta"):
            return build_model(self)


def frame_processor(family: Family, processor: Any) -> VideoProcessor:
    """Return what resizes frames: the processor's part for videos, or for images where frames are
    images.
    """
    return processor.video_processor if family.frames_as == "video" else processor.image_processor


def build_model(spec: ModelSpec) -> Any:
    """Return a model of random weights, on the device that torch puts new tensors on.

    A config of a repository's own code was read by it, so that was allowed to run.
    """
    own_code = {"trust_remote_code": True} if spec.config.to_dict().get("auto_map") else {}
    return spec.family.auto_model.from_config(spec.config, **own_code)


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


def load_config(
    settings: ModelSettings, *, local_only: bool = False
) -> tuple[PretrainedConfig, Family]:
    """Return the config and the family row of a checkpoint; an unknown model type raises
    UserError.
    """
    _refuse_pieces(settings.name)
    name = resolve_model(settings.name)
    own = own_family(settings)
    check_own_code(settings)
    with one_line_errors(settings.name):
        raw, _ = PretrainedConfig.get_config_dict(
            name, revision=settings.revision, local_files_only=local_only
        )
        kind = raw.get("model_type")
        if kind is None:
            raise UserError(
                f"cannot load the model {settings.name!r}: its config.json has no `model_type`"
            )
        check_repositories_of_code(settings, local_only=local_only)
        own = own or own_code_family(settings, kind)
        if settings.family is None and own is None and row_name(kind) not in FAMILIES:
            raise UserError(_unsupported(settings.name, kind))
        _refuse_codeless(settings, raw)
        config = AutoConfig.from_pretrained(
            name,
            revision=settings.revision,
            local_files_only=local_only,
            trust_remote_code=settings.trust_remote_code,
        )
    family = own or family_of(config, settings.family)
    config = trained_part(config, family)
    _refuse(config, family, settings.name)
    if family.read_config is not None:
        source = {
            "revision": settings.revision,
            "local_files_only": local_only,
            "trust_remote_code": settings.trust_remote_code,
        }
        with one_line_errors(settings.name):
            config = family.read_config(config, name, source)
        _refuse(config, family, settings.name)  # by what only a tower's own files say
    if own is not None:
        check_hearing(own, config)
    if settings.quantize != "none" and family.no_4_bit is not None:
        raise UserError(
            f"model.quantize is {settings.quantize!r}, and in the family {family.name!r} "
            f"{family.no_4_bit}. Set model.quantize to none"
        )
    stretch_context(config, family, settings.rope_factor)
    return config, family


def _refuse(config: PretrainedConfig, family: Family, name: str) -> None:
    refusal = family.refuses(config)
    if refusal is not None:
        raise UserError(f"cannot train the model {name!r}: {refusal}")


def _refuse_pieces(name: str) -> None:
    """Raise UserError for a repository of learnt parts, by its id or where it was downloaded."""
    if IN_PIECES.fullmatch(name) or any(Path(name).glob(PIECES)):
        raise UserError(
            f"{name!r} is Video-LLaMA, whose repositories hold learnt parts and no whole "
            "model: scripts/video_llama_checkpoint.py of dpo-video's repository puts these onto "
            "Llama-2-chat, EVA-CLIP and BLIP-2's Q-Former (docs/families.md, `video_llama`). Give "
            "the folder that it writes as model.name"
        )


def _refuse_codeless(settings: ModelSettings, raw: Mapping[str, Any]) -> None:
    """Raise UserError for a copy of a system in its authors' own code that says not where this is.

    Args:
        raw: config.json.
    """
    kind = raw["model_type"]
    if kind in OWN_CODE_ROWS and settings.trust_remote_code and "auto_map" not in raw:
        raise UserError(
            f"{settings.name!r} is {SUCCESSORS[kind][0]}, and its config.json names none of the "
            "code that it runs in (`auto_map`). Copy config.json and the .py files from the "
            "repository that its weights come from"
        )


def trained_part(config: PretrainedConfig, family: Family) -> PretrainedConfig:
    """Return the part of a checkpoint's config that is trained: all of it in most families."""
    part = None if family.config_part is None else config.to_dict().get(family.config_part)
    if part is None:
        return config
    trained: PretrainedConfig = AutoConfig.for_model(**part)
    trained._commit_hash = vars(config).get("_commit_hash")  # of a folder there is none
    return trained


def weight_names(raw: Mapping[str, Any], family: Family) -> dict[str, str]:
    """Return patterns of the names of a checkpoint's weights, with what stands for them in the part
    that is trained; none where the checkpoint is that part.
    """
    if family.config_part is None or family.config_part not in raw:
        return {}
    return {f"^{family.config_part.removesuffix('_config')}\\.": ""}


def own_family(settings: ModelSettings) -> Family | None:
    """Return the row in the user's file that `model.family` names; None where it names none."""
    if settings.family is None or not is_family_file(settings.family):
        return None
    if not settings.trust_remote_code:
        raise UserError(
            f"model.family is {settings.family!r}, a Python file, and to read it is to run it: set "
            "model.trust_remote_code=true once you have read it"
        )
    return load_family_file(Path(settings.family).expanduser())


def own_code_family(settings: ModelSettings, kind: str) -> Family | None:
    """Return the row of a system that transformers lacks: one on parts of transformers, or one in
    its authors' own code, where that may run; None elsewhere.
    """
    rows = {**OWN_CODE_ROWS, **OWN_LAYOUT_ROWS} if settings.trust_remote_code else OWN_LAYOUT_ROWS
    if settings.family is not None or kind not in rows:
        return None
    row: Family = import_module(rows[kind]).ROW
    return row


def own_code_rows() -> dict[str, Family]:
    """Return the rows of systems in their authors' own code, by name; to read them runs no code
    but ours.
    """
    return _rows_by_name(OWN_CODE_ROWS)


def own_layout_rows() -> dict[str, Family]:
    """Return the rows of systems in a layout of their own, by name."""
    return _rows_by_name(OWN_LAYOUT_ROWS)


def _rows_by_name(modules: Mapping[str, str]) -> dict[str, Family]:
    rows = [import_module(module).ROW for module in dict.fromkeys(modules.values())]
    return {row.name: row for row in rows}


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
    plain = sorted({*FAMILIES, *OWN_LAYOUT_ROWS})
    families = (
        f"Known: {', '.join(plain)}; with model.trust_remote_code: {', '.join(OWN_CODE_ROWS)}"
    )
    if kind not in SUCCESSORS:
        return (
            f"{name!r} is of model type {kind!r}, which is not a known family."
            f"{did_you_mean(kind, [*plain, *OWN_CODE_ROWS])} {families}"
        )
    system, nearest, why = SUCCESSORS[kind]
    return (
        f"{name!r} is {system} (model type {kind!r}). {why}. The nearest family of transformers is "
        f"{nearest!r}: {FAMILIES[nearest].title}. {families}"
    )


def revision_of(settings: ModelSettings, config: PretrainedConfig) -> str:
    """Return what identifies the weights: the hub commit, or a content hash of a local folder; with
    a family of the user's own, the hash of its file too.
    """
    name = resolve_model(settings.name)
    own = ""
    if settings.family is not None and is_family_file(settings.family):
        own = f"+family:{content_hash(Path(settings.family).expanduser())[:16]}"
    if Path(name).is_dir():
        return f"sha256:{content_hash(Path(name))[:16]}{own}"
    # Set by from_pretrained for hub checkpoints; transformers records no other trace of what was
    # resolved.
    return str(config._commit_hash or settings.revision or "unknown") + own


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
        if family.load_processor is not None:
            source = {
                "revision": settings.revision,
                "local_files_only": local_only,
                "trust_remote_code": settings.trust_remote_code,
            }
            whole = family.load_processor(resolve_model(settings.name), source)
            return ModelSpec(
                family=family, config=config, video_processor=frame_processor(family, whole)
            )
        loader: Any = AutoVideoProcessor if family.frames_as == "video" else AutoImageProcessor
        processor = loader.from_pretrained(
            resolve_model(settings.name),
            revision=settings.revision,
            local_files_only=local_only,
            trust_remote_code=settings.trust_remote_code,
        )
    return ModelSpec(family=family, config=config, video_processor=processor)


OWN_CODE = (
    "Its repository's own code is not run here, with model.trust_remote_code neither, unless a "
    "Python file of yours says how (docs/families.md, a family of your own)"
)
OTHER_LANGUAGE_MODEL = (
    "On Mistral and Qwen2 it can be trained (DAMO-NLP-SG/VideoLLaMA2-7B, VideoLLaMA2.1-7B-16F), on "
    "this language model it cannot"
)
NOT_TRUSTED = (
    "It can be trained, but its repository's own code runs only with model.trust_remote_code=true, "
    "for a hub id with the commit that you have read as model.revision"
)
OWN_CODE_ROWS = {
    "internvl_chat": "dpo_video.models.families.own_code.internvl_chat",
    "qwen": "dpo_video.models.families.own_code.qwen_vl",
}
"""Modules with the rows of systems in their authors' own code, by model type; several types may
share one.
"""
OWN_LAYOUT_ROWS = {
    "llava_qwen": "dpo_video.models.families.own_code.llava_qwen",
    "video_llama": "dpo_video.models.families.own_code.video_llama",
    "videollama2_mistral": "dpo_video.models.families.own_code.videollama2",
    "videollama2_qwen2": "dpo_video.models.families.own_code.videollama2",
    "minicpmv": "dpo_video.models.families.own_code.minicpmv",
}
"""The same, of systems whose published weights load into transformers' own classes: no code of a
repository runs.
"""
IMAGES_ONLY = (
    "It takes one image: scripts/instructblip_checkpoint.py of dpo-video's repository makes a "
    "checkpoint for clips of the same weights"
)
SUCCESSORS: dict[str, tuple[str, str, str]] = {
    "qwen": ("Qwen-VL 1, or a Qwen 1 text model", "qwen2_5_vl", NOT_TRUSTED),
    **{
        f"videollama2_{language}": ("VideoLLaMA 2", "video_llama_3", OTHER_LANGUAGE_MODEL)
        for language in ("llama", "mixtral", "gemma2", "phi3")
    },
    "videollama3_qwen2": ("VideoLLaMA 3 in its authors' own code", "video_llama_3", OWN_CODE),
    "llava_llama": ("LLaVA in its authors' own code", "llava_next_video", OWN_CODE),
    "llava_mistral": ("LLaVA in its authors' own code", "llava_next_video", OWN_CODE),
    "ernie4_5_moe_vl": (
        "ERNIE 4.5 VL with the config of its authors' own code",
        "ernie4_5_vl_moe",
        "transformers reads it from a config of model type 'ernie4_5_vl_moe', which "
        "baidu/ERNIE-4.5-VL-28B-A3B-PT has in model.revision=refs/pr/11",
    ),
    "instructblip": ("InstructBLIP for images", "instructblipvideo", IMAGES_ONLY),
    "molmo": ("Molmo 1", "molmo2", OWN_CODE),
    "internvl_chat": ("InternVL in its authors' own code", "internvl", NOT_TRUSTED),
}
"""Systems that cannot be trained here, by model type: what they are, the nearest family, and why.
"""
