"""Write answers to prompts: on trees where the language model allows it, else row by row with
transformers' `generate`.

Shapes: R rows (one per answer), T tokens of the longest prompt.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, PreTrainedModel

from dpo_video.models.answer_requests import AnswerRequest
from dpo_video.models.collate import TokenRow, collate
from dpo_video.models.kv_cache import CACHE_ARGUMENT, cache_bytes
from dpo_video.models.load import Policy
from dpo_video.models.sampling import Sampler, answer_noise
from dpo_video.models.shared_prefix.decoding import write_on_trees
from dpo_video.models.shared_prefix.packed_rows import why_answered_alone
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
    """Return one answer per seed for each row, all by one sampler: see `answer_requests`."""
    requests = [
        AnswerRequest(row=row, sampler=sampler, seeds=row_seeds)
        for row, row_seeds in zip(rows, seeds, strict=True)
    ]
    return answer_requests(
        policy, requests, at_once=at_once, share_prefix=share_prefix, usage=usage
    )


def answer_requests(
    policy: Policy,
    requests: Sequence[AnswerRequest],
    *,
    at_once: int | None = None,
    share_prefix: bool = True,
    usage: PromptUsage | None = None,
) -> list[list[Answer]]:
    """Return one answer per seed for each request.

    At temperature 0 a request's answers are the same and are made once.

    Args:
        at_once: most answers that are written together; None is all of them.
        share_prefix: False reads each prompt for itself and copies what is kept of it for each of
            its answers, as a language model does anyway whose prefixes cannot be shared.
        usage: is told what was run.
    """
    own_requests = [
        replace(request, seeds=request.seeds[:1]) if _is_greedy(request) else request
        for request in requests
    ]
    num_answers = sum(len(request.seeds) for request in own_requests)
    if not num_answers:
        return [[] for _ in requests]
    write = write_on_trees if share_prefix and why_answered_alone(policy) is None else _write_rows
    written = write(
        policy,
        own_requests,
        at_once=at_once or num_answers,
        usage=PromptUsage() if usage is None else usage,
    )
    answers = iter(_answer(policy, ids) for ids in written)
    answers_by_request: list[list[Answer]] = []
    for request, own in zip(requests, own_requests, strict=True):
        row_answers = list(islice(answers, len(own.seeds)))
        answers_by_request.append(
            row_answers * len(request.seeds) if _is_greedy(request) else row_answers
        )
    return answers_by_request


def _is_greedy(request: AnswerRequest) -> bool:
    return request.sampler.temperature == 0


def _write_rows(
    policy: Policy, requests: Sequence[AnswerRequest], *, at_once: int, usage: PromptUsage
) -> list[list[int]]:
    """Return the token ids of one answer per seed and request, in order; a batch has one sampler,
    as `generate` takes one length.
    """
    by_sampler: dict[Sampler, list[int]] = {}
    for index, request in enumerate(requests):
        by_sampler.setdefault(request.sampler, []).append(index)
    written: dict[int, list[list[int]]] = {index: [] for index in range(len(requests))}
    for sampler, own in by_sampler.items():
        answers = [(index, seed) for index in own for seed in requests[index].seeds]
        for begin in range(0, len(answers), at_once):
            batch = answers[begin : begin + at_once]
            indices = sorted({index for index, _ in batch})
            seeds = [[seed for index, seed in batch if index == one] for one in indices]
            rows = [requests[index].row for index in indices]
            ids = _write_batch(policy, rows, seeds, sampler, usage)
            for (index, _), tokens in zip(batch, ids, strict=True):
                written[index].append(tokens)
    return list(chain.from_iterable(written.values()))


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
    with _kept_positions(policy.bare, positions[..., owner, -1:], length=ids.shape[1]):
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


@contextmanager
def _kept_positions(model: PreTrainedModel, last: Tensor, *, length: int) -> Iterator[None]:
    """Go on from the prompts' `last` positions (..., R, 1) where a model's own `generate` drops
    them: EXAONE 4.5's (transformers 5.24) counts padding on the left as tokens.
    """

    def fill(
        module: Any, arguments: tuple[Any, ...], inputs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if "position_ids" in inputs and inputs["position_ids"] is None:
            num_written = inputs[CACHE_ARGUMENT].get_seq_length() - (length - 1)
            inputs = {**inputs, "position_ids": last + num_written}
        return arguments, inputs

    hook = model.register_forward_pre_hook(fill, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


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
    body: Any = model.base_model
    body(
        **almost, **{CACHE_ARGUMENT: cache}, use_cache=True
    )  # without the head: no logits are needed
    return inputs, cache


def _answer(policy: Policy, ids: Sequence[int]) -> Answer:
    ends = policy.end_ids
    stop = next((index for index, token in enumerate(ids) if token in ends), None)
    text = policy.processor.tokenizer.decode(ids[:stop], skip_special_tokens=True)
    return Answer(text=str(text), finish="length" if stop is None else "stop")
