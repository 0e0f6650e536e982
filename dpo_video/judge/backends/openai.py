"""Ask OpenAI-compatible servers: what is sent, and how a reply is read; the scheduler does the
sending.
"""

import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations
from typing import Any
from urllib.parse import urlsplit

from dpo_video.client.completion import read_choice, reasoning_text
from dpo_video.client.endpoint import Endpoint, Service, is_private_address, require_openai
from dpo_video.client.http_errors import RequestRefused
from dpo_video.client.pool import Pool, Read, RetriesExhausted, ask_servers
from dpo_video.core.errors import UserError
from dpo_video.core.progress import log
from dpo_video.judge.backends.label_probabilities import (
    label_alternatives,
    read_tokens,
    sum_of_labels,
)
from dpo_video.judge.prices import open_spending
from dpo_video.judge.scorer import Scorer
from dpo_video.judge.types import NOT_YET, Judge, Keep, Messages, Mode, Reply, mode_of
from dpo_video.judge.verdict import log_prob_fault
from dpo_video.recipe import JudgeSettings

BACKEND = "judge.backend openai"
TOP_LOGPROBS = 20
"""The most alternatives per token that the protocol allows."""
NOT_YET_SECONDS = 0.05
"""So long is waited where the next prompt is still to be made."""
MAX_TOKENS = 10**9
"""No prompt or reply has as many tokens; a server that says so counts wrongly."""


@dataclass(slots=True)
class _Open:
    """The pool of an `ask` under way."""

    pool: Pool | None = None

    def in_flight(self) -> int:
        return self.pool.in_flight if self.pool else 0


def openai_judge(settings: JudgeSettings) -> Judge:
    """Return the judge behind `judge.base_url`; nothing is sent before the first `ask`."""
    require_openai(BACKEND)
    opened = _Open()
    service = Service(
        section="judge",
        urls=addresses(settings),
        key=api_key(settings),
        model=settings.model,
        key_variable=settings.api_key_env,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        retries=settings.retries,
        asks_refused=settings.ask_refused_again,
    )
    return Judge(
        name=settings.model,
        identity=identity(settings),
        ask=partial(_ask, settings, service, opened),
        spending=open_spending(settings),
        in_flight=opened.in_flight,
    )


def identity(settings: JudgeSettings) -> dict[str, str]:
    """Return what determines the replies of a server besides the prompt; the revision is what the
    recipe says it is.
    """
    return {"model": settings.model} | (
        {} if settings.revision is None else {"revision": settings.revision}
    )


def addresses(settings: JudgeSettings) -> tuple[str | None, ...]:
    """Return the addresses in `judge.base_url`; None is the vendor's default."""
    if not isinstance(settings.base_url, list):
        return (settings.base_url,)
    if len(set(settings.base_url)) < len(settings.base_url):
        raise UserError(f"judge.base_url names a server twice: {', '.join(settings.base_url)}")
    return tuple(settings.base_url)


def api_key(settings: JudgeSettings) -> str:
    """Return the key from the environment variable `judge.api_key_env`; servers nearby need none,
    nor do those of which the recipe says `none`.
    """
    if settings.api_key_env == "none":
        return "none"
    key = os.environ.get(settings.api_key_env, "").strip()
    for url in addresses(settings):
        if not key and not is_private_address(url):
            raise UserError(
                f"no API key: the environment variable {settings.api_key_env} is not set, and "
                f"{url or 'the vendor server'} needs one. Export it, or name another variable in "
                "judge.api_key_env. A server of your own that asks for no key: "
                "judge.api_key_env: none"
            )
    return key or "none"


def _ask(
    settings: JudgeSettings,
    service: Service,
    opened: _Open,
    scorer: Scorer,
    prompts: Iterable[Messages],
    keep: Keep,
) -> None:
    if mode_of(settings, scorer) == "labels":
        _check_labels(scorer)
    ask = partial(_ask_all, settings, opened, scorer, prompts, keep)
    try:
        ask_servers(service, ask, setting=BACKEND, say=log.info)
    finally:
        opened.pool = None


