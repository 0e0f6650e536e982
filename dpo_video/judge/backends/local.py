"""A transformers causal LM as the judge: label probabilities from one forward, or a written
verdict; batched.
"""

# Legend: B prompts of a batch, T tokens of the longest (left padded), V vocabulary, L labels

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
)

from dpo_video.core.errors import UserError
from dpo_video.core.progress import loading
from dpo_video.judge.prompt import render
from dpo_video.judge.scorer import Scorer
from dpo_video.judge.types import Judge, Keep, Messages, Reply, mode_of
from dpo_video.models.hub import refuse_pickled_weights
from dpo_video.models.load import choose_device, choose_dtype
from dpo_video.models.sampling import SeededGumbel
from dpo_video.recipe import JudgeSettings
from dpo_video.store import content_hash

WINDOW_BATCHES = 64
"""Prompts are tokenised and sorted by length in windows of this many batches: little padding,
bounded memory.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context: int
    """Most tokens that prompt and reply may have together."""
    control: re.Pattern[str]
    """Any of the tokenizer's control tokens; to ask it for them again takes milliseconds a prompt.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTokens:
    """The reply up to the label, and the token of each label behind it."""

    prefix: str
    tokens: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompt:
    index: int
    ids: list[int]
    seed: int
    """Seeds a sampled verdict: from the prompt alone, so that its batch does not matter."""


def local_judge(settings: JudgeSettings) -> Judge:
    """Return a judge that runs here; the first `ask` loads it."""
    device, dtype = choose_device(settings, "judge"), choose_dtype(settings, "judge")
    folder, revision = _find(settings)
    load = cache(partial(_load, settings, folder, device, dtype))
    identity = {
        "model": revision if folder.is_dir() else f"{settings.model}@{revision}",
        "dtype": str(dtype),
    }
    return Judge(
        name=f"{settings.model}@{revision[:12]}",
        identity=identity,
        ask=partial(_ask, settings, load),
        close=load.cache_clear,
    )


def _find(settings: JudgeSettings) -> tuple[Path, str]:
    """Return where the model is, and what identifies its weights: the content of a folder, the
    commit on the hub.

    A hub model's path is its name: it is no folder here.
    """
    if settings.model.startswith("toy:"):
        from dpo_video.toy.models import checkpoint

        try:
            folder = checkpoint(settings.model.removeprefix("toy:"))
        except ValueError as error:
            raise UserError(f"judge.model {settings.model!r}: {error}") from error
    else:
        folder = Path(settings.model).expanduser()
    if folder.is_dir():
        return folder, content_hash(folder)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        config = hf_hub_download(settings.model, "config.json", revision=settings.revision)
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"no judge model {settings.model!r}: neither a folder here nor a model on the hub that "
            f"can be reached ({first}). Check judge.model; for a server set judge.backend=openai"
        ) from error
    # hub cache: .../snapshots/<commit>/config.json
    return Path(settings.model), Path(config).parent.name


def check_labels(settings: JudgeSettings, scorer: Scorer) -> None:
    """Raise UserError where the judge is not there, or a label of the scorer is not one token of
    it.
    """
    folder, _ = _find(settings)
    if mode_of(settings, scorer) == "labels":
        with _one_line_errors(settings):
            tokenizer = _load_tokenizer(settings, folder)
        label_tokens(tokenizer, scorer, settings.model)


def _load_tokenizer(settings: JudgeSettings, folder: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        str(folder), padding_side="left", revision=settings.revision, trust_remote_code=False
    )
    if tokenizer.chat_template is None:
        raise UserError(
            f"judge.model {settings.model!r} has no chat template; a judge must be a chat "
            "(instruct) model"
        )
    return tokenizer


@contextmanager
def _one_line_errors(settings: JudgeSettings) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot load judge.model {settings.model!r} as a causal language model: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error


