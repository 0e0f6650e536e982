"""Forwards of a judge that runs here: label probabilities of prompts, or what it writes to them; on
trees where its language model allows it, else row by row.

B prompts of a batch, T tokens of the longest (left padded), N tokens of packed prompts, V
vocabulary, L labels.

Prompts of a scorer begin alike, and those about one caption for longer: as a tree each beginning is
read once.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
)

from dpo_video.judge.backends.local_prompts import JudgePrompt, LabelTokens
from dpo_video.judge.types import Reply
from dpo_video.models.sampling import AnswerNoise, SeededGumbel
from dpo_video.models.shared_prefix.cascade import CascadePlan, Prefix, readers
from dpo_video.models.shared_prefix.decoding import next_logits, read_prefix, write_tokens
from dpo_video.models.shared_prefix.packed_rows import pack_texts, why_no_tree
from dpo_video.models.usage import PromptUsage
from dpo_video.recipe import JudgeSettings

PROBES = ((5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), (5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 5))
"""Token ids of two prompts that begin alike; any language model has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedJudge:
    """A language model that judges."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context: int
    """Most tokens that prompt and reply may have together."""
    control: re.Pattern[str]
    """Any of the tokenizer's control tokens; to ask it for them again takes milliseconds a prompt.
    """
    on_trees: bool
    """Whether what prompts have in common is read once."""
    usage: PromptUsage
    """Is told what is read."""


@torch.inference_mode()
def why_rows(model: PreTrainedModel) -> str | None:
    """Return why a language model reads prompts row by row; None where trees give it the same
    logits, which is tried.
    """
    reason = why_no_tree(model.get_decoder(), setting="its attention")
    if reason is not None or not model._supports_attention_backend:
        return reason or "its code has an attention of its own"
    prompts = [list(probe) for probe in PROBES]
    expected = torch.stack([_row_logits(model, prompt) for prompt in prompts])
    try:
        at_leaves, _ = _leaf_logits(model, prompts)
        prefix = _read_but_last(model, prompts)
        ids, positions = _last_tokens(model, prompts)
        plan = CascadePlan(readers=[readers(prefix, torch.arange(2, device=model.device))])
        empty = DynamicCache(config=model.config.get_text_config())
        written = next_logits(model, ids, positions, empty, plan)
    except (TypeError, ValueError, RuntimeError, AssertionError, LookupError, AttributeError) as e:
        return f"its code knows no trees ({str(e).strip().splitlines()[0][:80]})"
    tolerance = (1e-3 if model.dtype == torch.float32 else 0.1) * float(expected.abs().max())
    for logits in (at_leaves, written):
        if not float((logits - expected).abs().max()) <= tolerance:
            return "its logits on a tree are not those of single prompts"
    return None


def _row_logits(model: PreTrainedModel, prompt: Sequence[int]) -> Tensor:
    """Return (V,) logits of what follows a prompt that is read alone."""
    output = cast(Any, model)(input_ids=torch.tensor([prompt], device=model.device))
    logits: Tensor = output.logits[0, -1].float()
    return logits


def _leaf_logits(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, int]:
    """Return (prompts, V) logits in float32 of what follows each prompt, all read as one tree, and
    the tree's tokens.
    """
    packing, inputs = pack_texts(model, prompts)
    leaves = torch.tensor([int(index[-1]) for index in packing.packed_index], device=model.device)
    output = cast(Any, model)(**inputs, use_cache=False, logits_to_keep=leaves)
    return output.logits[0].float(), packing.num_tokens


def _read_but_last(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> Prefix:
    packing, inputs = pack_texts(model, [prompt[:-1] for prompt in prompts])
    return read_prefix(model, packing, inputs)


def _last_tokens(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return (prompts,) the last token of each prompt, and its position."""
    ids = torch.tensor([prompt[-1] for prompt in prompts], device=model.device)
    return ids, torch.tensor([len(prompt) - 1 for prompt in prompts], device=model.device)


