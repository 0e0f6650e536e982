"""Sample answers so that each depends on its own seed, prompt and clip, never on the batch it was
made in.

Shapes: R rows (one per answer), V vocabulary, T tokens.

Sampling is the Gumbel-max trick: the argmax of log-probabilities plus Gumbel noise is an exact
sample of the softmax. The noise of a row comes from the row's own generator. What is left of the
batch is rounding: rows of other lengths change the order of additions, by about 1e-6 of a logit in
float32 and 1e-2 in bfloat16. A token changes only where its noisy lead is smaller than that; in
float32 this was never seen.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import FloatTensor, LongTensor, Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """How answers are drawn."""

    temperature: float
    """0 is greedy, without noise."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all tokens."""
    min_p: float = 0.0
    """0 keeps all tokens."""
    first_temperature: float | None = None
    """Of the first `first_tokens` tokens; None is `temperature`."""
    first_tokens: int = 8
    max_new_tokens: int


def candidate_seed(seed: int, sample_id: str, number: int) -> int:
    """Return the 32-bit seed of a sample's candidate `number`."""
    digest = hashlib.sha256(f"{seed}\n{number}\n{sample_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def answer_noise(
    sampler: Sampler, seeds: Sequence[int], device: torch.device, *, prompt: int
) -> "AnswerNoise":
    """Return what makes a sample of logits; the prompt is so many tokens long, padding included."""
    if sampler.temperature == 0:
        return AnswerNoise()
    first = sampler.first_temperature or sampler.temperature
    warpers: list[LogitsProcessor] = [
        ScheduledTemperature(
            first=first, until=prompt + sampler.first_tokens, after=sampler.temperature
        )
    ]
    if sampler.top_k > 0:
        warpers.append(TopKLogitsWarper(sampler.top_k))
    if sampler.top_p < 1:
        warpers.append(TopPLogitsWarper(sampler.top_p))
    if sampler.min_p > 0:
        warpers.append(MinPLogitsWarper(sampler.min_p))
    return AnswerNoise([*warpers, SeededGumbel(seeds, device)])


def batch_noise(
    samplers: Sequence[Sampler], seeds: Sequence[int], device: torch.device, *, prompt: int
) -> "AnswerNoise":
    """Return what makes a sample of logits where each row has a sampler of its own."""
    rows: dict[Sampler, list[int]] = {}
    for row, sampler in enumerate(samplers):
        rows.setdefault(sampler, []).append(row)
    noises = [
        (own, answer_noise(sampler, [seeds[row] for row in own], device, prompt=prompt))
        for sampler, own in rows.items()
    ]
    return noises[0][1] if len(noises) == 1 else AnswerNoise([RowSamplers(noises)])


class AnswerNoise(LogitsProcessorList):
    """The processors of a batch of answers, any of which may end before the others."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order."""
        for processor in self:
            if isinstance(processor, SeededGumbel | RowSamplers):
                processor.keep(rows)


class ScheduledTemperature(LogitsProcessor):
    """Divide logits by one temperature up to a length of the sequence, and by another after it."""

    def __init__(self, *, first: float, until: int, after: float) -> None:
        self.first, self.until, self.after = first, until, after

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> FloatTensor:
        """Return (R, V) logits of the next token after `input_ids` (R, T)."""
        scaled: Tensor = scores / (self.first if input_ids.shape[1] < self.until else self.after)
        return scaled  # type: ignore[return-value]


class SeededGumbel(LogitsProcessor):
    """Add Gumbel noise to each row's logits from the row's own seed, so that their argmax is a
    sample.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with the noise of these rows only."""
        self.generators = [self.generators[row] for row in rows]

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> FloatTensor:
        """Return (R, V) noisy logits; tokens at -inf stay there."""
        waits = torch.empty_like(
            scores, dtype=torch.float32
        )  # (R, V) Exponential(1); -log of it is Gumbel
        for row, generator in zip(waits, self.generators, strict=True):
            row.exponential_(generator=generator)
        noisy: Tensor = scores.float() - waits.log()
        return noisy  # type: ignore[return-value]


class RowSamplers(LogitsProcessor):
    """Draw the rows of a batch by samplers of their own, those of a sampler together."""

    def __init__(self, noises: Sequence[tuple[Sequence[int], AnswerNoise]]) -> None:
        self.noises = noises

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order."""
        place = {row: index for index, row in enumerate(rows)}
        noises: list[tuple[Sequence[int], AnswerNoise]] = []
        for own, noise in self.noises:
            kept = [index for index, row in enumerate(own) if row in place]
            if kept:
                noise.keep(kept)
                noises.append(([place[own[index]] for index in kept], noise))
        self.noises = noises

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> FloatTensor:
        """Return (R, V) logits, each row as its sampler's processors make it."""
        drawn = torch.empty_like(scores)
        for own, noise in self.noises:
            rows = torch.tensor(own, device=scores.device)
            drawn[rows] = noise(input_ids[rows], scores[rows])  # type: ignore[arg-type]
        return drawn  # type: ignore[return-value]
