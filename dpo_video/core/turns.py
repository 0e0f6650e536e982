"""Earlier turns of a conversation: as objects of JSON, as texts, as messages of a chat."""

from collections.abc import Sequence
from typing import Any

from dpo_video.core.records import History, Pair, Sample


def turn_rows(history: History) -> list[dict[str, str]]:
    """Return earlier turns as objects of JSON."""
    return [{"question": turn.question, "answer": turn.answer} for turn in history or ()]


def texts_before(history: History) -> dict[str, str]:
    """Return the texts of earlier turns by what errors call them."""
    texts: dict[str, str] = {}
    for number, turn in enumerate(history or (), start=1):
        texts[f"history, question {number}"] = turn.question
        texts[f"history, answer {number}"] = turn.answer
    return texts


def whole_question(record: Sample | Pair) -> str:
    """Return all that is asked, earlier turns and the question, a text after the other: what
    tells questions apart, and what is counted.
    """
    return "\n".join([*texts_before(record.history).values(), record.prompt])


def num_turns(record: Sample | Pair) -> int:
    """Return how many questions are asked, the last one among them."""
    return 1 + len(record.history or ())


def chat_messages(
    history: History, question: str, content: Sequence[Any], *, in_parts: bool = True
) -> list[dict[str, Any]]:
    """Return the messages of a chat up to a question, the clip in the first of them.

    Args:
        content: the parts of a message that show the clip.
        in_parts: texts are parts of messages, as chat templates of processors read them; else
            plain texts, as servers take them, but for the message with the clip.
    """

    def said(text: str) -> str | list[dict[str, str]]:
        return [{"type": "text", "text": text}] if in_parts else text

    texts = [*texts_before(history).values(), question]
    first: dict[str, Any] = {
        "role": "user",
        "content": [*content, {"type": "text", "text": texts[0]}],
    }
    later = [
        {"role": "user" if index % 2 == 0 else "assistant", "content": said(text)}
        for index, text in enumerate(texts[1:], start=1)
    ]
    return [first, *later]
