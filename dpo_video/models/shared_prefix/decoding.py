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

from dpo_video.models.answer_requests import AnswerRequest
from dpo_video.models.collate import TokenRow, collate
from dpo_video.models.kv_cache import CACHE_ARGUMENT, cache_bytes
from dpo_video.models.load import Policy
from dpo_video.models.sampling import AnswerNoise, batch_noise
from dpo_video.models.shared_prefix.cascade import CascadePlan, Prefix, keep_answers, readers
from dpo_video.models.shared_prefix.packed_rows import pack_batch
from dpo_video.models.shared_prefix.tree import Packing
from dpo_video.models.usage import PromptUsage

READ_AT_ONCE = 4096
"""Tokens of prompts about several clips that go through the language model together: short ones
alone do not fill a device.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """One answer to be written."""

    prefix: int
    """Which clip's prompts it reads."""
    prompt: int
    """Which of them it answers."""
    request: AnswerRequest
    seed: int
    index: int
    """Where it stands among the answers asked for."""


@torch.no_grad()
def write_on_trees(
    policy: Policy,
    requests: Sequence[AnswerRequest],
    *,
    at_once: int,
    usage: PromptUsage,
) -> list[list[int]]:
    """Return the token ids of one answer per seed and request, the seeds of a request one after
    another; an answer that ended has the id that ended it.

    The prompts about a clip are read once, whoever draws the answers to them.

    Args:
        at_once: most answers that are written together.
        usage: is told what was run.
    """
    clips: dict[int, list[int]] = {}
    for index, request in enumerate(requests):
        if request.seeds:
            clips.setdefault(id(request.row.features), []).append(index)
    rows = [[requests[index].row for index in own] for own in clips.values()]
    prefixes = read_prompts(policy, rows)
    usage.add_prefixes(
        run=sum(prefix.num_tokens for prefix in prefixes),
        alone=sum(len(request.row) * len(request.seeds) for request in requests),
    )
    waiting = _answers(list(clips.values()), requests)
    answers: list[list[int]] = [[] for _ in waiting]
    shared_bytes = sum(prefix.num_bytes for prefix in prefixes)
    for begin in range(0, len(waiting), at_once):
        batch = waiting[begin : begin + at_once]
        written, own_bytes = _write_batch(policy, prefixes, batch)
        usage.see_cache(shared_bytes + own_bytes)
        for answer, ids in zip(batch, written, strict=True):
            answers[answer.index] = ids
    return answers


def _answers(clips: Sequence[Sequence[int]], requests: Sequence[AnswerRequest]) -> list[_Answer]:
    """Return all answers, those about a clip next to one another."""
    first = [0]
    for request in requests:
        first.append(first[-1] + len(request.seeds))
    answers: list[_Answer] = []
    for prefix, own in enumerate(clips):
        for prompt, index in enumerate(own):
            for number, seed in enumerate(requests[index].seeds):
                answers.append(
                    _Answer(
                        prefix=prefix,
                        prompt=prompt,
                        request=requests[index],
                        seed=seed,
                        index=first[index] + number,
                    )
                )
    return answers


def read_prompts(policy: Policy, clips: Sequence[Sequence[TokenRow]]) -> list[Prefix]:
    """Run the prompts about each clip, packed and each without its last token, through the language
    model, those of several clips together; return what it keeps of each clip's.
    """
    prefixes: list[Prefix] = []
    together: list[Sequence[TokenRow]] = []
    num_tokens = 0
    for rows in clips:
        size = _packed_size(rows)
        if together and num_tokens + size > READ_AT_ONCE:
            prefixes += _read_together(policy, together)
            together, num_tokens = [], 0
        together.append(rows)
        num_tokens += size
    return prefixes + (_read_together(policy, together) if together else [])


def _packed_size(rows: Sequence[TokenRow]) -> int:
    """Return about how many tokens the prompts about a clip have, its own counted once."""
    clip = len(rows[0].features)
    return clip + sum(len(row) - clip for row in rows)


