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
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch import FloatTensor, LongTensor, Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from dpo_video.models.collate import TokenRow, collate
from dpo_video.models.load import Policy

CACHE_ARGUMENT = (
    "cache"
    if "cache" in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    else "past_key_values"
)
"""What forwards and `generate` call the keys and values of a prefix: `cache` from transformers 5.24
on.
"""


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


@dataclass(frozen=True, slots=True)
class Answer:
    """One written answer."""

    text: str
    finish: Literal["stop", "length"]
    """`length` when it was cut at `max_new_tokens`."""


def candidate_seed(seed: int, sample_id: str, number: int) -> int:
    """Return the 32-bit seed of a sample's candidate `number`."""
    digest = hashlib.sha256(f"{seed}\n{number}\n{sample_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def generate_answers(
    policy: Policy, rows: Sequence[TokenRow], *, seeds: Sequence[Sequence[int]], sampler: Sampler
) -> list[list[Answer]]:
    """Return one answer per seed for each row, all made in one batch.

    Each prompt is read once; its cache is then copied for its answers. At temperature 0 a row's
    answers are the same and are made once.
    """
    greedy = sampler.temperature == 0
    counts = [min(1, len(row_seeds)) if greedy else len(row_seeds) for row_seeds in seeds]
    flat: list[int] = []
    for row_seeds, count in zip(seeds, counts, strict=True):
        flat.extend(row_seeds[:count])
    if not flat:
        return [[] for _ in rows]
    answers = iter(_write(policy, rows, counts=counts, seeds=flat, sampler=sampler))
    answers_by_row: list[list[Answer]] = []
    for row_seeds, count in zip(seeds, counts, strict=True):
        row_answers = list(islice(answers, count))
        answers_by_row.append(row_answers * len(row_seeds) if greedy else row_answers)
    return answers_by_row


@torch.no_grad()
def _write(
    policy: Policy,
    rows: Sequence[TokenRow],
    *,
    counts: Sequence[int],
    seeds: Sequence[int],
    sampler: Sampler,
) -> list[Answer]:
    """Return `counts[i]` answers to row i, in order."""
    inputs, cache = _read_prompts(policy, rows)
    owner = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(counts)).to(
        policy.device
    )  # (R,)
    cache.reorder_cache(owner)  # type: ignore[arg-type]  # batch_select_indices lacks recurrent layers (5.23)
    ids, mask, positions = inputs["input_ids"], inputs["attention_mask"], inputs["position_ids"]
    model = policy.bare
    ends = policy.end_ids
    generated = model.generate(
        input_ids=ids[owner],
        attention_mask=mask[owner],
        position_ids=positions[..., owner, :],
        **{CACHE_ARGUMENT: cache},
        logits_processor=_noise(policy, seeds, sampler, prompt=ids.shape[1]),
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=sampler.max_new_tokens,
            use_cache=True,
            eos_token_id=ends,
            pad_token_id=policy.pad_id,
        ),
    )
    return [_answer(policy, row, ends) for row in generated[:, ids.shape[1] :].tolist()]


def _read_prompts(policy: Policy, rows: Sequence[TokenRow]) -> tuple[dict[str, Any], DynamicCache]:
    """Run all but the last token of each left-padded prompt; return the whole inputs and the filled
    cache.
    """
    model = policy.bare
    inputs = collate(policy, rows, "left")
    cache = DynamicCache(config=model.config.get_text_config())
    almost = {
        name: value[..., :-1] if name in PER_TOKEN else value for name, value in inputs.items()
    }
    model.model(
        **almost, **{CACHE_ARGUMENT: cache}, use_cache=True
    )  # without the head: no logits are needed
    return inputs, cache


def _answer(policy: Policy, ids: Sequence[int], ends: Sequence[int]) -> Answer:
    stop = next((index for index, token in enumerate(ids) if token in ends), None)
    text = policy.processor.tokenizer.decode(ids[:stop], skip_special_tokens=True)
    return Answer(text=str(text), finish="length" if stop is None else "stop")


def _noise(
    policy: Policy, seeds: Sequence[int], sampler: Sampler, *, prompt: int
) -> LogitsProcessorList:
    """Return what makes a sample of logits; the prompt is so many tokens long, padding included."""
    if sampler.temperature == 0:
        return LogitsProcessorList()
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
    return LogitsProcessorList([*warpers, SeededGumbel(seeds, policy.device)])


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

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> FloatTensor:
        """Return (R, V) noisy logits; tokens at -inf stay there."""
        waits = torch.empty_like(
            scores, dtype=torch.float32
        )  # (R, V) Exponential(1); -log of it is Gumbel
        for row, generator in zip(waits, self.generators, strict=True):
            row.exponential_(generator=generator)
        noisy: Tensor = scores.float() - waits.log()
        return noisy  # type: ignore[return-value]


PER_TOKEN = frozenset({"input_ids", "attention_mask", "position_ids", "mm_token_type_ids"})
"""Inputs whose last axis is the tokens of a row."""
