"""What a model hears of a clip: whether sound is read, how many tokens it takes, and how its
features enter the forward.

Shapes: B rows, T tokens, m rows of the sound's features, D hidden size.
"""

from types import NoneType
from typing import Any, NamedTuple

from torch import Tensor
from transformers import PretrainedConfig

from dpo_video.core.errors import UserError
from dpo_video.models.families import ClipFeatures, Family, Hearing, Model
from dpo_video.recipe import VideoSettings
from dpo_video.video.frames import SoundFormat

SOUND = "audio"
"""Key of the sound's features in `mm_encoder_outputs`, after transformers' name of the modality."""
TOKEN = "_sound_token"
"""Name under which a model holds the token that stands for a row of its sound's features."""


def hearing_of(family: Family, config: PretrainedConfig, settings: VideoSettings) -> Hearing | None:
    """Return how a model hears its clips; None where it does not, or `video.sound` is false."""
    return family.hearing(config) if settings.sound else None


def tower_inputs(family: Family, config: PretrainedConfig) -> tuple[str, ...]:
    """Return the processor outputs that only towers read; those of sound are not there for a clip
    without.
    """
    hearing = family.hearing(config)
    return family.pixel_inputs if hearing is None else (*family.pixel_inputs, *hearing.inputs)


def placeholders(family: Family, config: PretrainedConfig) -> tuple[int, ...]:
    """Return the token ids that stand for rows of features: of the frames, and of the sound where
    that has one of its own.
    """
    hearing = family.hearing(config)
    own = () if hearing is None or hearing.placeholder is None else (hearing.placeholder,)
    return (family.placeholder(config), *own)


class FeatureRows(NamedTuple):
    """Rows of a clip's features that one token stands for."""

    token: int | None
    """None where a row of the family says of none."""
    made: int
    of: str
    """What they are of: a clip, or its sound."""
    field: str
    """Field of the family's row that names the token."""

    def holes(self, input_ids: Tensor) -> int:
        """Return how often the token stands in a prompt (P,)."""
        return 0 if self.token is None else int((input_ids == self.token).sum())


def feature_rows(
    family: Family, config: PretrainedConfig, features: ClipFeatures
) -> list[FeatureRows]:
    """Return the rows of a clip's features by the token that stands for them: of the frames, and of
    the sound where that has rows or a token of its own.
    """
    hearing = family.hearing(config)
    token = None if hearing is None else hearing.placeholder
    of_sound = 0 if features.sound is None else len(features.sound)
    rows = [
        FeatureRows(family.placeholder(config), len(features.embeddings), "a clip", "placeholder")
    ]
    if of_sound or token is not None:
        rows.append(FeatureRows(token, of_sound, "a clip's sound", "hearing.placeholder"))
    return rows


def check_hearing(family: Family, config: PretrainedConfig) -> None:
    """Raise UserError where a user's row says in no usable way how its model hears."""
    where = f"the family {family.name!r}: FAMILY.hearing"
    try:
        hearing = family.hearing(config)
    except Exception as error:
        raise UserError(
            f"{where} must be a function of the config that returns a Hearing, or None of a model "
            f"that hears nothing; called, it fails: {type(error).__name__}: {error}"
        ) from error
    if hearing is None:
        return
    if not isinstance(hearing, Hearing):
        raise UserError(f"{where} must return a Hearing or None, and returns {hearing!r}")
    for name, (kind, words) in HEARING_FIELDS.items():
        value = getattr(hearing, name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"{where}: `{name}` must be {words}, got {value!r}")
    if not all(isinstance(name, str) for name in hearing.inputs):
        raise UserError(f"{where}: `inputs` must be a tuple of texts, got {hearing.inputs!r}")
    for name in ("tokens", "positions", "seconds"):
        if not callable(getattr(hearing, name)):
            raise UserError(f"{where}: `{name}` must be a function, got {getattr(hearing, name)!r}")


def take_sound(model: Model, family: Family) -> None:
    """Have a bare model's body read the sound's features in `mm_encoder_outputs`, as it reads those
    of frames: transformers' own take a sound as a waveform's spectrum only (5.24).

    Its class becomes a subclass of the same name.
    """
    hearing = family.hearing(model.config)
    if hearing is None or hearing.placeholder is None:
        return
    body = model.base_model
    own = type(body)
    body.__dict__[TOKEN] = hearing.placeholder
    body.__class__ = type(own.__name__, (TakesSound, own), {"__module__": own.__module__})


class TakesSound:
    """Puts the sound's features in the place of their placeholders' embeddings."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        **inputs: Any,
    ) -> Any:
        """Return hidden states for ids (B, T), those of the sound's placeholders filled with the
        rows (m, D) of `mm_encoder_outputs["audio"]`.
        """
        packed = dict(mm_encoder_outputs or {})
        sound = packed.pop(SOUND, None)
        if sound is not None:
            embeddings = self.get_input_embeddings()(input_ids)  # type: ignore[attr-defined]
            holes = (input_ids == self.__dict__[TOKEN])[..., None]
            features = sound.pooler_output.to(embeddings)
            assert int(holes.sum()) == len(features), (
                f"{int(holes.sum())} placeholders and {len(features)} rows of sound"
            )
            inputs["inputs_embeds"] = embeddings.masked_scatter(holes, features)
        return super().forward(  # type: ignore[misc]
            input_ids=input_ids, mm_encoder_outputs=packed or None, **inputs
        )


HEARING_FIELDS: dict[str, tuple[Any, str]] = {
    "form": (SoundFormat, "a SoundFormat(rate=samples a second)"),
    "inputs": (tuple, "a tuple of texts"),
    "width": (int, "a whole number"),
    "inner": (int, "a whole number"),
    "placeholder": (int | NoneType, "a token id or None"),
    "most_tokens": (int | NoneType, "a whole number or None"),
}
"""What the fields of a Hearing hold, beside its functions."""
