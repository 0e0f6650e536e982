"""The audio branch of VideoLLaMA 2.1-7B-AV: what it reads of a clip's sound, its rows of features,
its projector, and which branches are refused.

Published code: DAMO-NLP-SG/VideoLLaMA2, videollama2/mm_utils.py and model/projector.py. Shapes: S
samples, T frames of a spectrogram, M mel bins, E width of the tower, D hidden size.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import fields
from fractions import Fraction
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from dpo_video.models.families.family import Hearing
from dpo_video.models.families.own_code.beats import BeatsSizes
from dpo_video.video.frames import SoundFormat

RATE = 16_000
"""Samples a second that the tower was trained on."""
PIECES = 8
"""Pieces of a clip's sound that are read, evenly spread over it."""
PIECE_SECONDS = 2
SECONDS = 30
"""What all of them together are filled up to with silence."""
MELS = 128
WINDOW = 400
"""Samples of a spectrogram's frame: 25 ms."""
HOP = 160
"""Samples from one frame to the next: 10 ms."""
TIMES = 1 + (SECONDS * RATE - WINDOW) // HOP
"""Frames of every clip's spectrogram."""
FILES = (".bin", ".pt", ".pth", ".safetensors")
"""Ends of names of files of weights."""
SIZE_NAMES = {size.name for size in fields(BeatsSizes)}
MLP = re.compile(r"mlp(\d+)x_gelu")


def has_audio_branch(config: PretrainedConfig) -> bool:
    """Return whether a checkpoint has one: the published code makes it where this field is."""
    return bool(config.field("mm_audio_tower"))


def audio_sizes(config: PretrainedConfig) -> BeatsSizes:
    """Return the sizes of a checkpoint's tower, among what else it says of it: refused_audio."""
    stated = dict(config.field("audio_config") or {})
    return BeatsSizes(**{name: stated[name] for name in stated.keys() & SIZE_NAMES})


def refused_audio(config: PretrainedConfig) -> str | None:
    """Return why a checkpoint's audio branch is none that runs here, None where it is one.

    The published code makes a BEATs of what `mm_audio_tower` names, which is a file of weights, and
    never another tower.
    """
    tower, kind = config.field("mm_audio_tower"), config.field("mm_projector_a_type", "linear")
    if not str(tower).endswith(FILES):
        return f"its audio tower, {tower!r}, is no file of BEATs ({', '.join(FILES)})"
    unknown = (config.field("audio_config") or {}).keys() - SIZE_NAMES
    if unknown:
        return f"its audio_config has {min(unknown)!r}, which is no size of BEATs"
    if kind != "linear" and MLP.fullmatch(str(kind)) is None:
        return f"its mm_projector_a_type is {kind!r}, and must be 'linear' or like 'mlp2x_gelu'"
    widths = {
        "mm_hidden_size_a": audio_sizes(config).encoder_embed_dim,
        "hidden_size_a": config.get_text_config().hidden_size,
    }
    for name, width in widths.items():
        if config.field(name) != width:
            return f"its {name} is {config.field(name)!r}, and must be {width}"
    return None


def audio_hearing(config: PretrainedConfig) -> Hearing | None:
    """Return how a checkpoint with an audio branch hears: as much of every clip (sound_pieces)."""
    if not has_audio_branch(config):
        return None
    sizes = audio_sizes(config)
    rows = audio_rows(sizes)
    return Hearing(
        form=SoundFormat(RATE),
        tokens=lambda sound_samples: rows,
        most_tokens=rows,
        inputs=("input_features",),
        width=sizes.encoder_embed_dim,
        inner=sizes.encoder_ffn_embed_dim,
        positions=lambda sound_samples: rows,
        seconds=heard_seconds,
    )


def audio_projector(config: PretrainedConfig) -> nn.Module:
    """Return what brings the tower's patches (n, E) to rows (n, D)."""
    before, after = int(config.field("mm_hidden_size_a")), int(config.field("hidden_size_a"))
    kind = MLP.fullmatch(str(config.field("mm_projector_a_type", "linear")))
    if kind is None:
        return nn.Linear(before, after)
    layers: list[nn.Module] = [nn.Linear(before, after)]
    for _ in range(1, int(kind.group(1))):
        layers += [nn.GELU(), nn.Linear(after, after)]
    return nn.Sequential(*layers)


def audio_rows(sizes: BeatsSizes) -> int:
    """Return the rows of features of a clip's sound, which are as many for every length.

    >>> audio_rows(BeatsSizes())
    1496
    """
    return (TIMES // sizes.input_patch_size) * (MELS // sizes.input_patch_size)


def audio_inputs(sound: NDArray[np.float32]) -> Mapping[str, Tensor]:
    """Return what the tower reads of a clip's sound (S,) at 16,000 Hz: see sound_pieces and fbank.

    The published code keeps its spectrograms in bfloat16, whatever the model computes in.
    """
    read = torch.from_numpy(fbank(sound_pieces(sound)))
    return {"input_features": read.bfloat16().float()[None]}


def sound_pieces(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 8 pieces of 2 s of a sound (S,), one after another, and silence up to half a minute:
    (480000,).

    Of 10 s, the pieces begin at 0, 1, 2 ... and 7 s: none reaches the end. What is longer than 18 s
    has gaps between them; of what is shorter than 2 s, each piece is all of it. They begin where
    pytorchvideo's ConstantClipsPerVideoSampler has them in 0.1.5, its last release, which the
    published code requires; its repository has since spread them up to the end.
    """
    last = Fraction(max(len(sound) / RATE - PIECE_SECONDS, 0))
    pieces = []
    for number in range(PIECES):
        start = int(last / PIECES * number * RATE)
        pieces.append(sound[start : start + PIECE_SECONDS * RATE])
    heard = np.concatenate(pieces)
    return np.pad(heard, (0, SECONDS * RATE - len(heard)))


def heard_seconds(seconds: float) -> float:
    """Return how many of so many seconds of sound are in a piece.

    >>> heard_seconds(1), heard_seconds(10), heard_seconds(60)
    (1, 9.0, 16)
    """
    apart = max(seconds - PIECE_SECONDS, 0) / PIECES
    return min(seconds, PIECE_SECONDS) + (PIECES - 1) * min(apart, PIECE_SECONDS)


def fbank(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return Kaldi's log mel filter banks (T, M) of a sound (S,) in -1..1, in natural logarithms.

    Of 16-bit samples, as the published code reads a clip's, and as torchaudio's
    compliance.kaldi.fbank computes them by its defaults.
    """
    samples = np.clip(np.rint(sound * 2.0**15), -(2**15), 2**15 - 1)
    spectrum: NDArray[np.float32] = spectrogram(
        samples,
        window_function(WINDOW, "povey", periodic=False),
        frame_length=WINDOW,
        hop_length=HOP,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        remove_dc_offset=True,
        mel_filters=_mel_filters(),
        log_mel="log",
        mel_floor=float(np.finfo(np.float32).eps),
    )
    return np.ascontiguousarray(spectrum.T)


@cache
def _mel_filters() -> NDArray[np.float64]:
    with warnings.catch_warnings():  # the lowest bins are narrower than a frequency's step
        warnings.simplefilter("ignore", UserWarning)
        filters: NDArray[np.float64] = mel_filter_bank(
            num_frequency_bins=257,
            num_mel_filters=MELS,
            min_frequency=20.0,
            max_frequency=RATE / 2,
            sampling_rate=RATE,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
    return filters
