"""Candidates from an OpenAI-compatible server that takes video (vLLM, SGLang), one request per
answer.

The server sees the policy's frames as JPEG images, or the file itself. Slots, retries and pauses
are those of the client that judges share, `client/pool.py`.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dpo_video.client.completion import read_choice, reasoning_text
from dpo_video.client.endpoint import Endpoint, Service
from dpo_video.client.http_errors import RequestRefused
from dpo_video.client.pool import Pool, RetriesExhausted, ask_servers
from dpo_video.core.control_tokens import ControlTokens
from dpo_video.core.errors import UserError
from dpo_video.core.progress import log, progress
from dpo_video.core.turns import chat_messages
from dpo_video.generate.jobs import (
    CORRUPTIONS,
    GenerationJob,
    MissingCandidates,
    PendingCandidate,
    candidate_clip_requests,
    policy_prompt,
    served_name,
    set_clip_aside,
    tell_notes,
    title_of,
)
from dpo_video.generate.message_parts import MessagePart, file_part, frame_images, image_parts
from dpo_video.models.control_tokens import checkpoint_tokens
from dpo_video.models.decoding import UNHEARD, frames_alone, hearing_word, model_pool
from dpo_video.models.hub import ModelSpec, model_spec
from dpo_video.models.served import why_merged_only
from dpo_video.models.tokens import fit_frames
from dpo_video.recipe import Recipe
from dpo_video.run import Run
from dpo_video.video import ClipRequest, FramePool, Frames, VideoError, corrupt


@dataclass(kw_only=True)
class _Server:
    """The server while a run talks to it."""

    run: Run
    jobs: Sequence[GenerationJob]
    pool: Pool
    tokens: ControlTokens
    """Of the policy: an end token that closes an answer is none of its words."""
    counts: Counter[str] = field(default_factory=Counter)
    thinking_fields: Counter[str] = field(default_factory=Counter)
    """Fields of replies that held thinking and no answer beside it."""


class ServerAnswer(NamedTuple):
    """What a completion says: an answer, how it ended, and where the thinking stands that is all
    there is; None where there is an answer, or neither.
    """

    text: str
    finish: str
    thinking_field: str | None


def answer_by_server(
    run: Run, jobs: Sequence[GenerationJob], missing: MissingCandidates
) -> Counter[str]:
    """Store the missing candidates; return the count of requests that failed; the next run tries
    them again.
    """
    settings = run.recipe.generate
    for job in jobs:
        _check_servable(job, run.recipe)
    if settings.base_url is None:
        raise UserError(
            "generate.engine is openai, and generate.base_url is not set: give the address of a "
            "server that serves the policy with video, e.g. http://localhost:8000/v1"
        )
    service = Service(
        section="generate",
        urls=(settings.base_url,),
        model=served_name(run, jobs[0]),
        key=os.environ.get(settings.api_key_env) or "none",
        key_variable=settings.api_key_env,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        retries=settings.retries,
    )
    ask = partial(_answer_all, run, jobs, missing)
    return ask_servers(service, ask, setting="generate.engine openai", say=log.info)


def _check_servable(job: GenerationJob, recipe: Recipe) -> None:
    """Raise UserError for what no server can do."""
    if job.adapter is not None:
        raise UserError(
            "generate.engine openai cannot serve an adapter from a folder: serve it under a name "
            "of its own, or use engine local"
        )
    if recipe.model.adapter is not None and recipe.generate.served_model is None:
        why = why_merged_only(recipe)
        how = "" if why is None else f", merged (dpo-video merge) as {why},"
        raise UserError(
            "generate.engine is openai, and the policy starts with model.adapter, which the server "
            f"must serve{how} too: set generate.served_model to its name there"
        )
    if job.sampler.first_temperature is not None:
        raise UserError(
            "generate.first_temperature: servers take one temperature a request. Leave it out, or "
            "use generate.engine=local"
        )
    if job.clip in CORRUPTIONS and recipe.generate.video_as == "video_url":
        raise UserError(
            f"generate.mix: the sampler {job.sampler_name!r} sees its clips under clip={job.clip}, "
            "and generate.video_as=video_url sends whole files: set video_as to images"
        )


async def _answer_all(
    run: Run,
    jobs: Sequence[GenerationJob],
    missing: MissingCandidates,
    pool: Pool,
) -> Counter[str]:
    settings = run.recipe.generate
    requests = candidate_clip_requests(run, jobs[0].root, missing)
    title, total = title_of(jobs), sum(len(missing[request.key]) for request in requests)
    as_file = settings.video_as == "video_url"
    spec = model_spec(run.recipe.model)
    frames = model_pool(spec, frames_alone(run.recipe.video))
    notes: dict[str, str] = {}
    if hearing_word(spec, run.recipe.video) == "heard":
        log.info(f"{title}: note: {UNHEARD}")
    # twice as many as slots: one that sleeps holds none
    room = asyncio.Semaphore(2 * settings.concurrency)
    server = _Server(run=run, jobs=jobs, pool=pool, tokens=checkpoint_tokens(run.recipe.model))
    with nullcontext() if as_file else frames, progress(title, total=total) as advance:
        decoded = _decoded_once(requests, None if as_file else frames)
        async with asyncio.TaskGroup() as tasks:
            while (clip := await asyncio.to_thread(next, decoded, None)) is not None:
                request, result = clip
                pending = missing[request.key]
                if isinstance(result, Frames) and result.note is not None:
                    notes[request.key] = result.note
                try:
                    content = await asyncio.to_thread(_content, run, spec, request, result)
                except UserError as error:
                    server.counts += set_clip_aside(run, pending, error, request)
                    advance(len(pending), bad_clips=len(run.bad_clips))
                    continue
                for candidate in pending:
                    await room.acquire()
                    task = tasks.create_task(_answer(server, candidate, content))
                    task.add_done_callback(_then(room.release, advance))
    server.counts.update(tell_notes(title, notes))
    _tell_thinking(server)
    return server.counts


def _decoded_once(
    requests: Sequence[ClipRequest], pool: FramePool | None
) -> Iterator[tuple[ClipRequest, Frames | VideoError | None]]:
    """Yield each request with its clip's frames, not yet corrupted; those of one clip, which stand
    side by side, share them. Without a pool none is decoded.
    """
    corruptions: dict[ClipRequest, list[ClipRequest]] = {}
    for request in requests:
        clean = replace(request, key="", corruption=None)
        corruptions.setdefault(clean, []).append(request)
    decoded = ((clean, None) for clean in corruptions) if pool is None else pool.map(corruptions)
    for clean, result in decoded:
        for request in corruptions[clean]:
            yield request, result


def _then(release: Callable[[], None], advance: Callable[[], None]) -> Callable[[Any], None]:
    def on_done(task: "asyncio.Task[None]") -> None:
        release()
        advance()

    return on_done


async def _answer(
    server: _Server, candidate: PendingCandidate, content: Sequence[MessagePart]
) -> None:
    """Ask for one candidate and store it; a failure is counted, unless it is plain that all will
    fail.
    """
    job = server.jobs[candidate.job]
    sampler, text = job.sampler, policy_prompt(job, candidate.sample)
    history = candidate.sample.history
    request = {
        "model": server.pool.service.model,
        "seed": candidate.seed,
        "temperature": sampler.temperature,
        "messages": chat_messages(history, text, content, in_parts=False),
        "top_p": sampler.top_p,
        "max_tokens": sampler.max_new_tokens,
        # vLLM and SGLang otherwise take these from the checkpoint's generation_config
        "top_k": sampler.top_k or -1,
        "min_p": sampler.min_p,
        "repetition_penalty": 1.0,
    }
    try:
        completion = await server.pool.complete(request, _read)
    except (RequestRefused, RetriesExhausted):
        server.counts["failed"] += 1
        return
    answer = completion.value
    if answer.thinking_field is not None:
        server.thinking_fields[answer.thinking_field] += 1
    text = server.tokens.without_end(answer.text)
    if text != answer.text:
        server.counts["lost_end_token"] += 1
    row = {
        "text": text,
        "finish": answer.finish,
        "sample": candidate.sample.id,
    }
    server.run.store.put("candidate", candidate.key, row)


def _read(endpoint: Endpoint, body: dict[str, Any]) -> ServerAnswer:
    choice, text, finish = read_choice(body)
    thinking = None if text.strip() else reasoning_text(choice)
    return ServerAnswer(text, finish, None if thinking is None else thinking[0])


def _tell_thinking(server: _Server) -> None:
    """Say how many answers are empty since the server put all the policy wrote elsewhere."""
    for name, count in server.thinking_fields.items():
        server.counts["only_thinking"] += count
        log.info(
            f"{title_of(server.jobs)}: {count} replies hold thinking in `{name}` and no answer: "
            "their candidates are empty. Serve the policy without a reasoning parser, or raise "
            "generate.max_new_tokens, so that it gets to its answer"
        )


def _content(
    run: Run, spec: ModelSpec, request: ClipRequest, frames: Frames | VideoError | None
) -> list[MessagePart]:
    """Return the parts of a message that show a clip; raise UserError where it cannot be shown."""
    if isinstance(frames, VideoError):
        raise frames
    if frames is None:
        return [file_part(request)]
    video = run.recipe.video
    fitting = fit_frames(spec, video, frames)
    if request.corruption is not None:
        path = request.video if isinstance(request.video, Path) else request.key
        fitting = corrupt(fitting, request.corruption, path)
    return image_parts(frame_images(spec, video, fitting))
