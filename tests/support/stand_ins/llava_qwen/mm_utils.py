"""Prompts as LLaVA-NeXT's code writes and tokenizes them: a conversation of turns, and -200 for a
clip.
"""

from dataclasses import dataclass, field
from typing import Any

IMAGE_TOKEN_INDEX = -200
DEFAULT_IMAGE_TOKEN = "<image>"


@dataclass
class Conversation:
    """The conversation `qwen_1_5`."""

    system: str = "<|im_start|>system\nYou are a helpful assistant."
    roles: tuple[str, str] = ("<|im_start|>user", "<|im_start|>assistant")
    sep: str = "<|im_end|>"
    messages: list[tuple[str, str | None]] = field(default_factory=list)

    def append_message(self, role: str, message: str | None) -> None:
        self.messages.append((role, message))

    def get_prompt(self) -> str:
        text = self.system + self.sep + "\n"
        for role, message in self.messages:
            text += role + "\n" + (message + self.sep + "\n" if message else "")
        return text


def tokenizer_image_token(
    prompt: str, tokenizer: Any, image_token_index: int = IMAGE_TOKEN_INDEX
) -> list[int]:
    ids: list[int] = []
    for number, chunk in enumerate(prompt.split(DEFAULT_IMAGE_TOKEN)):
        ids += [image_token_index] * (number > 0) + tokenizer(chunk)["input_ids"]
    return ids
