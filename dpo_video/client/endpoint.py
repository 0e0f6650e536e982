"""One OpenAI-compatible server: its connections, and what its errors mean for the run."""

import asyncio
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dpo_video.client.bounded_http import ReplyTooLarge, bounded_client
from dpo_video.client.completion import decode_body
from dpo_video.client.concurrency import AdaptiveConcurrency
from dpo_video.client.http_errors import (
    RequestRefused,
    TransientError,
    error_text,
    is_quota_exhausted,
    refusal_reason,
    retry_after,
)
from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.text import one_line, without_secrets

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
            body = decode_body(text)
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