def _load(
    settings: JudgeSettings, folder: Path, device: torch.device, dtype: torch.dtype
) -> _Loaded:
    """Return the judge's model and tokenizer; code that comes with them is not run."""
    refuse_pickled_weights(folder, setting=f"judge.model {settings.model!r}")
    with _one_line_errors(settings), loading(settings.model):
        tokenizer = _load_tokenizer(settings, folder)
        model = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            revision=settings.revision,
            use_safetensors=True,
            trust_remote_code=False,
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # generate() would add what generation_config.json says (a repetition penalty, say): only its
    # end tokens stay
    ends = model.generation_config.eos_token_id or tokenizer.eos_token_id
    model.generation_config = GenerationConfig(
        pad_token_id=tokenizer.pad_token_id, eos_token_id=ends
    )
    context = int(model.config.get_text_config().max_position_embeddings)
    return _Loaded(
        model=cast(Any, model).eval().to(device),
        tokenizer=tokenizer,
        context=context,
        control=control_tokens(tokenizer),
    )


def _ask(
    settings: JudgeSettings,
    load: Callable[[], _Loaded],
    scorer: Scorer,
    prompts: Iterable[Messages],
    keep: Keep,
) -> None:
    """Answer the prompts in windows, each sorted by length, batch by batch."""
    loaded = load()
    labels = (
        label_tokens(loaded.tokenizer, scorer, settings.model)
        if mode_of(settings, scorer) == "labels"
        else None
    )
    new_tokens = 1 if labels else settings.max_tokens
    indexed = enumerate(prompts)
    while window := list(islice(indexed, settings.batch_size * WINDOW_BATCHES)):
        ready = []
        for index, messages in window:
            prompt = _encode(loaded.tokenizer, index, messages, labels)
            problem = _problem(loaded, messages, len(prompt.ids) + new_tokens)
            if problem:
                keep(index, Reply(status="refused", reason=problem))
            else:
                ready.append(prompt)
        # longest first: out of memory shows at once
        ready.sort(key=lambda prompt: len(prompt.ids), reverse=True)
        for begin in range(0, len(ready), settings.batch_size):
            batch = ready[begin : begin + settings.batch_size]
            for prompt, reply in zip(batch, _batch(settings, loaded, batch, labels), strict=True):
                keep(prompt.index, reply)


def _batch(
    settings: JudgeSettings, loaded: _Loaded, prompts: Sequence[_Prompt], labels: LabelTokens | None
) -> list[Reply]:
    try:
        return read_labels(loaded, prompts, labels) if labels else _write(settings, loaded, prompts)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the judge ran out of GPU memory at judge.batch_size {settings.batch_size} with "
            f"prompts of {len(prompts[0].ids)} tokens. Lower it, or judge.dtype; finished rows are "
            "kept"
        ) from error


def label_tokens(tokenizer: PreTrainedTokenizerBase, scorer: Scorer, model: str) -> LabelTokens:
    """Return the token of each label behind the reply prefix; UserError names a label that is not
    one distinct token.

    Labels are tokenised in context: in "Verdict: A" most tokenizers join the space and the A.
    """
    messages = render(scorer, caption="c", question="q", answer="a", reference="r")
    text = _chat_text(tokenizer, messages, enable_thinking=False) + scorer.reply_prefix
    ids = {label: _token_ids(tokenizer, text + label) for label in scorer.labels}
    shared = min(len(tokens) for tokens in ids.values()) - 1
    prefix_ids = next(iter(ids.values()))[:shared]
    for label, tokens in ids.items():
        if len(tokens) != shared + 1 or tokens[:shared] != prefix_ids:
            pieces = tokenizer.convert_ids_to_tokens(tokens[shared:])
            raise UserError(
                f"scorer {scorer.name!r}: label {label!r} is not one token behind "
                f"{scorer.reply_prefix!r} for judge {model!r} (it reads {pieces}). Use labels that "
                "are single tokens, such as digits or capital letters, or set "
                "judge.score_from=verdict"
            )
        twins = [twin for twin in ids if twin != label and ids[twin] == tokens]
        if twins:
            raise UserError(
                f"scorer {scorer.name!r}: labels {label!r} and {twins[0]!r} are the same token for "
                f"judge {model!r}. Choose others, or set judge.score_from=verdict"
            )
    return LabelTokens(
        prefix=scorer.reply_prefix, tokens={label: tokens[-1] for label, tokens in ids.items()}
    )


def _chat_text(tokenizer: PreTrainedTokenizerBase, messages: Messages, **options: Any) -> str:
    return str(
        tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **options
        )
    )


