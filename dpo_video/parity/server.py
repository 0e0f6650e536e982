"""Greedy answers of a server to held-out questions: how it takes a clip is found out with the first
question, then all are asked.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dpo_video.client.completion import read_choice
from dpo_video.client.endpoint import Endpoint, Service, open_endpoint, require_openai
from dpo_video.client.http_errors import RequestRefused
from dpo_video.client.pool import Pool, RetriesExhausted
from dpo_video.core.errors import UserError
from dpo_video.core.progress import progress
from dpo_video.core.records import Sample
from dpo_video.core.turns import chat_messages
from dpo_video.generate.message_parts import (
    MessagePart,
    file_part,
    film_part,
    frame_images,
    image_parts,
    is_whole_file,
)
from dpo_video.models.decoding import frames_alone, model_pool
from dpo_video.models.hub import model_spec
from dpo_video.models.tokens import fit_frames
from dpo_video.run import Run
from dpo_video.video import ClipRequest, Frames, VideoError, clip_key, clip_request

Way = Literal["film", "images", "file"]
REQUEST_FORMS: tuple[dict[str, Any], ...] = (
    # vLLM and SGLang, which else take these from the checkpoint's generation_config
    {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "logprobs": True},
    {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    # `transformers serve` makes a repetition penalty of it: 1 + 0
    {"frequency_penalty": 0.0, "logprobs": True},
    {"frequency_penalty": 0.0},
)
"""Fields of a request, the most telling first: servers refuse those that they do not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedAnswer:
    """What the server answers to one question."""

    text: str
    finish: Literal["stop", "length"]
    logps: tuple[float, ...] | None
    """Log-probs of its tokens in nats, where the server tells them."""
    prompt_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Approach:
    """How a server is asked."""

    ways: tuple[Way, ...]
    """How the clip is shown: first with exactly our frames."""
    fields: Mapping[str, Any]
    """Of each request, beside model, messages and length."""
    refused: tuple[str, ...] = ()
    """What it said to the ways that it does not take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipParts:
    """A clip as messages show it, by way."""

    parts: Mapping[Way, Sequence[MessagePart]]


def served_models(service: Service) -> list[str]:
    """Return the names of the models that the server offers; UserError where it tells none."""
    require_openai("dpo-video parity")
    import openai

    base_url = service.urls[0]
    try:
        with openai.OpenAI(
            api_key=service.key, base_url=base_url, max_retries=0, timeout=service.timeout
        ) as client:
            return [model.id for model in client.models.list().data]
    except openai.OpenAIError as error:
        raise UserError(
            f"cannot ask {open_endpoint(service, base_url).url} which models it serves: "
            f"{error.__cause__ or error}. Is the server running, and is --base-url its address "
            "(most end in /v1)? Or name the model with --model"
        ) from None


def shown_clip(run: Run, request: ClipRequest, frames: Frames, ways: Sequence[Way]) -> ClipParts:
    """Return a clip as the policy sees it, made into parts of a message for each way."""
    spec, video = model_spec(run.recipe.model), run.recipe.video
    fitting = fit_frames(spec, video, frames)
    images = frame_images(spec, video, fitting)
    parts: dict[Way, Sequence[MessagePart]] = {}
    for way in ways:
        if way == "film":
            parts[way] = [film_part(images, fitting.duration)]
        elif way == "images":
            parts[way] = image_parts(images, "PNG")
        elif is_whole_file(request):
            parts[way] = [file_part(request)]
    return ClipParts(parts=parts)


async def find_approach(
    pool: Pool, clip: ClipParts, sample: Sample, *, max_tokens: int
) -> Approach:
    """Return how the server takes our frames and which fields it knows, by asking the first
    question in all ways until it answers; UserError where it answers in none.
    """
    reasons: list[str] = []
    for way in clip.parts:
        refused = ""
        for fields in REQUEST_FORMS:
            approach = Approach(ways=(way,), fields=fields)
            try:
                await ask_question(pool, approach, clip.parts[way], sample, max_tokens=max_tokens)
                return Approach(ways=(way,), fields=fields, refused=tuple(reasons))
            except (RequestRefused, RetriesExhausted) as error:
                refused = error.reason
        reasons.append(f"{way}: {refused}")
    told = "\n".join(f"  {reason}" for reason in reasons)
    raise UserError(
        f"{pool.endpoints[0].url} answers no question about a clip with the model "
        f"{pool.service.model!r}:\n{told}\nDoes it serve a model that takes video or several "
        "images, and so many of them in one prompt (vLLM: --limit-mm-per-prompt)?"
    )


async def ask_question(
    pool: Pool, approach: Approach, parts: Sequence[MessagePart], sample: Sample, *, max_tokens: int
) -> ServedAnswer:
    """Return the greedy answer to one question about a clip."""
    request = {
        "model": pool.service.model,
        "messages": chat_messages(sample.history, sample.prompt, parts, in_parts=False),
        "temperature": 0.0,
        "max_tokens": max_tokens,
        **approach.fields,
    }
    return (await pool.complete(request, _read)).value


def _read(endpoint: Endpoint, body: dict[str, Any]) -> ServedAnswer:
    choice, text, finish = read_choice(body)
    usage = body.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return ServedAnswer(
        text=text,
        finish=finish,
        logps=_logps(choice),
        prompt_tokens=tokens if isinstance(tokens, int) else None,
    )


def _logps(choice: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Return the log-probs of a choice's tokens; None where the server gives none, or not all."""
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list) or not content:
        return None
    values = []
    for token in content:
        value = token.get("logprob") if isinstance(token, dict) else None
        if not isinstance(value, int | float):
            return None
        values.append(float(value))
    return tuple(values)


