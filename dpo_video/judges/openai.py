"""Ask any OpenAI-compatible server: bounded concurrency, retries with backoff, failures as rows, key from the env."""

import asyncio
import email.utils
import ipaddress
import json
import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dpo_video.errors import UserError
from dpo_video.judges.backends import Judge, Keep, Messages, Mode, Reply, mode_of
from dpo_video.judges.scorer import Scorer
from dpo_video.judges.verdict import EMPHASIS
from dpo_video.recipe import JudgeSettings

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

TOP_LOGPROBS = 20
"""The most alternatives per token that the protocol allows."""
BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 30.0
MAX_RETRY_AFTER_SECONDS = 600.0
"""A server that wants a longer pause is out of quota, not busy: the run stops and says so."""
STARTING_ATTEMPTS = 3
"""Attempts to connect before the first reply ever came."""


class Passing(Exception):
    """A failure that a later attempt may not have.

    `wait` is the pause that the server asked for, in seconds; `connected` is False when no reply came at all.
    """

    def __init__(self, reason: str, *, wait: float = 0.0, connected: bool = True) -> None:
        super().__init__(reason)
        self.reason, self.wait, self.connected = reason, wait, connected


class Refused(Exception):
    """A failure that every attempt has: this prompt is not answered."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(kw_only=True)
class _Endpoint:
    """The server while a run talks to it."""

    settings: JudgeSettings
    url: str
    key: str
    client: "AsyncOpenAI"
    slots: asyncio.Semaphore
    not_before: float = 0.0
    """No request starts before this `time.monotonic()`: the server's Retry-After."""
    answered: int = 0
    refused: list[str] = field(default_factory=list)


def openai_judge(settings: JudgeSettings) -> Judge:
    """Return the judge behind `judge.base_url`; nothing is sent before the first `ask`."""
    try:
        import openai  # noqa: F401 - the extra is missing now rather than halfway
    except ImportError as error:
        raise UserError("judge.backend openai needs the openai package: pip install 'dpo-video[judge]'") from error
    key = api_key(settings)
    return Judge(name=settings.model, identity=identity(settings),
                 ask=lambda scorer, prompts, keep: _run(partial(_ask, settings, key, scorer), prompts, keep))


def identity(settings: JudgeSettings) -> dict[str, str]:
    """Return what determines the replies of a server besides the prompt."""
    return {"model": settings.model}


def api_key(settings: JudgeSettings) -> str:
    """Return the key from the environment variable `judge.api_key_env`; servers nearby need none."""
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key and not _nearby(settings.base_url):
        raise UserError(f"no API key: the environment variable {settings.api_key_env} is not set, and "
                        f"{settings.base_url or 'the vendor server'} needs one. Export it, name another variable in "
                        "judge.api_key_env, or give judge.base_url of a server of your own")
    return key or "none"


def _nearby(base_url: str | None) -> bool:
    """Return True for loopback and private addresses and for host names without a dot."""
    host = (urlsplit(base_url).hostname or "") if base_url else ""
    if not host:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local"))
    return address.is_loopback or address.is_private


def _run(ask: Callable[[Sequence[Messages], Keep], Any], prompts: Sequence[Messages], keep: Keep) -> None:
    try:
        asyncio.run(ask(prompts, keep))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


async def _ask(settings: JudgeSettings, key: str, scorer: Scorer, prompts: Sequence[Messages], keep: Keep) -> None:
    """Answer the first prompt alone (it finds a wrong URL, key, model, missing logprobs), then the others together."""
    from openai import AsyncOpenAI

    mode = mode_of(settings, scorer)
    if mode == "labels":
        _check_labels(scorer)
    async with AsyncOpenAI(api_key=key, base_url=settings.base_url, max_retries=0, timeout=settings.timeout) as client:
        endpoint = _Endpoint(settings=settings, url=str(client.base_url), key=key, client=client,
                             slots=asyncio.Semaphore(settings.concurrency))
        waiting = iter(enumerate(prompts))

        async def work(most: int | None = None) -> None:
            for done, (index, messages) in enumerate(waiting, start=1):
                keep(index, await _answer(endpoint, scorer, mode, messages))
                if done == most:
                    return

        await work(most=1)
        async with asyncio.TaskGroup() as group:  # twice as many as slots: a sleeping worker holds none
            for _ in range(min(2 * settings.concurrency, max(len(prompts) - 1, 0))):
                group.create_task(work())