@torch.inference_mode()
def read_labels(
    judge: LoadedJudge, prompts: Sequence[JudgePrompt], labels: LabelTokens
) -> list[Reply]:
    """Return the log probability of every label as the next token: one forward, logits of the last
    position only.
    """
    logits = _labels_on_trees(judge, prompts) if judge.on_trees else _labels_by_row(judge, prompts)
    log_probs = logits.log_softmax(-1)[:, list(labels.tokens.values())].tolist()  # (B, L) nats
    written = [str(judge.tokenizer.decode([token])) for token in logits.argmax(-1).tolist()]
    return [
        Reply(
            status="answered",
            text=labels.prefix + text,
            log_probs=dict(zip(labels.tokens, row, strict=True)),
        )
        for text, row in zip(written, log_probs, strict=True)
    ]


def _labels_by_row(judge: LoadedJudge, prompts: Sequence[JudgePrompt]) -> Tensor:
    """Return (B, V) logits behind each prompt, read in one batch of padded rows."""
    # generate() knows each architecture's position ids under left padding; `logits` are those
    # before any processor
    tensors = _pad(judge, prompts)
    output = _generate(
        judge, tensors, max_new_tokens=1, output_logits=True, return_dict_in_generate=True
    )
    logits: Tensor = output.logits[0].float()
    return logits


def _labels_on_trees(judge: LoadedJudge, prompts: Sequence[JudgePrompt]) -> Tensor:
    """Return (B, V) logits behind each prompt, read tree by tree."""
    trees = group_by_beginning(prompts, width=judge.model.config.get_text_config().hidden_size)
    logits: list[Tensor | None] = [None] * len(prompts)
    for tree in trees:
        texts = [prompts[index].ids for index in tree]
        rows, num_tokens = _leaf_logits(judge.model, texts)
        judge.usage.add_prefixes(run=num_tokens, alone=sum(map(len, texts)))
        for index, row in zip(tree, rows, strict=True):
            logits[index] = row
    return torch.stack([row for row in logits if row is not None])


@torch.inference_mode()
def write_verdicts(
    settings: JudgeSettings, judge: LoadedJudge, prompts: Sequence[JudgePrompt]
) -> list[Reply]:
    """Return a written reply to every prompt."""
    end_ids = judge.model.generation_config.eos_token_id
    ends = end_ids if isinstance(end_ids, list) else [end_ids]
    write = _write_on_trees if judge.on_trees else _write_rows
    replies = []
    for row in write(settings, judge, prompts, ends):
        end = next((index for index, token in enumerate(row) if token in ends), None)
        text = str(judge.tokenizer.decode(row[:end], skip_special_tokens=True))
        replies.append(
            Reply(status="answered", text=text, finish="length" if end is None else "stop")
        )
    return replies


def _write_rows(
    settings: JudgeSettings,
    judge: LoadedJudge,
    prompts: Sequence[JudgePrompt],
    ends: Sequence[int],
) -> list[list[int]]:
    tensors = _pad(judge, prompts)
    noise = _noise(settings, prompts, judge.model.device)
    output = _generate(judge, tensors, max_new_tokens=settings.max_tokens, logits_processor=noise)
    written: list[list[int]] = output[:, tensors["input_ids"].shape[1] :].tolist()
    return written


