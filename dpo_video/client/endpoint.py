"""One OpenAI-compatible server: its connections, and what each of its answers and errors means."""

import asyncio
import email.utils
import ipaddress
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from dpo_video.client.bounded_http import ReplyTooLarge, bounded_client
from dpo_video.client.concurrency import AdaptiveConcurrency
from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.text import (
    normalise_space,
    printable,
    replace_lone_surrogates,
    without_secrets,
)

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

CONNECTIONS_PER_CLIENT = 32
"""A connection pool searches all its connections for each request: many small pools cost less than
one large one.
"""
CONNECT_SECONDS = 15.0
"""A server that accepts no connection within this time is away, not slow."""
STARTING_ATTEMPTS = 3
"""Refusals of an endpoint that never answered after which the run stops."""
REDIRECTS = (301, 302, 303, 307, 308)
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


@dataclass(frozen=True, kw_only=True)
class Service:
    """Servers of one model, and how to ask them. `section` is the recipe section that errors point
    to; empty where the settings are options of the command.
    """

    section: str
    urls: tuple[str | None, ...]
    """None is the vendor's default."""
    key: str
    key_variable: str
    """Environment variable that the key came from."""
    model: str
    concurrency: int
    """Most requests in flight at each server."""
    timeout: float
    """Seconds per request."""
    retries: int
    """Attempts after the first."""
    asks_refused: bool = False
    """Prompts that were refused before are asked again: that the first ones are refused says
    nothing.
    """

    def setting(self, name: str) -> str:
        """Return how a user writes a setting: `judge.base_url`, or `--base-url`."""
        return f"{self.section}.{name}" if self.section else f"--{name.replace('_', '-')}"


