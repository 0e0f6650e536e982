"""Qwen2.5-Omni and Qwen3-Omni: the thinker, which reads a clip's frames and its sound, and writes
text.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PretrainedConfig

from dpo_video.models.families.family import (
    FUSED_EXPERTS,
    ClipFeatures,
    Hearing,
    Model,
    VideoProcessor,
    is_router,
)
from dpo_video.models.families.qwen import QWEN2_5_VL, QWEN3_VL_MOE
from dpo_video.video import Frames
from dpo_video.video.frames import SoundFormat

RATE = 16_000
"""Samples of sound a second, of both."""
HOP = 160
"""Samples from one column of a spectrum to the next."""
WINDOW = 400
"""Samples that a column is made of."""
PUBLISHED_SECONDS = 300.0
"""Sound that the published feature extractor of Qwen2.5-Omni takes (`chunk_length`)."""
INPUTS = ("input_features", "feature_attention_mask")
QUIRKS = (
    "The thinker is trained, from the whole checkpoint or one of its own; what is merged is a "
    "thinker, and its talker stays as it was published."
)


def _process(
    processor: Any, text: str, frames: Frames, kwargs: Mapping[str, Any], *, tie: int
) -> Mapping[str, Any]:
    """As the processor's own call, told how far apart the frames are: it takes them for 2 or 1 a
    second otherwise, whatever their times.

    Args:
        tie: see _positions.
    """
    apart = _apart(frames)
    sound = {} if frames.sound is None else _sound_arguments(frames.sound)
    outputs = processor(
        text=[text],
        videos=[frames.pixels],
        return_text_replacement_offsets=True,
        videos_kwargs={
            "do_sample_frames": False,
            "return_tensors": "pt",
            "fps": (1.0 / apart if apart > 0 else 1.0) * (1 - tie * 1e-9),
            **kwargs,
        },
        **sound,
    )
    heard = outputs["feature_attention_mask"].sum(-1) if sound else torch.zeros(1, dtype=torch.long)
    return {**outputs, "audio_feature_lengths": heard}


def _apart(frames: Frames) -> float:
    """Return the seconds from one frame to the next, the mean where they differ: a clip begins
    within its first frame's time on screen, and may end in that of a last one that it has again and
    again.
    """
    begin, last = max(frames.times[0], frames.start_time), frames.times[-1]
    if frames.indices[-2:-1] == frames.indices[-1:]:
        last = frames.start_time + frames.duration * (1 - 1 / frames.total_frames)
    return float(last - begin) / max(len(frames.times) - 1, 1)


def _sound_arguments(sound: NDArray[np.float32]) -> dict[str, Any]:
    """Return the processor's arguments for the sound of a clip (S,), whole.

    Qwen2.5-Omni's pads the spectrum of any to that of 300 seconds. So much silence behind it that
    the last column's window sees the same is enough.
    """
    return {
        "audio": [sound],
        "audio_from_video_indices": [0],
        "load_audio_from_video": True,
        "audio_kwargs": {
            "sampling_rate": RATE,
            "truncation": False,
            "max_length": len(sound) + WINDOW,
            "return_tensors": "pt",
        },
    }


def _with_sound(
    features: Callable[[Model, Mapping[str, Tensor]], ClipFeatures],
) -> Callable[[Model, Mapping[str, Tensor]], ClipFeatures]:
    """Return a row's `features` with those of the sound, where the clip has some."""

    def both(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
        seen = features(model, inputs)
        if "input_features" not in inputs:
            return seen
        heard = model.get_audio_features(
            inputs["input_features"], inputs["feature_attention_mask"], return_dict=True
        )
        return replace(seen, sound=heard.last_hidden_state)

    return both


def _positions(
    model: Model, input_ids: Tensor, inputs: Mapping[str, Tensor], *, tie: int
) -> Tensor:
    """Return (3, P) positions; text stands above a clip's last step, as at release. Those of
    Qwen3-Omni are float32: it counts 13 a second, and rounds no frame's time.

    Args:
        tie: 1 where frames at the time of a token of sound, or of the end of a turn, count as
            later, -1 where as earlier. The processor orders tokens by float64, the model's own
            positions by float32 (transformers 5.24): both are moved off it, the latter where they
            differ.
    """
    lengths = inputs["audio_feature_lengths"]
    heard = bool(lengths.any())
    for beside in (0.0, tie * 1e-6):
        positions: Tensor = model.model.get_rope_index(
            input_ids[None],
            video_grid_thw=inputs["video_grid_thw"],
            attention_mask=torch.ones_like(input_ids)[None],
            use_audio_in_video=heard,
            audio_seqlens=lengths if heard else None,
            second_per_grids=inputs["video_second_per_grid"] * (1 + beside),
        )[0][:, 0]
        if _are_in_the_texts_order(positions, input_ids, int(model.config.audio_token_id)):
            break
    return positions


def _are_in_the_texts_order(positions: Tensor, input_ids: Tensor, sound_token: int) -> bool:
    """Return whether the tokens of sound have positions of sound: one by one, alike on all axes."""
    sound = positions[:, input_ids == sound_token]  # (3, m)
    return bool((sound == sound[:1, :1] + torch.arange(sound.shape[1], device=sound.device)).all())


def _stock_logits(model: Model, inputs: Mapping[str, Tensor]) -> Tensor:
    logits: Tensor = model(
        **inputs, use_audio_in_video="input_features" in inputs, use_cache=False
    ).logits
    return logits


def _tokens_2_5(sound_samples: int) -> int:
    """Return the rows of features of Qwen2.5-Omni: 25 a second, two steps that halve the columns of
    the spectrum, of which one is begun for every HOP samples.
    """
    return ((math.ceil(sound_samples / HOP) - 1) // 2 + 1 - 2) // 2 + 1


def _tokens_3(sound_samples: int, window: int) -> int:
    """Return the rows of features of Qwen3-Omni: 13 a window of two times `window` columns, and of
    the rest three steps that halve. Only whole HOP make a column: no silence is put behind them.
    """
    windows, rest = divmod(sound_samples // HOP, 2 * window)
    for _ in range(3):
        rest = (rest + 1) // 2
    return 13 * windows + rest


def _hearing_2_5(config: PretrainedConfig) -> Hearing:
    return Hearing(
        form=SoundFormat(RATE, PUBLISHED_SECONDS),
        tokens=_tokens_2_5,
        inputs=INPUTS,
        width=config.audio_config.d_model,
        inner=config.audio_config.encoder_ffn_dim,
        positions=lambda sound_samples: sound_samples / (2 * HOP),
        placeholder=int(config.audio_token_id),
    )


def _hearing_3(config: PretrainedConfig) -> Hearing:
    return replace(
        _hearing_2_5(config),
        form=SoundFormat(RATE),
        tokens=partial(_tokens_3, window=int(config.audio_config.n_window)),
        positions=lambda sound_samples: sound_samples / (8 * HOP),
    )


def _pixels(
    processor: VideoProcessor, min_pixels: int | None, max_pixels: int | None
) -> dict[str, Any]:
    """Return the bounds that the whole processor has, which stand above its video part's own
    (transformers 5.24), where a recipe sets none.
    """
    token = (processor.patch_size * processor.merge_size) ** 2
    return {
        "cap_pixels_per_frame": bool(processor.cap_pixels_per_frame),
        "size": {
            "shortest_edge": min_pixels or 128 * token,
            "longest_edge": max_pixels or 768 * token,
        },
    }


QWEN2_5_OMNI = replace(
    QWEN2_5_VL,
    features=_with_sound(QWEN2_5_VL.features),
    hearing=_hearing_2_5,
    stock_logits=_stock_logits,
    name="qwen2_5_omni",
    title="Qwen2.5-Omni (Qwen/Qwen2.5-Omni-3B, -7B)",
    also=("qwen2_5_omni_thinker",),
    config_part="thinker_config",
    process=partial(_process, tie=1),
    clip_inputs=("video_grid_thw", "video_second_per_grid", "audio_feature_lengths"),
    positions=partial(_positions, tie=1),
    install_positions=None,
    pixel_kwargs=_pixels,
    quirks=f"Frames and positions as Qwen2.5-VL's. {QUIRKS} Sound takes 25 tokens a second, in "
    "turn with two seconds of frames; it is heard up to 300 seconds.",
)
QWEN3_OMNI_MOE = replace(
    QWEN3_VL_MOE,
    features=_with_sound(QWEN3_VL_MOE.features),
    hearing=_hearing_3,
    stock_logits=_stock_logits,
    name="qwen3_omni_moe",
    title="Qwen3-Omni (Qwen/Qwen3-Omni-30B-A3B-Instruct)",
    also=("qwen3_omni_moe_thinker",),
    config_part="thinker_config",
    process=partial(_process, tie=-1),
    clip_inputs=("video_grid_thw", "video_second_per_grid", "audio_feature_lengths"),
    positions=partial(_positions, tie=-1),
    pixel_kwargs=_pixels,
    lora_excludes=r".*audio_tower.*",
    untuned=is_router,
    no_4_bit=FUSED_EXPERTS,
    frame_size=QWEN2_5_VL.frame_size,
    resized=QWEN2_5_VL.resized,
    per_clip_bounds=frozenset(),
    formula="ceil(F/2) x (H/32) x (W/32)",
    quirks="Frames as Qwen2.5-VL's, features as Qwen3-VL's. LoRA tunes attention, and the experts "
    f"under `train.lora.experts`. {QUIRKS} Sound takes 13 tokens a second, in turn with the "
    "frames. Times stand in positions with their fractions, as in transformers; vLLM rounds them "
    "down.",
)