async def _ask_all(
    settings: JudgeSettings,
    opened: _Open,
    scorer: Scorer,
    prompts: Iterable[Messages],
    keep: Keep,
    pool: Pool,
) -> None:
    """Answer the prompts with a fixed number of workers that take them one by one: none is made
    before its turn.

    One worker begins alone, until a server has answered: a wrong setting, or a price, shows after
    one request.
    """
    mode = mode_of(settings, scorer)
    waiting = _numbered(prompts)
    turn = asyncio.Lock()
    common_fields = request_fields(settings, mode)

    def read(endpoint: Endpoint, body: dict[str, Any]) -> Reply:
        return read_completion(
            settings, scorer, mode, endpoint.url, body, verified=endpoint.verified
        )

    async def next_prompt() -> tuple[int, Messages] | None:
        async with turn:  # where the next is still to be made, one worker looks for it
            for numbered in waiting:
                if numbered is not None:
                    return numbered
                await asyncio.sleep(NOT_YET_SECONDS)
        return None

    async def work(*, alone: bool = False) -> None:
        while (numbered := await next_prompt()) is not None:
            index, messages = numbered
            keep(index, await _answer(pool, common_fields | {"messages": messages}, read))
            if alone and pool.verified:
                return

    opened.pool = pool
    await work(alone=True)
    async with asyncio.TaskGroup() as group:
        for _ in range(2 * pool.max_in_flight):  # twice the slots: a sleeping worker holds none
            group.create_task(work())


def _numbered(prompts: Iterable[Messages]) -> Iterator[tuple[int, Messages] | None]:
    """Yield each prompt with its index; None where the next is still to be made."""
    index = 0
    for messages in prompts:
        if messages is NOT_YET:
            yield None
        else:
            yield index, messages
            index += 1


