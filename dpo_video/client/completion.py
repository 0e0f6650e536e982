"""A chat completion as it comes back: its choice, its text, and the thinking before that."""

from collections.abc import Mapping
from typing import Any, Literal

from dpo_video.client.http_errors import RequestRefused, TransientError
from dpo_video.core import strict_json
from dpo_video.core.text import replace_lone_surrogates


def read_choice(body: Mapping[str, Any]) -> tuple[dict[str, Any], str, Literal["stop", "length"]]:
    """Return a completion's choice, its text and how it ended; a refusal in words is a text.

    Half a surrogate pair in the text becomes U+FFFD.
    """
    try:
        choice = body["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text = replace_lone_surrogates(
            _joined(message.get("content")) or message.get("refusal") or ""
        )
    except (LookupError, TypeError, AttributeError):
        reason = "garbled reply: a choice without a message in words"
        raise TransientError(reason, "garbled") from None
    if finish == "content_filter":
        raise RequestRefused("content filter: the server withheld the reply")
    return choice, text, "length" if finish == "length" else "stop"


def reasoning_text(choice: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the field that holds a message's thinking, and the thinking; None without any."""
    for name in ("reasoning_content", "reasoning"):
        text = choice["message"].get(name)
        if isinstance(text, str) and text.strip():
            return name, replace_lone_surrogates(text)
    return None


def _joined(content: Any) -> Any:
    """Return the text of a message whose content is a list of parts; other content as it is."""
    if not isinstance(content, list):
        return content
    return "".join(piece["text"] for piece in content if piece.get("type", "text") == "text")


def decode_body(text: str) -> Any:
    """Return the JSON of a reply; TransientError for what is none, or is nested too deep."""
    try:
        return strict_json.loads_foreign(text)
    except ValueError:
        reason = "garbled reply: not JSON, or nested without end"
        raise TransientError(reason, "garbled") from None
