"""A real HTTP server on loopback that answers about clips with a real policy, as vLLM does: it
decodes what it is sent, takes at most so many frames, and tells the log-probs of its tokens.
"""

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import av
import numpy as np
from peft import PeftModel

from dpo_video.core.records import EarlierTurn
from dpo_video.models.collate import TokenRow
from dpo_video.models.generation import generate_answers
from dpo_video.models.load import Policy
from dpo_video.models.prompts import answer_ids
from dpo_video.models.sampling import Sampler
from dpo_video.recipe import VideoSettings
from dpo_video.train.logps import clip_rows, token_logps
from dpo_video.video import Frames


@dataclass
class PolicyServer:
    """What the server holds and how it behaves."""

    policy: Policy
    models: dict[str, bool] = field(default_factory=lambda: {"tuned": True})
    """Whether the adapter is used, by the name that is asked for."""
    max_frames: int = 8
    """It takes the first so many frames of a video."""
    video: bool = True
    """It takes a `video_url`."""
    logprobs: bool = True
    text: str | None = None
    """Answered to everything, in place of the policy's answer."""
    refuses: frozenset[str] = frozenset()
    """Fields that it does not know."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the status and body of a reply."""
        self.requests.append(request)
        if request["model"] not in self.models:
            return 404, error(f"no model {request['model']}")
        unknown = self.refuses & request.keys()
        if unknown:
            return 422, error(f"unexpected fields {sorted(unknown)}")
        *clip, text = request["messages"][0]["content"]
        later = [message["content"] for message in request["messages"][1:]]
        if not self.video and any(part["type"] == "video_url" for part in clip):
            return 400, error("At most 0 video(s) may be provided in one prompt")
        with self.lock:
            frames = decode(clip[0], self.max_frames)
            return 200, self._complete(request, frames, [text["text"], *later])

    def _complete(
        self, request: dict[str, Any], frames: Frames, texts: list[str]
    ) -> dict[str, Any]:
        *earlier, prompt = texts
        turns = zip(earlier[::2], earlier[1::2], strict=True)
        history = tuple(EarlierTurn(question=asked, answer=said) for asked, said in turns)
        uses_adapter = self.models[request["model"]]
        model, settings = self.policy.model, VideoSettings(workers=1)
        off = nullcontext() if uses_adapter else disabled(model)
        with off:
            (row,) = clip_rows(
                self.policy, frames, settings, question=prompt, history=history, answers=[""]
            )
            sampler = Sampler(temperature=0, max_new_tokens=request["max_tokens"])
            ((answer,),) = generate_answers(
                self.policy, [replace(row, answer=())], seeds=[[0]], sampler=sampler
            )
        text = answer.text if self.text is None else self.text
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": answer.finish,
            "message": {"role": "assistant", "content": text},
        }
        if self.logprobs and request.get("logprobs"):
            ids = answer_ids(self.policy, text, ended=answer.finish == "stop")
            choice["logprobs"] = {"content": self._logprobs(row, ids, adapter=uses_adapter)}
        usage = {"prompt_tokens": len(row.prompt.input_ids)}
        return {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}

    def _logprobs(self, row: TokenRow, ids: list[int], *, adapter: bool) -> list[dict[str, Any]]:
        (logps,) = token_logps(self.policy, [replace(row, answer=tuple(ids))], adapter=adapter)
        return [{"token": "t", "logprob": value, "top_logprobs": []} for value in logps]


def disabled(model: Any) -> Any:
    """Return a block in which the model is without its adapter."""
    assert isinstance(model, PeftModel)
    return model.disable_adapter()


def error(message: str) -> dict[str, Any]:
    """Return an error as OpenAI words it."""
    return {"error": {"message": message}}


def decode(part: dict[str, Any], max_frames: int) -> Frames:
    """Return the first frames of the video in a message."""
    content = base64.b64decode(part["video_url"]["url"].partition(",")[2])
    with av.open(io.BytesIO(content)) as container:
        fps = float(container.streams.video[0].average_rate)
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    shown = pictures[:max_frames]
    return Frames(
        pixels=np.stack(shown),
        indices=list(range(len(shown))),
        times=np.arange(len(shown)) / fps,
        fps=fps,
        total_frames=len(shown),
        duration=len(shown) / fps,
        backend="pyav",
    )


@contextmanager
def policy_server(policy: Policy, **behaviour: Any) -> Iterator[PolicyServer]:
    """Run a server while the block runs."""
    server = PolicyServer(policy=policy, **behaviour)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_args: object) -> None:
            """Print nothing."""

        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": name} for name in server.models]})

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            self._send(*server.answer(json.loads(self.rfile.read(length))))

        def _send(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{httpd.server_address[1]}/v1"
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
