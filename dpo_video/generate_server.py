"""Candidates from an OpenAI-compatible server that takes video (vLLM, SGLang), one request per answer.

The server sees the policy's frames as JPEG images, or the file itself. Retries are the openai package's own: connection
errors, timeouts, 408, 409, 429 and 5xx, with backoff, jitter and Retry-After.
"""

import asyncio
import base64
import io
import mimetypes
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from dpo_video.errors import UserError
from dpo_video.generate import Asked, Work, asked_text, clip_requests, served_name
from dpo_video.models.checkpoints import Blueprint, blueprint
from dpo_video.models.tokens import fit_frames, frame_size
from dpo_video.progress import progress
from dpo_video.run import Run
from dpo_video.video import ClipRequest, FramePool, Frames, VideoError

JPEG_QUALITY = 95
STARTING_FAILURES = 3
"""Failures before the first success after which the server is taken to be wrong, not busy."""


@dataclass(kw_only=True)
class _Server:
    """The server while a run talks to it."""

    run: Run
    work: Work
    client: Any
    counts: Counter[str] = field(default_factory=Counter)
    answered: int = 0


def answer_by_server(run: Run, work: Work, missing: Mapping[str, Sequence[Asked]]) -> Counter[str]:
    """Store the missing candidates; return the count of requests that failed; the next run tries them again."""
    if work.adapter is not None:
        raise UserError("generate.engine openai cannot serve an adapter from a folder: serve it under a name of its "
                        "own, or use engine local")
    if work.sampler.first_temperature is not None:
        raise UserError("generate.first_temperature: servers take one temperature a request. Leave it out, or use "
                        "generate.engine=local")
    try:
        return asyncio.run(_answer_all(run, work, missing))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


async def _answer_all(run: Run, work: Work, missing: Mapping[str, Sequence[Asked]]) -> Counter[str]:
    try:
        from openai import AsyncOpenAI
    except ImportError as error:
        raise UserError("generate.engine openai needs the openai package: pip install 'dpo-video[judge]'") from error
    settings = run.recipe.generate
    if settings.base_url is None:
        raise UserError("generate.engine is openai, and generate.base_url is not set: give the address of a server "
                        "that serves the policy with video, e.g. http://localhost:8000/v1")
    client = AsyncOpenAI(base_url=settings.base_url, api_key=os.environ.get(settings.api_key_env) or "none",
                         timeout=settings.timeout, max_retries=settings.retries)
    requests = clip_requests(run, work, missing)
    total = sum(len(missing[request.key]) for request in requests)
    as_file = settings.video_as == "video_url"
    plan = blueprint(run.recipe.model)
    pool = FramePool(run.recipe.video, multiple_of=plan.family.frames_per_step)
    server = _Server(run=run, work=work, client=client)
    slots = asyncio.Semaphore(settings.concurrency)
    async with client:
        with nullcontext() if as_file else pool, progress(work.title, total=total) as advance:
            clips = ((request, None) for request in requests) if as_file else pool.map(requests)
            async with asyncio.TaskGroup() as tasks:
                while (clip := await asyncio.to_thread(next, clips, None)) is not None:
                    asked = missing[clip[0].key]
                    try:
                        content = await asyncio.to_thread(_content, run, plan, *clip)
                    except UserError as error:
                        run.set_aside(clip[0].key, error)
                        advance(len(asked), bad_clips=len(run.bad_clips))
                        continue
                    for one in asked:
                        await slots.acquire()
                        task = tasks.create_task(_answer(server, one, content))
                        task.add_done_callback(_then(slots.release, advance))
    return server.counts


def _then(release: Callable[[], None], advance: Callable[[], None]) -> Callable[[Any], None]:
    def done(task: "asyncio.Task[None]") -> None:
        release()
        advance()

    return done


async def _answer(server: _Server, one: Asked, content: Sequence[dict[str, Any]]) -> None:
    """Ask for one candidate and store it; a failure is counted, unless it is plain that all will fail."""
    import openai

    settings, sampler = server.run.recipe.generate, server.work.sampler
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": asked_text(server.work, one.sample)}]}]
    try:
        reply = await server.client.chat.completions.create(
            model=served_name(server.run, server.work), messages=messages, seed=one.seed,
            temperature=sampler.temperature, top_p=sampler.top_p, max_tokens=sampler.max_new_tokens,
            # vLLM and SGLang otherwise take these from the checkpoint's generation_config
            extra_body={"top_k": sampler.top_k or -1, "min_p": sampler.min_p, "repetition_penalty": 1.0})
        choice = reply.choices[0]
        if choice.finish_reason == "content_filter":
            raise LookupError("content filter")
    except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
        raise UserError(f"{settings.base_url} refuses the request (HTTP {error.status_code}): {_line(error)}. Check "
                        "generate.base_url, generate.served_model and generate.api_key_env") from error
    except (openai.APIError, LookupError, TypeError) as error:  # the last two: a reply without choices
        server.counts["failed"] += 1
        if not server.answered and server.counts["failed"] >= STARTING_FAILURES:
            raise UserError(f"{settings.base_url}: the first {STARTING_FAILURES} requests failed: {_line(error)}. "
                            "Does the server run, and does it serve this model with this many images?") from error
        return
    server.answered += 1
    finish = "length" if choice.finish_reason == "length" else "stop"
    server.run.store.put("candidate", one.key,
                         {"text": choice.message.content or "", "finish": finish, "sample": one.sample.id})


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _content(run: Run, plan: Blueprint, request: ClipRequest,
             frames: Frames | VideoError | None) -> list[dict[str, Any]]:
    """Return the parts of a message that show a clip; raise UserError where it cannot be shown."""
    if isinstance(frames, VideoError):
        raise frames
    if frames is None:
        return [_file_part(request)]
    video = run.recipe.video
    fitting = fit_frames(plan, video, frames)
    images = [Image.fromarray(pixels) for pixels in fitting.pixels]
    if video.min_pixels is not None or video.max_pixels is not None:
        size = frame_size(plan, video, num_frames=len(images), height=images[0].height, width=images[0].width)
        images = [image.resize((size.width, size.height), Image.Resampling.BICUBIC) for image in images]
    return [{"type": "image_url", "image_url": {"url": _jpeg(image)}} for image in images]


def _jpeg(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def _file_part(request: ClipRequest) -> dict[str, Any]:
    whole = request.start is None and request.end is None
    if isinstance(request.video, tuple) or request.video.is_dir() or not whole:
        raise UserError(f"the clip {request.key!r} is frames or a part of a file, and generate.video_as is video_url, "
                        "which sends a whole file: use images")
    if not request.video.is_file():
        raise VideoError("not_found", request.video, "no such file")
    kind = mimetypes.guess_type(request.video.name)[0] or "video/mp4"
    encoded = base64.b64encode(request.video.read_bytes()).decode()
    return {"type": "video_url", "video_url": {"url": f"data:{kind};base64,{encoded}"}}
