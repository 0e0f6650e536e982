"""Section `video`."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from dpo_video.recipe.affects import ABSENT_AT_DEFAULT, DEFAULT_IN_KEYS, Affects
from dpo_video.recipe.presets import PRESETS
from dpo_video.recipe.section import Section


class VideoSettings(Section):
    """Which frames the model sees; one policy for generate, train and evaluate."""

    preset: Annotated[
        Literal[
            "llava_hound",
            "llava_next_video",
            "llava_next_video_long",
            "qwen2_5_vl",
            "video_llama_3",
        ]
        | None,
        Affects.DISPLAY,
    ] = None
    """The frames of a family's own code (`dpo-video list presets`); settings given beside it win.
    """
    policy: Annotated[
        Literal["uniform", "fps", "scene", "diff_prune", "all", "fit"], Affects.PIXELS
    ] = "uniform"
    """`uniform` spreads `num_frames` over the clip; `fps` takes frames at a rate; `scene` and
    `diff_prune` look at frames at that rate and take one of each scene, or those that differ from
    the one before; `all` takes every frame; `fit` takes frames at the rate, as many as the model's
    context holds.
    """
    num_frames: Annotated[PositiveInt, Affects.PIXELS] = 8
    """Frames per clip under `uniform`."""
    fps: Annotated[PositiveFloat, Affects.PIXELS] = 2.0
    """Frames per second under `fps` and `fit`, and those looked at under `scene` and `diff_prune`.
    """
    min_frames: Annotated[PositiveInt, Affects.PIXELS] = 4
    """Fewest frames under every policy but `uniform` and `all`."""
    max_frames: Annotated[PositiveInt, Affects.PIXELS] = 768
    """Most frames under every policy but `uniform`."""
    change: Annotated[float, Affects.PIXELS] = Field(default=0.1, gt=0, lt=1)
    """How much two frames differ, from 0 to 1, to count as different under `scene` and
    `diff_prune`: the mean absolute difference of their pixels, made small."""
    sound: Annotated[bool, Affects.SOUND, ABSENT_AT_DEFAULT] = True
    """Read a clip's sound with its frames, where it has some and the model hears; False shows such
    a model its clips silent. Most models hear nothing, whatever this says (docs/families.md)."""
    min_pixels: Annotated[PositiveInt | None, Affects.SIZE] = None
    """Least height x width of a frame after resizing; None keeps the checkpoint's value."""
    max_pixels: Annotated[PositiveInt | None, Affects.SIZE] = None
    """Most height x width of a frame after resizing; None keeps the checkpoint's value."""
    cap_pixels: Annotated[bool | None, Affects.SIZE] = None
    """Make the frames of a long clip smaller so that it keeps to the checkpoint's total of pixels,
    the rule of Qwen's own code; None keeps the checkpoint's choice."""
    max_tokens: Annotated[PositiveInt | None, Affects.SIZE] = None
    """Most tokens per clip, those of its sound among them; a clip over it loses frames, evenly,
    and is counted."""
    reserve_tokens: Annotated[PositiveInt, Affects.SIZE] = 1024
    """Tokens of the model's context that `fit` leaves to the question and the answer."""
    decode_size: Annotated[Literal["native", "model"], Affects.PIXELS, ABSENT_AT_DEFAULT] = "native"
    """`model` makes frames smaller while they are decoded, to the size that the family's processor
    would bring them to, with FFmpeg's bicubic scaler: less memory, and smaller `frames` in the
    cache, but pixels that differ a little from those of the processor's own resizing. Only for
    families that state that size."""
    backend: Annotated[
        Literal["pyav", "decord"], Affects.SPEED | Affects.DECODER, DEFAULT_IN_KEYS
    ] = "pyav"
    """`pyav` is exact everywhere; `decord` reads only files that it is known to read right, else
    pyav, counted.
    """
    workers: Annotated[int, Affects.SPEED] = Field(default=2, ge=1)
    """Decoding processes."""
    timeout: Annotated[PositiveFloat, Affects.SPEED] = 120.0
    """Seconds after which a clip is given up and set aside."""
    max_clip_gb: Annotated[PositiveFloat, Affects.SPEED] = 2.0
    """Most GiB that the frames read of a clip may take, height x width x 3 bytes x frames, and its
    sound beside them, 4 bytes a sample; a clip over it is set aside before it is decoded."""
    cache: Annotated[Literal["auto", "none", "frames", "features"], Affects.SPEED] = "auto"
    """What of a clip is kept on disk for all stages: `frames` saves decoding it again
    (uncompressed, exact), `features` the vision tower as well. `auto` keeps features, or frames
    where features depend on the question or `train.tune` changes them; the first clips stay, up to
    `cache_gb` and half of the free disk. `none` decodes anew in each stage and each epoch, and in
    evaluation once a model. A clip of 4,032 tokens takes 28.9 MB as features of Qwen2.5-VL-7B in
    bfloat16 (hidden size x 2 bytes a token), 32 frames of 640x360 take 22.1 MB (3 bytes a pixel):
    `dpo-video check` says it of yours, `dpo-video clean` removes it."""
    cache_gb: Annotated[PositiveFloat, Affects.SPEED] = 50.0
    """Size limit of the cache in GiB; what was not read for longest goes first, but under `auto`
    nothing more is kept once what other settings have left is gone."""
    cache_folder: Annotated[str | None, Affects.SPEED] = None
    """Folder of the cache, which runs may share; None is `cache` in the run folder."""

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if self.policy not in ("uniform", "all") and self.min_frames > self.max_frames:
            raise ValueError(
                f"`min_frames` is {self.min_frames} and `max_frames` {self.max_frames}: the least "
                f"must "
                "not be above the most"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        """Put a preset's settings under those that are given; an unknown preset is refused by its
        field.
        """
        preset = PRESETS.get(str(values.get("preset"))) if isinstance(values, dict) else None
        return values if preset is None else {**preset.video, **values}