async def _answer(endpoint: _Endpoint, scorer: Scorer, mode: Mode, messages: Messages) -> Reply:
    """Return the reply to one prompt after at most `judge.retries` further attempts; failures are replies too."""
    retries = endpoint.settings.retries
    for attempt in range(retries + 1):
        try:
            reply = read_completion(endpoint.settings, scorer, mode, endpoint.url,
                                    await _in_slot(endpoint, mode, messages))
            endpoint.answered += 1
            return reply
        except Passing as error:
            if not error.connected and not endpoint.answered and attempt + 1 >= min(STARTING_ATTEMPTS, retries + 1):
                raise UserError(f"cannot reach the judge at {endpoint.url}: {error.reason}. Is the server running, and "
                                "is judge.base_url its address (most end in /v1)?") from None
            if error.wait > MAX_RETRY_AFTER_SECONDS:
                raise UserError(f"{endpoint.url} asks to come back in {error.wait:.0f} s: {error.reason}. Replies so "
                                "far are stored; run the same command later, or with another server") from None
            if attempt == retries:
                return Reply(status="failed", reason=f"{error.reason} ({attempt + 1} attempts)")
            backoff = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2.0**attempt)
            await asyncio.sleep(random.uniform(0, backoff))  # full jitter: retries of many requests do not meet again
        except Refused as error:
            return Reply(status="failed", reason=error.reason)
    raise AssertionError("every attempt returns or raises")


async def _in_slot(endpoint: _Endpoint, mode: Mode, messages: Messages) -> dict[str, Any]:
    """Return the body of one attempt, made with a slot held and not before the server wants more requests."""
    while True:
        async with endpoint.slots:
            pause = endpoint.not_before - time.monotonic()
            if pause <= 0:
                try:
                    return await _attempt(endpoint, mode, messages)
                except Passing as error:  # noted before the slot is free, so that no waiting request slips through
                    endpoint.not_before = max(endpoint.not_before, time.monotonic() + error.wait)
                    raise
        await asyncio.sleep(pause)


async def _attempt(endpoint: _Endpoint, mode: Mode, messages: Messages) -> dict[str, Any]:
    """Return the body of one chat completion, decoded; raise Passing, Refused or UserError."""
    import openai

    settings, request = endpoint.settings, request_fields(endpoint.settings, mode) | {"messages": messages}
    try:
        async with asyncio.timeout(settings.timeout):  # the client's own limit is per read, and never ends a slow drip
            raw = await endpoint.client.chat.completions.with_raw_response.create(**request)
        body = json.loads(raw.text)
    except (TimeoutError, openai.APITimeoutError):
        raise Passing(f"timeout: no reply in judge.timeout {settings.timeout:g} s", connected=False) from None
    except openai.APIConnectionError as error:
        raise Passing(f"connection error: {error.__cause__ or error}", connected=False) from None
    except openai.APIStatusError as error:
        raise _classify(endpoint, error) from None
    except ValueError:
        raise Passing("garbled reply: not JSON") from None
    if not isinstance(body, dict) or not body.get("choices"):
        raise Passing(f"garbled reply: no choices in {json.dumps(body)[:80]}")
    return body


def request_fields(settings: JudgeSettings, mode: Mode) -> dict[str, Any]:
    """Return what every request's body has in common: all but `messages`."""
    host = urlsplit(settings.base_url).hostname or "" if settings.base_url else "api.openai.com"
    vendor = host.endswith("openai.com")  # whose newer models refuse max_tokens
    fields: dict[str, Any] = {"model": settings.model, "temperature": settings.temperature,
                              "max_completion_tokens" if vendor else "max_tokens": settings.max_tokens}
    return fields | {"temperature": 0.0, "logprobs": True, "top_logprobs": TOP_LOGPROBS} if mode == "labels" else fields


