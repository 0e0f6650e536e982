"""Prompts as VideoLLaMA 2's code writes and tokenizes them: the tokenizer's own chat template, a
system message on Mistral, and -201 for a clip.
"""

from typing import Any

VIDEO_TOKEN_INDEX = -201
DEFAULT_VIDEO_TOKEN = "<video>"


def prompt(tokenizer: Any, question: str, system: str) -> str:
    message = [{"role": "user", "content": DEFAULT_VIDEO_TOKEN + "\n" + question}]
    if system:
        message = [{"role": "system", "content": system}, *message]
    return str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))


def tokenizer_multimodal_token(prompt: str, tokenizer: Any) -> list[int]:
    ids: list[int] = []
    for number, chunk in enumerate(prompt.split(DEFAULT_VIDEO_TOKEN)):
        ids += [VIDEO_TOKEN_INDEX] * (number > 0)
        ids += tokenizer(chunk, add_special_tokens=False)["input_ids"]
    return ids
