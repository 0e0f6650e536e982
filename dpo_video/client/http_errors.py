"""What a failure of a server means: a later attempt, a prompt never answered, no money left."""

import email.utils
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from dpo_video.core.text import one_line

if TYPE_CHECKING:
    from openai import APIStatusError

REFUSING = (400, 413, 422)
"""Statuses that say that the request itself cannot be answered."""
QUOTA_WORDS = (
    "insufficient_quota",
    "billing_hard_limit",
    "insufficient balance",
    "balance is insufficient",
    "insufficient credits",
    "credit balance is too low",
)
"""Codes and words of vendors for an account without money. "billing" alone stands in mere rate
limits too.
"""
FLAGGED = re.compile(r"\b(?:flagged|moderation)\b")
"""What gateways say with a 403 that is about a prompt and not about the key."""


class TransientError(Exception):
    """A failure that a later attempt may not have.

    `kind` tells what it says about the server: `throttled` (429), `away` (no connection), `slow`
    (timeout), `garbled` (an unreadable reply), or `troubled` (5xx). `wait` is the pause in seconds
    that the server asked for.
    """

    def __init__(
        self,
        reason: str,
        kind: Literal["throttled", "away", "slow", "garbled", "troubled"] = "troubled",
        *,
        wait: float = 0.0,
    ) -> None:
        super().__init__(reason)
        self.reason, self.kind, self.wait = reason, kind, wait


class RequestRefused(Exception):
    """A failure that every attempt has: the server does not answer this prompt."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def is_quota_exhausted(status: int, code: object, message: str) -> bool:
    """Return whether an HTTP error says that the account has no money left: so it will be for every
    prompt.
    """
    words = f"{code} {message}".casefold()
    return status == 402 or (
        status in (400, 403, 429) and any(word in words for word in QUOTA_WORDS)
    )


def refusal_reason(status: int, code: object, message: str) -> str | None:
    """Return why a prompt will never be answered, by the server's HTTP error: the kind, a colon,
    the server's words.

    None: it may be answered at another time, or by a server that is set up otherwise.
    """
    words = f"{code} {message}".casefold()
    if (
        status == 429
    ):  # OpenAI's words for a prompt larger than all the tokens that a minute may have
        return f"too large: {message}" if "request too large" in words else None
    if (
        not 400 <= status < 500
        or status in (401, 404, 408, 409)
        or is_quota_exhausted(status, code, message)
    ):
        return None
    if (
        "content_filter" in words
        or "content management" in words
        or (status == 403 and FLAGGED.search(words))
    ):
        return f"content filter: {message}"
    if status == 403:
        return None
    if "model length" in words or ("context" in words and ("length" in words or "window" in words)):
        return f"context length: {message}"
    return f"HTTP {status}: {message}" if status in REFUSING else None


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds of a Retry-After header (a number or an HTTP date), 0 without one."""
    text = headers.get("retry-after", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
        except (ValueError, TypeError, OverflowError):
            return 0.0


def error_text(error: "APIStatusError", key: str) -> str:
    """Return the server's words in one short line, without the key."""
    body = error.body
    message = (
        body.get("message") or body.get("detail") or body
        if isinstance(body, dict)
        else body or error.message
    )
    line = one_line(str(message)[:2000])[:200]
    return line if key == "none" else line.replace(key, "***")