def _read_together(policy: Policy, clips: Sequence[Sequence[TokenRow]]) -> list[Prefix]:
    almost = [_without_last(row) for rows in clips for row in rows]
    batch = collate(policy, almost, "right")
    packing, inputs = pack_batch(policy.bare, policy.family, almost, batch)
    prefix = read_prefix(policy.bare, packing, inputs)
    prefixes: list[Prefix] = []
    end = first = 0
    for rows in clips:
        begin, last = end, first + len(rows)
        end = 1 + max(int(index[-1]) for index in packing.packed_index[first:last])
        prefixes.append(_part(prefix, slice(first, last), slice(begin, end)))
        first = last
    return prefixes


def _part(prefix: Prefix, prompts: slice, tokens: slice) -> Prefix:
    """Return the prompts about one clip, which stand next to one another."""
    return Prefix(
        keys=[keys[:, tokens] for keys in prefix.keys],
        values=[values[:, tokens] for values in prefix.values],
        visible=prefix.visible[prompts, tokens],
    )


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
    policy: Policy, prefixes: Sequence[Prefix], answers: Sequence[_Answer]
) -> tuple[list[list[int]], int]:
    """Return the ids of a batch of answers, and the most bytes that their own keys and values
    took.
    """
    device = policy.device
    prompts = [answer.request.row.prompt for answer in answers]
    samplers = [answer.request.sampler for answer in answers]
    positions = torch.stack([prompt.positions[:, -1] for prompt in prompts], 1).to(device)
    return write_tokens(
        policy.bare,
        ids=torch.stack([prompt.input_ids[-1] for prompt in prompts]).to(device),
        positions=positions if policy.family.position_axes == 3 else positions[0],
        plan=_plan(prefixes, answers, device),
        noise=batch_noise(samplers, [answer.seed for answer in answers], device, prompt=0),
        end_ids=policy.end_ids,
        max_new_tokens=[sampler.max_new_tokens for sampler in samplers],
    )


def _plan(
    prefixes: Sequence[Prefix], answers: Sequence[_Answer], device: torch.device
) -> CascadePlan:
    """Return who reads what; answers about a clip stand next to one another."""
    prompts: dict[int, list[int]] = {}
    for answer in answers:
        prompts.setdefault(answer.prefix, []).append(answer.prompt)
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
    layers: list[Any] = cache.layers  # full attention in each: see why_answered_alone
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
    max_new_tokens: Sequence[int],
) -> tuple[list[list[int]], int]:
    """Return what follows each prompt, up to its end, and the most bytes that the answers' own keys
    and values took. An answer that has ended leaves the batch.

    Args:
        ids: (R,), the last token of each prompt, which its prefix does not hold.
        positions: (R,), or (3, R) under M-RoPE, of these tokens.
        plan: which prefix each reads.
        max_new_tokens: of each answer.
    """
    limits = torch.tensor(list(max_new_tokens), device=ids.device)
    ends = torch.tensor(list(end_ids), device=ids.device)
    cache = DynamicCache(config=model.config.get_text_config())
    written: list[list[int]] = [[] for _ in ids]
    open_answers, most_bytes = list(range(len(ids))), 0
    for step in range(max(max_new_tokens)):
        logits = next_logits(model, ids, positions, cache, plan)
        most_bytes = max(most_bytes, cache_bytes(cache))
        so_far = torch.empty(len(ids), step, dtype=torch.long, device=ids.device)  # for its length
        ids = noise(so_far, logits).argmax(-1)  # type: ignore[arg-type]
        positions = positions + 1
        for answer, token in zip(open_answers, ids.tolist(), strict=True):
            written[answer].append(token)
        goes_on = ~torch.isin(ids, ends) & (limits > step + 1)
        kept = goes_on.nonzero()[:, 0]
        if not len(kept):
            break
        if len(kept) < len(ids):
            open_answers = [open_answers[row] for row in kept.tolist()]
            ids, positions, limits = ids[kept], positions[..., kept], limits[kept]
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