def _token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _encode(
    tokenizer: PreTrainedTokenizerBase, index: int, messages: Messages, labels: LabelTokens | None
) -> _Prompt:
    """Return the prompt's tokens; under labels up to, not including, the label's token."""
    if labels is None:
        text = _chat_text(tokenizer, messages)
        ids = _token_ids(tokenizer, text)
    else:
        label, token = next(iter(labels.tokens.items()))
        text = _chat_text(tokenizer, messages, enable_thinking=False) + labels.prefix
        *ids, last = _token_ids(tokenizer, text + label)
        assert last == token, "the end of the text is the same for every prompt"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
    return _Prompt(index=index, ids=ids, seed=seed)


def _problem(loaded: _Loaded, messages: Messages, length: int) -> str | None:
    """Return why a prompt cannot be judged: too long, or control tokens of this model inside its
    text.
    """
    if length > loaded.context:
        return (
            f"context length: prompt and reply need {length} tokens, the judge takes "
            f"{loaded.context}"
        )
    for message in messages:
        if match := loaded.control.search(message["content"]):
            return f"control token: the text holds {match[0]!r}, which the judge reads as structure"
    return None


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Return a pattern that finds any special token of a tokenizer, the longest at its place."""
    special = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special and token.content
    ]
    return re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")


@torch.inference_mode()
def read_labels(loaded: _Loaded, prompts: Sequence[_Prompt], labels: LabelTokens) -> list[Reply]:
    """Return the log probability of every label as the next token: one forward, logits of the last
    position only.
    """
    tensors = _pad(loaded, prompts)
    # generate() knows each architecture's position ids under left padding; `logits` are those
    # before any processor
    output = _generate(
        loaded, tensors, max_new_tokens=1, output_logits=True, return_dict_in_generate=True
    )
    logits = output.logits[0].float()  # (B, V)
    log_probs = logits.log_softmax(-1)[:, list(labels.tokens.values())].tolist()  # (B, L) nats
    written = [str(loaded.tokenizer.decode([token])) for token in logits.argmax(-1).tolist()]
    return [
        Reply(
            status="answered",
            text=labels.prefix + text,
            log_probs=dict(zip(labels.tokens, row, strict=True)),
        )
        for text, row in zip(written, log_probs, strict=True)
    ]


@torch.inference_mode()
def _write(settings: JudgeSettings, loaded: _Loaded, prompts: Sequence[_Prompt]) -> list[Reply]:
    """Return a written reply to every prompt."""
    tensors = _pad(loaded, prompts)
    end_ids = loaded.model.generation_config.eos_token_id
    ends = set(end_ids) if isinstance(end_ids, list) else {end_ids}
    noise = _noise(settings, prompts, loaded.model.device)
    output = _generate(loaded, tensors, max_new_tokens=settings.max_tokens, logits_processor=noise)
    replies = []
    for row in output[:, tensors["input_ids"].shape[1] :].tolist():
        end = next((index for index, token in enumerate(row) if token in ends), None)
        text = str(loaded.tokenizer.decode(row[:end], skip_special_tokens=True))
        replies.append(
            Reply(status="answered", text=text, finish="length" if end is None else "stop")
        )
    return replies


def _generate(loaded: _Loaded, tensors: dict[str, torch.Tensor], **options: Any) -> Any:
    return cast(Any, loaded.model).generate(**tensors, do_sample=False, **options)


def _noise(
    settings: JudgeSettings, prompts: Sequence[_Prompt], device: torch.device
) -> LogitsProcessorList:
    """Return what makes a sample of logits, by each prompt's own seed; nothing at temperature 0."""
    if settings.temperature == 0:
        return LogitsProcessorList()
    seeds = [prompt.seed + settings.repeat for prompt in prompts]
    return LogitsProcessorList(
        [TemperatureLogitsWarper(settings.temperature), SeededGumbel(seeds, device)]
    )


def _pad(loaded: _Loaded, prompts: Sequence[_Prompt]) -> dict[str, torch.Tensor]:
    longest = max(len(prompt.ids) for prompt in prompts)
    pad = int(loaded.tokenizer.pad_token_id)
    ids = [[pad] * (longest - len(prompt.ids)) + prompt.ids for prompt in prompts]
    mask = [[0] * (longest - len(prompt.ids)) + [1] * len(prompt.ids) for prompt in prompts]
    device = loaded.model.device
    return {
        "input_ids": torch.tensor(ids, device=device),  # (B, T)
        "attention_mask": torch.tensor(mask, device=device),
    }  # (B, T), 1 for prompt, 0 for padding
