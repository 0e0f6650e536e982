"""Checkpoints as LLaVA's code and its descendants write them, on transformers' own classes: a flat
config, the tower at `model.vision_tower.vision_tower`, a projector at `model.mm_projector`, the
language model at `model`. No code of a repository runs; what is saved is laid out the same way.

Shapes: F frames, n video tokens of a clip, D hidden size.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoTokenizer,
    LlavaOnevisionConfig,
    PretrainedConfig,
    ProcessorMixin,
)
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.models.families.family import (
    ClipFeatures,
    FrameSize,
    Model,
    VideoProcessor,
    whole_patches,
)
from dpo_video.models.load_errors import why_not_loaded

PLACEHOLDER = "<video>"
"""What stands for a row of features: a word after all others, which may have no embedding, as the
published codes' -200 and -201 have none.
"""
SO400M = "google/siglip-so400m-patch14-384"
CLIP_336 = "openai/clip-vit-large-patch14-336"
TOWERS: dict[str, dict[str, Any]] = {
    SO400M: {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    },
    CLIP_336: {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "projection_dim": 768,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
    },
}
"""Towers that published checkpoints name, by hub id: their weights are in the checkpoint, their
sizes are not. See known_tower.
"""
ROPE = {"rope_theta", "rope_scaling"}
"""Published fields that transformers 5 reads, and keeps in `rope_parameters`."""
LANGUAGE_NAMES = (
    WeightRenaming(r"^model\.embed_tokens", r"^model.language_model.embed_tokens"),
    WeightRenaming(r"^model\.layers", r"^model.language_model.layers"),
    WeightRenaming(r"^model\.norm", r"^model.language_model.norm"),
    WeightRenaming(r"^model\.vision_tower\.vision_tower", r"^model.vision_tower"),
)


class FlatConfig(LlavaOnevisionConfig):
    """A published config.json, its fields sorted into those of a language model and a tower."""

    text_type: ClassVar[str] = "qwen2"
    """The transformers model type of the language model."""
    published: dict[str, Any] | None = None
    """The fields as published, among them the system's own, `mm_*`."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **more: Any) -> Any:
        """Return a config of published fields, or of what `to_dict` gave."""
        if config_dict.get("published") is None:
            config_dict = cls.sorted_fields(config_dict)
        return super().from_dict(config_dict, **more)

    @classmethod
    def sorted_fields(cls, flat: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of this class for the flat ones of a published config."""
        names = {field.name for field in fields(CONFIG_MAPPING[cls.text_type])} | ROPE
        text = {name: deepcopy(value) for name, value in flat.items() if name in names}
        dtype = flat.get("torch_dtype") or flat.get("dtype")
        tower = flat.get("vision_config") or known_tower(flat.get("mm_vision_tower"))
        return {
            **{name: flat[name] for name in ("architectures", "_commit_hash") if name in flat},
            "dtype": dtype,
            "text_config": {**text, "model_type": cls.text_type, "dtype": dtype},
            "vision_config": cls.used_tower(tower or TOWERS[SO400M]),
            "tie_word_embeddings": bool(flat.get("tie_word_embeddings")),
            "published": {name: value for name, value in flat.items() if name != "_commit_hash"},
        }

    @classmethod
    def used_tower(cls, tower: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of the tower that a checkpoint holds, from those of the whole one."""
        return dict(tower)

    def field(self, name: str, default: Any = None) -> Any:
        """Return a published field, a default where it is absent."""
        return (self.published or {}).get(name, default)

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return config.json as published, with what may have changed since."""
        text = self.get_text_config()
        changed = {
            "architectures": self.architectures,
            "max_position_embeddings": text.max_position_embeddings,
            "rope_parameters": dict(text.rope_parameters),
            "torch_dtype": str(self.dtype).removeprefix("torch."),
        }
        if text.rope_parameters["rope_type"] == "linear":  # model.rope_factor, or as published
            factor = float(text.rope_parameters["factor"])
            changed["rope_scaling"] = {"type": "linear", "factor": factor}
        flat = {**(self.published or {}), **changed}
        return strict_json.dumps(flat, indent=2, sort_keys=True) + "\n"


def register_names(class_name: str, *projector: WeightRenaming) -> None:
    """Have transformers load and save a class under the published names of weights."""
    register_checkpoint_conversion_mapping(
        class_name, [*LANGUAGE_NAMES, *projector], overwrite=True
    )


def read_config(config: PretrainedConfig, name: str, source: Mapping[str, Any]) -> PretrainedConfig:
    """Complete a config by the placeholder's id, and by the sizes of a tower less well known."""
    tower = config.field("mm_vision_tower")
    if config.field("vision_config") is None and isinstance(tower, str) and not known_tower(tower):
        sizes = read_tower(tower, name, local_only=bool(source.get("local_files_only")))
        config.published["vision_config"] = sizes
        config.vision_config = AutoConfig.for_model(**config.used_tower(sizes))
    tokenizer = load_tokenizer(name, source)
    config.video_token_index = tokenizer.convert_tokens_to_ids(PLACEHOLDER)
    config.image_token_index = config.video_token_index
    return config


def known_tower(name: object) -> dict[str, Any] | None:
    """Return the sizes of a well-known tower, None for another or one that lies in a folder here.

    A published config may name it by where it lay on the machine of its training, as
    VideoLLaMA 2.1's on its authors': /mnt/data/siglip-so400m-patch14-384.
    """
    if not isinstance(name, str) or name in TOWERS:
        return TOWERS.get(str(name))
    path = Path(name)
    by_last_part = {Path(hub_id).name: sizes for hub_id, sizes in TOWERS.items()}
    return None if path.is_dir() else by_last_part.get(path.name)


def read_tower(tower: str, name: str, *, local_only: bool) -> dict[str, Any]:
    """Return the sizes of the tower that a checkpoint names, from that tower's own config.json."""
    try:
        whole = AutoConfig.from_pretrained(tower, local_files_only=local_only).to_dict()
    except OSError as error:
        raise UserError(
            f"cannot load the model {name!r}: its config.json names the tower {tower!r}, whose own "
            f"config.json cannot be read: {why_not_loaded(error).rstrip('.')}. Write the tower's "
            "folder here, or its hub id, into `mm_vision_tower`"
        ) from error
    sizes: dict[str, Any] = whole.get("vision_config") or whole
    return sizes


def load_tokenizer(name: str, source: Mapping[str, Any]) -> Any:
    """Return a checkpoint's tokenizer with the placeholder in it, after all other words."""
    tokenizer = AutoTokenizer.from_pretrained(name, **source)
    tokenizer.add_tokens([PLACEHOLDER], special_tokens=True)
    return tokenizer


class ClipProcessor(ProcessorMixin):
    """Frames at one size, and a text in which a clip takes as many placeholders as it has
    features.
    """

    videos_kwargs = {"return_metadata": True}  # noqa: RUF012  # as transformers declares it

    def __init__(
        self, video_processor: Any = None, tokenizer: Any = None, chat_template: Any = None
    ) -> None:
        self.video_token = PLACEHOLDER
        self.video_token_id = tokenizer.convert_tokens_to_ids(PLACEHOLDER)
        super().__init__(video_processor, tokenizer, chat_template=chat_template)

    def clip_tokens(self, num_frames: int) -> int:
        """Return the rows of features of a clip."""
        raise NotImplementedError

    def replace_video_token(self, video_inputs: Any, video_idx: int, **more: Any) -> str:
        """Return what takes the place of a placeholder in the text."""
        frames = video_inputs["pixel_values_videos"][video_idx]
        return self.video_token * self.clip_tokens(len(frames))


def clip_features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    """Return the rows (n, D) of one clip."""
    read = {name: inputs[name] for name in model.model.read if name in inputs}
    return ClipFeatures(model.get_video_features(**read).pooler_output[0])


def tower_patches(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    """Return the tokens inside the tower: CLIP adds one to each frame."""
    class_tokens = int(config.vision_config.model_type == "clip_vision_model")
    return num_frames * (whole_patches(size, config.vision_config.patch_size) + class_tokens)
