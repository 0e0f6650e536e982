"""Prompts as VideoLLaMA 2's code writes and tokenizes them: the tokenizer's own chat template, a
system message on Mistral, and -201 for a clip. A clip's sound as it reads it: pieces of it, and
Kaldi's filter banks, a frame after another.
"""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

VIDEO_TOKEN_INDEX = -201
DEFAULT_VIDEO_TOKEN = "<video>"


def prompt(tokenizer: Any, question: str, system: str) -> str:
    message = [{"role": "user", "content": DEFAULT_VIDEO_TOKEN + "\n" + question}]
    if system:
        message = [{"role": "system", "content": system}, *message]
    return str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))


def tokenizer_multimodal_token(prompt: str, tokenizer: Any) -> list[int]:
    ids: list[int] = []
    for number, chunk in enumerate(prompt.split(DEFAULT_VIDEO_TOKEN)):
        ids += [VIDEO_TOKEN_INDEX] * (number > 0)
        ids += tokenizer(chunk, add_special_tokens=False)["input_ids"]
    return ids


def process_audio_from_video(waveform: NDArray[np.float32], sample_rate: int = 16000) -> Tensor:
    """Return the spectrogram (1, 2998, 128) of a clip's 16-bit samples, divided by 32768."""
    duration = Fraction(max(len(waveform) / sample_rate - Fraction(2), 0))
    clips: list[float] = []
    for number in range(8):
        start = Fraction(duration, 8) * number
        end = start + 2
        clips += waveform[int(start * sample_rate) : int(end * sample_rate)].tolist()
    clips += [0.0] * (30 * sample_rate - len(clips))
    frames = kaldi_fbank(np.array(clips) * 2**15)
    return torch.from_numpy(frames).to(torch.bfloat16).unsqueeze(0)


def kaldi_fbank(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log filter banks by Kaldi's defaults: feat/feature-window.cc, feat/mel-computations.cc
    and feat/feature-fbank.cc, for 128 bins at 16 kHz.
    """
    turns = 2 * np.pi * np.outer(np.arange(257), np.arange(400)) / 512
    waves = np.cos(turns) - 1j * np.sin(turns)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85  # Povey's
    banks = np.array([triangle(number) for number in range(128)])
    rows = []
    for start in range(0, len(samples) - 399, 160):
        frame = samples[start : start + 400]
        frame = frame - frame.mean()
        previous = [frame[0], *frame[:-1]]
        power = np.abs(waves @ ((frame - 0.97 * np.array(previous)) * window)) ** 2
        rows.append(np.log(np.maximum(banks @ power, np.finfo(np.float32).eps)))
    return np.array(rows)


def mel(frequency: float) -> float:
    return 1127 * math.log(1 + frequency / 700)


def triangle(number: int) -> list[float]:
    """Return how much of each of 257 frequencies falls into one of 128 bins."""
    step = (mel(8000) - mel(20)) / 129
    left, right = mel(20) + number * step, mel(20) + (number + 2) * step
    weights = []
    for place in range(257):
        here = mel(place * 16000 / 512)
        weights.append(max(0.0, min(here - left, right - here) / step))
    return weights