def _write_on_trees(
    settings: JudgeSettings,
    judge: LoadedJudge,
    prompts: Sequence[JudgePrompt],
    ends: Sequence[int],
) -> list[list[int]]:
    trees = group_by_beginning(prompts, width=judge.model.config.get_text_config().hidden_size)
    in_order = [prompts[index] for tree in trees for index in tree]
    plans = []
    for tree in trees:
        texts = [prompts[index].ids for index in tree]
        prefix = _read_but_last(judge.model, texts)
        judge.usage.add_prefixes(run=prefix.num_tokens, alone=sum(map(len, texts)))
        plans.append(readers(prefix, torch.arange(len(tree), device=judge.model.device)))
    ids, positions = _last_tokens(judge.model, [prompt.ids for prompt in in_order])
    written, _ = write_tokens(
        judge.model,
        ids=ids,
        positions=positions,
        plan=CascadePlan(readers=plans),
        noise=_noise(settings, in_order, judge.model.device),
        end_ids=ends,
        max_new_tokens=[settings.max_tokens] * len(prompts),
    )
    replies: list[list[int]] = [[] for _ in prompts]
    indices = [index for tree in trees for index in tree]
    for index, tokens in zip(indices, written, strict=True):
        replies[index] = tokens
    return replies


def group_by_beginning(prompts: Sequence[JudgePrompt], *, width: int) -> list[list[int]]:
    """Return prompts by position, those in one tree together, such as those about one caption.

    All prompts of a scorer begin alike, so that they could be one tree; but attention with a mask
    looks at every pair of its tokens. Where that costs more than to read the common beginning again
    for each branch, the branches are trees of their own: with 12 width^2 weights in a layer
    (Kaplan et al. 2020, arXiv 2001.08361, sec. 2.1) a token costs as much as 6 width pairs.
    """
    order = sorted(range(len(prompts)), key=lambda index: prompts[index].ids)
    first, last = prompts[order[0]].ids, prompts[order[-1]].ids
    root = 0
    while root < min(len(first), len(last)) and first[root] == last[root]:
        root += 1
    branches: dict[int | None, list[int]] = {}
    for index in order:
        ids = prompts[index].ids
        branches.setdefault(ids[root] if len(ids) > root else None, []).append(index)
    sizes = [
        _tree_size([prompts[index].ids for index in branch], root) for branch in branches.values()
    ]
    pairs_saved = (root + sum(sizes)) ** 2 - sum((root + size) ** 2 for size in sizes)
    if pairs_saved > (len(sizes) - 1) * root * 6 * width:
        return list(branches.values())
    return [order]


def _tree_size(texts: Sequence[Sequence[int]], start: int) -> int:
    """Return the tokens behind `start` of the tree of sorted texts: of each, those in which it
    parts from the one before.
    """
    size, before = 0, list(texts[0][:start])
    for text in texts:
        common = start
        while common < min(len(text), len(before)) and text[common] == before[common]:
            common += 1
        size += len(text) - common
        before = list(text)
    return size


def _generate(judge: LoadedJudge, tensors: dict[str, Tensor], **options: Any) -> Any:
    return cast(Any, judge.model).generate(**tensors, do_sample=False, **options)


def _noise(
    settings: JudgeSettings, prompts: Sequence[JudgePrompt], device: torch.device
) -> AnswerNoise:
    """Return what makes a sample of logits, by each prompt's own seed; nothing at temperature 0."""
    if settings.temperature == 0:
        return AnswerNoise()
    seeds = [prompt.seed + settings.repeat for prompt in prompts]
    return AnswerNoise([TemperatureLogitsWarper(settings.temperature), SeededGumbel(seeds, device)])


def _pad(judge: LoadedJudge, prompts: Sequence[JudgePrompt]) -> dict[str, Tensor]:
    longest = max(len(prompt.ids) for prompt in prompts)
    pad = int(judge.tokenizer.pad_token_id)
    ids = [[pad] * (longest - len(prompt.ids)) + prompt.ids for prompt in prompts]
    mask = [[0] * (longest - len(prompt.ids)) + [1] * len(prompt.ids) for prompt in prompts]
    judge.usage.add_prefixes(
        run=longest * len(prompts), alone=sum(len(prompt.ids) for prompt in prompts)
    )
    device = judge.model.device
    return {
        "input_ids": torch.tensor(ids, device=device),  # (B, T)
        "attention_mask": torch.tensor(mask, device=device),
    }  # (B, T), 1 for prompt, 0 for padding