async def served_answers(
    run: Run, pool: Pool, approach: Approach, samples: Sequence[Sample], *, max_tokens: int
) -> dict[Way, dict[str, ServedAnswer]]:
    """Return the answers by way and sample id; a question whose clip cannot be read, or that the
    server fails to answer, has none.
    """
    by_clip: dict[str, list[Sample]] = {}
    for sample in samples:
        by_clip.setdefault(clip_key(sample), []).append(sample)
    requests = readable_requests(run, by_clip)
    answers: dict[Way, dict[str, ServedAnswer]] = {way: {} for way in approach.ways}
    room = asyncio.Semaphore(2 * pool.service.concurrency)
    spec = model_spec(run.recipe.model)
    frames = model_pool(spec, frames_alone(run.recipe.video))
    total = len(samples) * len(approach.ways)
    with frames, progress("ask the server", total=total) as advance:

        async def answer(way: Way, parts: Sequence[MessagePart], sample: Sample) -> None:
            try:
                answers[way][sample.id] = await ask_question(
                    pool, approach, parts, sample, max_tokens=max_tokens
                )
            except (RequestRefused, RetriesExhausted):
                pass  # counted by its absence
            finally:
                room.release()
                advance()

        clips = frames.map(requests)
        async with asyncio.TaskGroup() as tasks:
            while (clip := await asyncio.to_thread(next, clips, None)) is not None:
                shown = await asyncio.to_thread(_shown, run, clip, approach.ways)
                for sample in by_clip[clip[0].key]:
                    for way in approach.ways:
                        if shown is None or way not in shown.parts:
                            advance()
                            continue
                        await room.acquire()
                        tasks.create_task(answer(way, shown.parts[way], sample))
    return answers


def readable_requests(run: Run, by_clip: Mapping[str, Sequence[Sample]]) -> list[ClipRequest]:
    """Return a request for each clip; those that name no file are set aside."""
    requests = []
    for key, samples in by_clip.items():
        try:
            requests.append(clip_request(samples[0], run.heldout_root))
        except VideoError as error:
            run.set_aside(key, error)
    return requests


def _shown(
    run: Run, clip: tuple[ClipRequest, Frames | VideoError], ways: Sequence[Way]
) -> ClipParts | None:
    request, frames = clip
    if isinstance(frames, VideoError):
        run.set_aside(request.key, frames, request)
        return None
    try:
        return shown_clip(run, request, frames, ways)
    except UserError as error:
        run.set_aside(request.key, error, request)
        return None