def request_fields(settings: JudgeSettings, mode: Mode) -> dict[str, Any]:
    """Return what every request's body has in common: all but `messages`."""
    hosts = [
        urlsplit(url).hostname or "" if url else "api.openai.com" for url in addresses(settings)
    ]
    vendor = all(
        host.endswith("openai.com") for host in hosts
    )  # whose newer models refuse max_tokens
    fields: dict[str, Any] = {
        "model": settings.model,
        "temperature": settings.temperature,
        "max_completion_tokens" if vendor else "max_tokens": settings.max_tokens,
    }
    return (
        fields | {"temperature": 0.0, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
        if mode == "labels"
        else fields
    )


async def _answer(pool: Pool, request: Mapping[str, Any], read: Read[Reply]) -> Reply:
    """Return the reply to one prompt; failures and refusals are replies too."""
    try:
        done = await pool.complete(request, read)
    except RequestRefused as error:
        return Reply(status="refused", reason=error.reason)
    except RetriesExhausted as error:
        return Reply(status="failed", reason=error.reason, attempts=error.attempts)
    return replace(done.value, seconds=round(done.seconds, 3), attempts=done.attempts)


def read_completion(
    settings: JudgeSettings,
    scorer: Scorer,
    mode: Mode,
    url: str,
    body: dict[str, Any],
    *,
    verified: bool = False,
) -> Reply:
    """Return the reply in a chat completion; raise UserError when the server leaves out what was
    asked for.

    One that has shown that it can give label probabilities, and is `verified`, may leave out those
    of a single reply.
    """
    choice, text, finish = read_choice(body)
    _check_model(settings, url, body.get("model"))
    prompt_tokens, completion_tokens, cached_tokens = _usage(body.get("usage"))
    reply = Reply(
        status="answered",
        text=text,
        finish=finish,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cached_tokens=cached_tokens,
        model=_name(body.get("model")),
        system_fingerprint=_name(body.get("system_fingerprint")),
    )
    if settings.max_cost is not None and None in (prompt_tokens, completion_tokens):
        raise UserError(
            f"{url} does not say how many tokens it used, so judge.max_cost cannot be kept. "
            "Leave it out, or use a server that sends `usage`"
        )
    reasoning = None if text else reasoning_text(choice)
    if reasoning is not None:
        return replace(reply, text=reasoning[1], reason=_without_answer(reasoning[0], finish))
    if mode == "verdict":
        return reply
    tokens = read_tokens(choice.get("logprobs"))
    alternatives = label_alternatives(scorer, tokens)
    fault = log_prob_fault([log_prob for _, log_prob in alternatives])
    if fault and not verified:
        raise _unable(url, scorer, f"sends no log probabilities ({fault.partition(': ')[2]})")
    if fault:
        return replace(reply, reason=fault)
    if reply.text and not any(of_token for _, of_token in tokens):
        if choice["message"].get("refusal"):
            raise RequestRefused(f"refusal: {reply.text[:200]}")
        if verified:
            return reply
        raise _unable(
            url, scorer, "answers without label probabilities (it ignores `top_logprobs`)"
        )
    return replace(reply, log_probs=sum_of_labels(scorer, alternatives) if alternatives else None)


def _unable(url: str, scorer: Scorer, problem: str) -> UserError:
    return UserError(
        f"{url} {problem}, and scorer {scorer.name!r} reads its score from them. Set "
        "judge.score_from=verdict to read the written verdict instead, or use a server that gives "
        "them, such as vLLM, SGLang or llama.cpp"
    )


def _without_answer(field: str, finish: str) -> str:
    """Return why a reply says nothing that has all its text in the field of the thinking."""
    if finish == "length":
        return f"cut off: the reply reached judge.max_tokens while it was thinking (in `{field}`)"
    return f"empty reply: all its text stands in `{field}`, as thinking"


def _check_model(settings: JudgeSettings, url: str, answered: object) -> None:
    """Refuse a server that answers as another model: llama.cpp and some gateways serve any name
    they are asked for.

    A dated snapshot of the model asked for ("m-2025-08-07", "m@main") and a name with or without
    its folder are it.
    """
    if not answered or answered == settings.model or answered == settings.answers_as:
        return
    expected = settings.answers_as or settings.model
    if _is_same_model(str(answered), expected):
        return
    raise UserError(
        f"{url} answers as model {str(answered)[:80]!r}, not {expected!r}. Set judge.model to the "
        "model that it serves; where one is an alias of the other (a deployment, a gateway), set "
        "judge.answers_as to the name in its replies"
    )


def _is_same_model(answered: str, expected: str) -> bool:
    full = answered.casefold().rstrip("/"), expected.casefold().rstrip("/")
    bare = full[0].rpartition("/")[2], full[1].rpartition("/")[2]
    for name, model in (full, bare):
        if name == model or name.startswith((model + "-20", model + "@")):
            return True
    return False


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _usage(usage: object) -> tuple[int | None, int | None, int | None]:
    """Return the tokens of prompt and reply, and those of the prompt that were cached; None where
    it does not say, or says what cannot be.
    """
    if not isinstance(usage, dict):
        return None, None, None
    details = usage.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    is_wrong = completion is None and usage.get("completion_tokens") is not None
    if prompt is None or is_wrong:
        return None, None, None
    return prompt, completion, None if cached is None or cached > prompt else cached


def _count(value: object) -> int | None:
    """Return a number of tokens, or None for what is none."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= MAX_TOKENS else None


def _check_labels(scorer: Scorer) -> None:
    """Refuse labels of which one begins another: a server's first token cannot tell them apart."""
    for label, longer in permutations(scorer.labels, 2):
        if longer.casefold().startswith(label.casefold()):
            raise UserError(
                f"scorer {scorer.name!r}: the first token cannot tell label {label!r} from "
                f"{longer!r}. Choose labels that begin differently, or set judge.score_from=verdict"
            )
