"""What a model hears of a clip: whether sound is read, how many tokens it takes, and how its
features enter the forward.

Shapes: B rows, T tokens, m rows of the sound's features, D hidden size.
"""

from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

from dpo_video.models.families import ClipFeatures, Family, Hearing, Model
from dpo_video.recipe import VideoSettings

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


def rows_by_placeholder(
    family: Family, config: PretrainedConfig, features: ClipFeatures
) -> dict[int, int]:
    """Return how many rows of a clip's features each placeholder's token stands for."""
    rows = [len(features.embeddings), 0 if features.sound is None else len(features.sound)]
    return dict(zip(placeholders(family, config), rows, strict=False))


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
