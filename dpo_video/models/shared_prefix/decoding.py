"""Write answers on trees: prompts that begin alike, such as those about a clip, are read as one
tree, and all answers to them attend to its keys and values where these stand.

R answers, T tokens, N tokens of a clip's packed prompts, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from dpo_video.models.collate import TokenRow, collate
from dpo_video.models.kv_cache import CACHE_ARGUMENT, cache_bytes
from dpo_video.models.load import Policy
from dpo_video.models.sampling import AnswerNoise, Sampler, answer_noise
from dpo_video.models.shared_prefix.cascade import CascadePlan, Prefix, keep_answers, readers
from dpo_video.models.shared_prefix.packed_rows import pack_batch
from dpo_video.models.shared_prefix.tree import Packing
from dpo_video.models.usage import PromptUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """One answer to be written."""

    prefix: int
    """Which clip's prompts it reads."""
    prompt: int
    """Which of them it answers."""
    row: int
    """The same prompt among all rows."""
    seed: int
    index: int
    """Where it stands among the answers asked for."""


@torch.no_grad()
def write_on_trees(
    policy: Policy,
    rows: Sequence[TokenRow],
    *,
    seeds: Sequence[Sequence[int]],
    sampler: Sampler,
    at_once: int,
    usage: PromptUsage,
) -> list[list[int]]:
    """Return the token ids of one answer per seed and row, the seeds of a row one after another; an
    answer that ended has the id that ended it.

    Args:
        at_once: most answers that are written together.
        usage: is told what was run.
    """
    clips: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        if seeds[index]:
            clips.setdefault(id(row.features), []).append(index)
    prefixes = [_read_prompts(policy, [rows[index] for index in own]) for own in clips.values()]
    usage.add_prefixes(
        run=sum(prefix.num_tokens for prefix in prefixes),
        alone=sum(len(row) * len(own) for row, own in zip(rows, seeds, strict=True)),
    )
    requests = _requests(list(clips.values()), seeds)
    answers: list[list[int]] = [[] for _ in requests]
    shared_bytes = sum(prefix.num_bytes for prefix in prefixes)
    for begin in range(0, len(requests), at_once):
        batch = requests[begin : begin + at_once]
        written, own_bytes = _write_batch(policy, rows, prefixes, batch, sampler)
        usage.see_cache(shared_bytes + own_bytes)
        for request, ids in zip(batch, written, strict=True):
            answers[request.index] = ids
    return answers


def _requests(clips: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]]) -> list[_Request]:
    """Return all answers, those about a clip next to one another."""
    first = [0]
    for row_seeds in seeds:
        first.append(first[-1] + len(row_seeds))
    requests: list[_Request] = []
    for prefix, own_rows in enumerate(clips):
        for prompt, row in enumerate(own_rows):
            for number, seed in enumerate(seeds[row]):
                requests.append(
                    _Request(
                        prefix=prefix, prompt=prompt, row=row, seed=seed, index=first[row] + number
                    )
                )
    return requests


def _read_prompts(policy: Policy, rows: Sequence[TokenRow]) -> Prefix:
    """Run the prompts about one clip, packed and each without its last token, through the language
    model; return what it keeps of them.
    """
    almost = [_without_last(row) for row in rows]
    batch = collate(policy, almost, "right")
    packing, inputs = pack_batch(policy.bare, policy.family, almost, batch)
    return read_prefix(policy.bare, packing, inputs)


def _without_last(row: TokenRow) -> TokenRow:
    prompt, types = row.prompt, row.prompt.token_types
    return replace(
        row,
        prompt=replace(
            prompt,
            input_ids=prompt.input_ids[:-1],
            positions=prompt.positions[:, :-1],
            token_types=None if types is None else types[:-1],
        ),
    )


def _write_batch(
    policy: Policy,
    rows: Sequence[TokenRow],
    prefixes: Sequence[Prefix],
    requests: Sequence[_Request],
    sampler: Sampler,
) -> tuple[list[list[int]], int]:
    """Return the ids of a batch of answers, and the most bytes that their own keys and values
    took.
    """
    device = policy.device
    prompts = [rows[request.row].prompt for request in requests]
    positions = torch.stack([prompt.positions[:, -1] for prompt in prompts], 1).to(device)
    return write_tokens(
        policy.bare,
        ids=torch.stack([prompt.input_ids[-1] for prompt in prompts]).to(device),
        positions=positions if policy.family.position_axes == 3 else positions[0],
        plan=_plan(prefixes, requests, device),
        noise=answer_noise(sampler, [request.seed for request in requests], device, prompt=0),
        end_ids=policy.end_ids,
        max_new_tokens=sampler.max_new_tokens,
    )