@dataclass(kw_only=True, eq=False)
class Endpoint:
    """A server while a run talks to it."""

    service: Service
    url: str
    base_url: str | None
    """The address in the recipe."""
    concurrency: AdaptiveConcurrency
    in_flight: int = 0
    started: int = 0
    not_before: float = 0.0
    """No request starts before this monotonic time: the server's Retry-After."""
    verified: bool = False
    """It has answered a prompt with all that was asked for."""
    verifying: bool = False
    """A prompt is proving it; no other may go there before."""
    connection_failures: int = 0
    """Connections lost or refused since the last answer."""
    ejected: bool = False
    """Ejected: it gets one request at a time, not before `not_before`, until one is answered."""
    probe_failures: int = 0
    """Requests sent since it was ejected, to find out whether it is back, that were lost too."""
    refused: int = 0
    garbled: int = 0
    """Replies in a row that could not be read."""
    _clients: list["AsyncOpenAI"] = field(default_factory=list)
    _load: list[int] = field(default_factory=list)

    async def post(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body of one chat completion, decoded; raise TransientError, RequestRefused or
        UserError.
        """
        import openai

        content = strict_json.dumps(request, separators=(",", ":")).encode()
        index = self._client()
        self._load[index] += 1
        try:
            async with asyncio.timeout(
                self.service.timeout
            ):  # httpx's limit is per read, and never ends a slow drip
                text = await self._clients[index].post(
                    "/chat/completions", content=content, cast_to=str
                )
            body = read_json(text)
        except (TimeoutError, openai.APITimeoutError) as error:
            if type(error.__cause__).__name__ == "ConnectTimeout":
                raise TransientError(
                    f"connection error: no connection in {CONNECT_SECONDS:g} s", "away"
                ) from None
            limit = f"{self.service.setting('timeout')} {self.service.timeout:g} s"
            raise TransientError(f"timeout: no reply in {limit}", "slow") from None
        except ReplyTooLarge as error:
            raise TransientError(f"garbled reply: {error}", "garbled") from None
        except openai.APIConnectionError as error:
            raise TransientError(f"connection error: {error.__cause__ or error}", "away") from None
        except openai.APIStatusError as error:
            raise self.classify_error(error) from None
        finally:
            self._load[index] -= 1
        if not isinstance(body, dict) or not body.get("choices"):
            excerpt = one_line(text)[:80]
            raise TransientError(f"garbled reply: no choices in {excerpt}", "garbled")
        return body

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            await client.close()

    def _client(self) -> int:
        """Return the index of a client with a connection to spare."""
        for index, load in enumerate(self._load):
            if load < CONNECTIONS_PER_CLIENT:
                return index
        self._clients.append(_open(self.service, self.base_url))
        self._load.append(0)
        return len(self._load) - 1

    def classify_error(self, error: "APIStatusError") -> Exception:
        """Return what an HTTP error means: a later attempt, this prompt is refused, or the run
        cannot go on.
        """
        status, service = error.status_code, self.service
        if status in REDIRECTS:
            target = without_secrets(one_line(error.response.headers.get("location", "?"))[:200])
            return UserError(
                f"{self.url} sends requests on to {target} (HTTP {status}), which is not followed: "
                f"prompts and key would go where the recipe does not say. Set "
                f"{service.setting('base_url')} to the address that answers itself"
            )
        message = error_text(error, service.key)
        if is_quota_exhausted(status, error.code, message):
            return UserError(
                f"{self.url}: the quota is used up: {message}. Replies so far are stored; top it "
                "up and run the same command again"
            )
        refused = refusal_reason(status, error.code, message)
        if refused is not None and not refused.startswith("HTTP"):
            return RequestRefused(refused)
        if status in (408, 409, 429) or status >= 500:
            return TransientError(
                f"HTTP {status}: {message}",
                "throttled" if status == 429 else "troubled",
                wait=retry_after(error.response.headers),
            )
        if (
            status == 403 and self.verified
        ):  # the key was good: a firewall before the server, or a limit of the key
            return TransientError(f"HTTP 403: {message}")
        if status in (401, 403):
            return UserError(
                f"{self.url} refuses the key in {service.key_variable} (HTTP {status}): {message}"
            )
        if status == 404:
            return UserError(
                f"{self.url} knows no model {service.model!r}, or {service.setting('base_url')} is "
                f"wrong (HTTP 404): {message}"
            )
        if refused is None:  # the server or what stands before it is at fault, not the prompt
            return TransientError(f"HTTP {status}: {message}")
        self.refused += 1
        if not self.verified and self.refused >= STARTING_ATTEMPTS and not service.asks_refused:
            return UserError(
                f"{self.url} refused each of the first {self.refused} requests (HTTP {status}): "
                f"{message}"
            )
        return RequestRefused(refused)


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


def require_openai(setting: str) -> None:
    """Raise UserError where the openai package, an extra, is missing: now rather than halfway."""
    try:
        import openai  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{setting} needs the openai package: pip install 'dpo-video[judge]'"
        ) from error


def open_endpoint(service: Service, url: str | None) -> Endpoint:
    """Return an endpoint; nothing is sent yet."""
    first = _open(service, url)
    return Endpoint(
        service=service,
        url=without_secrets(str(first.base_url)),
        base_url=url,
        concurrency=AdaptiveConcurrency(limit=service.concurrency),
        _clients=[first],
        _load=[0],
    )


def _open(service: Service, url: str | None) -> "AsyncOpenAI":
    from openai import AsyncOpenAI, Timeout

    timeout = Timeout(
        None, connect=min(service.timeout, CONNECT_SECONDS)
    )  # `post` keeps that of the whole request
    return AsyncOpenAI(
        api_key=service.key,
        base_url=url,
        max_retries=0,
        timeout=timeout,
        http_client=bounded_client(),
    )


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


def read_json(text: str) -> Any:
    """Return what a reply's JSON says; TransientError for what is none, or is nested too deep."""
    try:
        return strict_json.loads_foreign(text)
    except ValueError:
        reason = "garbled reply: not JSON, or nested without end"
        raise TransientError(reason, "garbled") from None


def is_private_address(base_url: str | None) -> bool:
    """Return True for loopback and private addresses and for host names without a dot."""
    host = (urlsplit(base_url).hostname or "") if base_url else ""
    if not host:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local"))
    return address.is_loopback or address.is_private


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


def one_line(text: str) -> str:
    """Return what a server says as one line without control characters."""
    return printable(normalise_space(text))


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