def _classify(endpoint: _Endpoint, error: "APIStatusError") -> Exception:
    """Return what an HTTP error means: a later attempt, this prompt failed, or the run cannot go on."""
    status, said = error.status_code, _shown(error, endpoint.key)
    if error.code == "insufficient_quota":
        return UserError(f"{endpoint.url}: the quota is used up: {said}. Replies so far are stored")
    if status in (408, 409, 429) or status >= 500:
        return Passing(f"HTTP {status}: {said}", wait=_retry_after(error.response.headers))
    if status in (401, 403):
        return UserError(f"{endpoint.url} refuses the key in {endpoint.settings.api_key_env} (HTTP {status}): {said}")
    if status == 404:
        return UserError(f"{endpoint.url} knows no model {endpoint.settings.model!r}, or judge.base_url is wrong "
                         f"(HTTP 404): {said}")
    lower = f"{error.code} {said}".casefold()
    if "content_filter" in lower or "content management" in lower:
        return Refused(f"content filter: {said}")
    if "context" in lower and ("length" in lower or "window" in lower):
        return Refused(f"context length: {said}")
    endpoint.refused.append(said)
    if not endpoint.answered and len(endpoint.refused) >= STARTING_ATTEMPTS:
        return UserError(f"{endpoint.url} refused each of the first {len(endpoint.refused)} requests "
                         f"(HTTP {status}): {said}")
    return Refused(f"HTTP {status}: {said}")


def _shown(error: "APIStatusError", key: str) -> str:
    """Return the server's words in one short line, without the key."""
    body = error.body
    said = body.get("message") or body.get("detail") or body if isinstance(body, dict) else body or error.message
    line = " ".join(str(said).split())[:200]
    return line if key == "none" else line.replace(key, "***")


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds of a Retry-After header (a number or an HTTP date), 0 without one."""
    given = headers.get("retry-after", "")
    try:
        return max(0.0, float(given))
    except ValueError:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(given).timestamp() - time.time())
        except ValueError:
            return 0.0


def read_completion(settings: JudgeSettings, scorer: Scorer, mode: Mode, url: str, body: dict[str, Any]) -> Reply:
    """Return the reply in a chat completion; raise UserError when the server leaves the label probabilities out."""
    choice = body["choices"][0]
    try:
        text, finish = choice["message"].get("content") or "", choice.get("finish_reason")
    except (KeyError, TypeError, AttributeError):
        raise Passing("garbled reply: a choice without a message") from None
    if finish == "content_filter":
        raise Refused("content filter: the server withheld the reply")
    text = text or choice["message"].get("refusal") or ""
    finish = "length" if finish == "length" else "stop"
    if mode == "verdict":
        return Reply(status="answered", text=text, finish=finish)
    tokens = (choice.get("logprobs") or {}).get("content") or []
    if text and not any(token.get("top_logprobs") for token in tokens):
        raise UserError(f"{url} answers without label probabilities (it ignores `top_logprobs`), and scorer "
                        f"{scorer.name!r} reads its score from them. Set judge.score_from=verdict to read the written "
                        "verdict instead, or use a server that gives them, such as vLLM, SGLang or llama.cpp")
    return Reply(status="answered", text=text, finish=finish, log_probs=label_log_probs(scorer, tokens))


def label_log_probs(scorer: Scorer, tokens: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Return each label's log probability where the last verdict line's label was written; None when it was not.

    Spellings of a label (" A", "A", "a") add up; labels outside the server's top alternatives are left out.
    """
    opening = scorer.reply_prefix.strip().casefold()
    for position in reversed(range(len(tokens))):
        before = "".join(token["token"] for token in tokens[:position])
        line = EMPHASIS.sub("", before.rpartition("\n")[2]).strip().casefold()
        if line == opening and EMPHASIS.sub("", tokens[position]["token"]).strip():
            spelled = {label.casefold(): label for label in scorer.labels}
            weights: dict[str, float] = {}
            for other in tokens[position]["top_logprobs"]:
                label = spelled.get(other["token"].strip().casefold())
                if label is not None:
                    weights[label] = weights.get(label, 0.0) + math.exp(other["logprob"])
            return {label: math.log(weight) for label, weight in weights.items() if weight > 0}
    return None


def _check_labels(scorer: Scorer) -> None:
    """Refuse labels of which one begins another: a server's first token cannot tell them apart."""
    for one in scorer.labels:
        for other in scorer.labels:
            if one != other and other.casefold().startswith(one.casefold()):
                raise UserError(f"scorer {scorer.name!r}: the first token cannot tell label {one!r} from {other!r}. "
                                "Choose labels that begin differently, or set judge.score_from=verdict")