def _plan(
    prefixes: Sequence[Prefix], requests: Sequence[_Request], device: torch.device
) -> CascadePlan:
    """Return who reads what; answers about a clip stand next to one another."""
    prompts: dict[int, list[int]] = {}
    for request in requests:
        prompts.setdefault(request.prefix, []).append(request.prompt)
    return CascadePlan(
        readers=[
            readers(prefixes[prefix], torch.tensor(own, device=device))
            for prefix, own in prompts.items()
        ]
    )


@torch.no_grad()
def read_prefix(model: PreTrainedModel, packing: Packing, inputs: Mapping[str, Any]) -> Prefix:
    """Run a packed sequence through the language model; return what it keeps of it.

    Args:
        inputs: the keyword arguments of the model's forward, as `pack_batch` returns them.
    """
    cache = DynamicCache(config=model.config.get_text_config())
    body: Any = model.base_model  # without the head: no logits are needed
    body(**inputs, **{CACHE_ARGUMENT: cache}, use_cache=True)
    visible = torch.zeros(len(packing.packed_index), packing.num_tokens, dtype=torch.bool)
    for prompt, index in enumerate(packing.packed_index):
        visible[prompt, torch.from_numpy(index)] = True
    layers: list[Any] = cache.layers  # full attention in each: see why_not_shared
    return Prefix(
        keys=[layer.keys[0] for layer in layers],
        values=[layer.values[0] for layer in layers],
        visible=visible.to(layers[0].keys.device),
    )


@torch.no_grad()
def write_tokens(
    model: PreTrainedModel,
    *,
    ids: Tensor,
    positions: Tensor,
    plan: CascadePlan,
    noise: AnswerNoise,
    end_ids: Sequence[int],
    max_new_tokens: int,
) -> tuple[list[list[int]], int]:
    """Return what follows each prompt, up to its end, and the most bytes that the answers' own keys
    and values took. An answer that has ended leaves the batch.

    Args:
        ids: (R,), the last token of each prompt, which its prefix does not hold.
        positions: (R,), or (3, R) under M-RoPE, of these tokens.
        plan: which prefix each reads.
    """
    ends = torch.tensor(list(end_ids), device=ids.device)
    cache = DynamicCache(config=model.config.get_text_config())
    written: list[list[int]] = [[] for _ in ids]
    open_answers, most_bytes = list(range(len(ids))), 0
    for step in range(max_new_tokens):
        logits = next_logits(model, ids, positions, cache, plan)
        most_bytes = max(most_bytes, cache_bytes(cache))
        so_far = torch.empty(len(ids), step, dtype=torch.long, device=ids.device)  # for its length
        ids = noise(so_far, logits).argmax(-1)  # type: ignore[arg-type]
        positions = positions + 1
        for answer, token in zip(open_answers, ids.tolist(), strict=True):
            written[answer].append(token)
        goes_on = ~torch.isin(ids, ends)
        kept = goes_on.nonzero()[:, 0]
        if not len(kept):
            break
        if len(kept) < len(ids):
            open_answers = [open_answers[row] for row in kept.tolist()]
            ids, positions = ids[kept], positions[..., kept]
            cache.batch_select_indices(kept)
            noise.keep(kept.tolist())
            plan = keep_answers(plan, goes_on)
    return written, most_bytes


def next_logits(
    model: PreTrainedModel, ids: Tensor, positions: Tensor, cache: DynamicCache, plan: CascadePlan
) -> Tensor:
    """Return (R, V) logits in float32 of what follows `ids` (R,) at `positions`."""
    forward: Any = model
    output = forward(
        input_ids=ids[:, None],
        position_ids=positions[..., None],
        attention_mask=torch.empty(1, 1, 0, 0, device=ids.device),  # the plan says who sees whom
        use_cache=True,
        cascade_plan=plan,
        **{CACHE_ARGUMENT: cache},
    )
    logits: Tensor = output.logits
    return logits[:, -1].float()
