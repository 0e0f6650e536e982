"""A transformers causal LM as the judge: label probabilities from one forward, or a written
verdict; batched.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
)

from dpo_video.core.errors import UserError
from dpo_video.core.progress import loading, log
from dpo_video.judge.backends.local_forward import (
    LoadedJudge,
    read_labels,
    why_rows,
    write_verdicts,
)
from dpo_video.judge.backends.local_prompts import (
    JudgePrompt,
    LabelTokens,
    control_tokens,
    encode_messages,
    label_tokens,
    why_not_judged,
)
from dpo_video.judge.scorer import Scorer
from dpo_video.judge.types import Judge, Keep, Messages, Reply, mode_of
from dpo_video.models.hub import refuse_pickled_weights
from dpo_video.models.load import choose_device, choose_dtype
from dpo_video.models.load_errors import (
    refuse_missing_weights,
    refuse_no_tokenizer,
    why_not_loaded,
)
from dpo_video.models.usage import PromptUsage
from dpo_video.recipe import JudgeSettings
from dpo_video.store import content_hash

WINDOW_BATCHES = 64
"""Prompts are tokenised and sorted by length in windows of this many batches: little padding,
bounded memory.
"""


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


def check_label_tokens(settings: JudgeSettings, scorer: Scorer) -> None:
    """Raise UserError where the judge is not there, or a label of the scorer is not one token of
    it.
    """
    folder, _ = _find(settings)
    if mode_of(settings, scorer) == "labels":
        with _one_line_errors(settings):
            tokenizer = _load_tokenizer(settings, folder)
        label_tokens(tokenizer, scorer, settings.model)


def _load_tokenizer(settings: JudgeSettings, folder: Path) -> PreTrainedTokenizerBase:
    refuse_no_tokenizer(folder, setting=f"judge.model {settings.model!r}")
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
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"cannot load judge.model {settings.model!r} as a causal language model: "
            f"{why_not_loaded(error)}"
        ) from error


def _load(
    settings: JudgeSettings, folder: Path, device: torch.device, dtype: torch.dtype
) -> LoadedJudge:
    """Return the judge's model and tokenizer; code that comes with them is not run."""
    refuse_pickled_weights(folder, setting=f"judge.model {settings.model!r}")
    with _one_line_errors(settings), loading(settings.model):
        tokenizer = _load_tokenizer(settings, folder)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            revision=settings.revision,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    model, report = loaded
    refuse_missing_weights(model, report, setting=f"judge.model {settings.model!r}")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # generate() would add what generation_config.json says (a repetition penalty, say): only its
    # end tokens stay
    ends = model.generation_config.eos_token_id or tokenizer.eos_token_id
    model.generation_config = GenerationConfig(
        pad_token_id=tokenizer.pad_token_id, eos_token_id=ends
    )
    context = int(model.config.get_text_config().max_position_embeddings)
    model = model.eval().to(device)
    why = why_rows(model)
    if why is not None:
        log.info(f"judge {settings.model}: {why}, so every prompt is read from its beginning")
    return LoadedJudge(
        model=model,
        tokenizer=tokenizer,
        context=context,
        control=control_tokens(tokenizer),
        on_trees=why is None,
        usage=PromptUsage(),
    )


def _ask(
    settings: JudgeSettings,
    load: Callable[[], LoadedJudge],
    scorer: Scorer,
    prompts: Iterable[Messages],
    keep: Keep,
) -> None:
    """Answer the prompts in windows, each sorted by length, batch by batch."""
    loaded = replace(load(), usage=PromptUsage())
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
            prompt = encode_messages(loaded.tokenizer, index, messages, labels)
            problem = why_not_judged(
                messages,
                len(prompt.ids) + new_tokens,
                context=loaded.context,
                control=loaded.control,
            )
            if problem:
                keep(index, Reply(status="refused", reason=problem))
            else:
                ready.append(prompt)
        _sort(ready, by_beginning=loaded.on_trees)
        for begin in range(0, len(ready), settings.batch_size):
            batch = ready[begin : begin + settings.batch_size]
            for prompt, reply in zip(batch, _batch(settings, loaded, batch, labels), strict=True):
                keep(prompt.index, reply)
    log.info(
        f"judge {settings.model}: read {loaded.usage.tokens_run:,} tokens of prompts that have "
        f"{loaded.usage.tokens_alone:,}"
    )


def _sort(prompts: list[JudgePrompt], *, by_beginning: bool) -> None:
    """Order prompts for batches: those that begin alike next to one another, or, where they are
    padded, the longest first, so that being out of memory shows at once.
    """
    if by_beginning:
        prompts.sort(key=lambda prompt: prompt.ids)
    else:
        prompts.sort(key=lambda prompt: len(prompt.ids), reverse=True)


def _batch(
    settings: JudgeSettings,
    loaded: LoadedJudge,
    prompts: Sequence[JudgePrompt],
    labels: LabelTokens | None,
) -> list[Reply]:
    try:
        if labels is not None:
            return read_labels(loaded, prompts, labels)
        return write_verdicts(settings, loaded, prompts)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the judge ran out of GPU memory at judge.batch_size {settings.batch_size} with "
            f"prompts of {len(prompts[0].ids)} tokens. Lower it, or judge.dtype; finished rows are "
            "kept"
        ) from error
