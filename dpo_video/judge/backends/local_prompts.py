"""Prompts for a judge that runs here, as tokens: where a label's token stands, and which prompts it
cannot judge.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from dpo_video.core.errors import UserError
from dpo_video.judge.prompt import render
from dpo_video.judge.scorer import Scorer
from dpo_video.judge.types import Messages


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTokens:
    """The reply up to the label, and the token of each label behind it."""

    prefix: str
    tokens: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgePrompt:
    """One question to the judge, as token ids."""

    index: int
    """Its number among those asked."""
    ids: list[int]
    seed: int
    """Seeds a sampled verdict: from the prompt alone, so that its batch does not matter."""


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


def encode_messages(
    tokenizer: PreTrainedTokenizerBase, index: int, messages: Messages, labels: LabelTokens | None
) -> JudgePrompt:
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
    return JudgePrompt(index=index, ids=ids, seed=seed)


def why_not_judged(
    messages: Messages, length: int, *, context: int, control: re.Pattern[str]
) -> str | None:
    """Return why a prompt cannot be judged: too long, or control tokens of this model inside its
    text.
    """
    if length > context:
        return f"context length: prompt and reply need {length} tokens, the judge takes {context}"
    for message in messages:
        if match := control.search(message["content"]):
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
