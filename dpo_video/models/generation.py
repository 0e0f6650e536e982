"""Write answers to prompts: on trees where the language model allows it, else row by row with
transformers' `generate`.

Shapes: R rows (one per answer), T tokens of the longest prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from transformers import DynamicCache, GenerationConfig

from dpo_video.models.collate import TokenRow, collate
from dpo_video.models.kv_cache import CACHE_ARGUMENT, cache_bytes
from dpo_video.models.load import Policy
from dpo_video.models.sampling import Sampler, answer_noise
from dpo_video.models.shared_prefix.decoding import write_on_trees
from dpo_video.models.shared_prefix.packed_rows import why_not_shared
from dpo_video.models.usage import PromptUsage

PER_TOKEN = frozenset({"input_ids", "attention_mask", "position_ids", "mm_token_type_ids"})
"""Inputs whose last axis is the tokens of a row."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One written answer."""

    text: str
    finish: Literal["stop", "length"]
    """`length` when it was cut at `max_new_tokens`."""


def generate_answers(
    policy: Policy,
    rows: Sequence[TokenRow],
    *,
    seeds: Sequence[Sequence[int]],
    sampler: Sampler,
    at_once: int | None = None,
    share_prefix: bool = True,
    usage: PromptUsage | None = None,
) -> list[list[Answer]]:
    """Return one answer per seed for each row.

    At temperature 0 a row's answers are the same and are made once.

    Args:
        at_once: most answers that are written together; None is all of them.
        share_prefix: False reads each prompt for itself and copies what is kept of it for each of
            its answers, as a language model does anyway whose prefixes cannot be shared.
        usage: is told what was run.
    """
    greedy = sampler.temperature == 0
    own_seeds = [row_seeds[:1] if greedy else row_seeds for row_seeds in seeds]
    num_answers = sum(map(len, own_seeds))
    if not num_answers:
        return [[] for _ in rows]
    write = write_on_trees if share_prefix and why_not_shared(policy) is None else _write_rows
    written = write(
        policy,
        rows,
        seeds=own_seeds,
        sampler=sampler,
        at_once=at_once or num_answers,
        usage=PromptUsage() if usage is None else usage,
    )
    answers = iter(_answer(policy, ids) for ids in written)
    answers_by_row: list[list[Answer]] = []
    for row_seeds, own in zip(seeds, own_seeds, strict=True):
        row_answers = list(islice(answers, len(own)))
        answers_by_row.append(row_answers * len(row_seeds) if greedy else row_answers)
    return answers_by_row


def _write_rows(
    policy: Policy,
    rows: Sequence[TokenRow],
    *,
    seeds: Sequence[Sequence[int]],
    sampler: Sampler,
    at_once: int,
    usage: PromptUsage,
) -> list[list[int]]:
    """Return the token ids of one answer per seed and row, in order."""
    requests: list[tuple[int, int]] = []
    for row, row_seeds in enumerate(seeds):
        requests += [(row, seed) for seed in row_seeds]
    written: list[list[int]] = []
    for begin in range(0, len(requests), at_once):
        batch = requests[begin : begin + at_once]
        batch_rows = sorted({row for row, _ in batch})
        batch_seeds = [[seed for row, seed in batch if row == own] for own in batch_rows]
        written += _write_batch(
            policy, [rows[row] for row in batch_rows], batch_seeds, sampler, usage
        )
    return written


@torch.no_grad()
def _write_batch(
    policy: Policy,
    rows: Sequence[TokenRow],
    seeds: Sequence[Sequence[int]],
    sampler: Sampler,
    usage: PromptUsage,
) -> list[list[int]]:
    """Return the token ids of one answer per seed and row, all written together."""
    inputs, cache = _read_prompts(policy, rows)
    counts = torch.tensor([len(row_seeds) for row_seeds in seeds])
    owner = torch.repeat_interleave(torch.arange(len(rows)), counts).to(policy.device)  # (R,)
    cache.reorder_cache(owner)  # type: ignore[arg-type]  # batch_select_indices lacks recurrent layers (5.23)
    ids, mask, positions = inputs["input_ids"], inputs["attention_mask"], inputs["position_ids"]
    usage.add_prefixes(run=int(mask.sum()), alone=int(mask[owner].sum()))
    flat_seeds = [seed for row_seeds in seeds for seed in row_seeds]
    generated = policy.bare.generate(
        input_ids=ids[owner],
        attention_mask=mask[owner],
        position_ids=positions[..., owner, :],
        **{CACHE_ARGUMENT: cache},
        logits_processor=answer_noise(sampler, flat_seeds, policy.device, prompt=ids.shape[1]),
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=sampler.max_new_tokens,
            use_cache=True,
            eos_token_id=policy.end_ids,
            pad_token_id=policy.pad_id,
        ),
    )
    usage.see_cache(cache_bytes(cache))
    written: list[list[int]] = generated[:, ids.shape[1] :].tolist()
    return written


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


def _answer(policy: Policy, ids: Sequence[int]) -> Answer:
    ends = policy.end_ids
    stop = next((index for index, token in enumerate(ids) if token in ends), None)
    text = policy.processor.tokenizer.decode(ids[:stop], skip_special_tokens=True)
    return Answer(text=str(text), finish="length" if stop is None else "stop")
