"""A real HTTP server on loopback that speaks chat completions and fails on demand, and records to
send it.
"""

import hashlib
import json
import math
import re
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dpo_video.core.records import Candidate, Sample


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the server sends: a status and a body; `drop` closes the connection instead.

    With `stall`, half of the body is sent; the rest never comes. The connection is closed after so
    many seconds, or when the client leaves.
    """

    body: dict[str, Any] | str | bytes = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    stall: float | None = None


def completion(
    text: str, *, finish: str = "stop", top: dict[str, float] | None = None, **more: Any
) -> Answer:
    """Return a chat completion; with `top`, the text's last character is a token with these
    alternatives (logprobs).

    `more` are further fields, such as `usage`; the server says that it is the model asked for,
    unless `model` is given.
    """
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": text},
    }
    if top is not None:
        pieces = [*re.findall(r"\w+|\W", text[:-1]), text[-1]]
        choice["logprobs"] = {
            "content": [{"token": piece, "logprob": 0.0, "top_logprobs": []} for piece in pieces]
        }
        choice["logprobs"]["content"][-1]["top_logprobs"] = [
            {"token": token, "logprob": value} for token, value in top.items()
        ]
    return Answer(
        body={"id": "x", "object": "chat.completion", "created": 0, "choices": [choice], **more}
    )


def failure(
    status: int, message: str, *, code: str | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """Return an HTTP error as OpenAI words it."""
    return Answer(
        status=status, body={"error": {"message": message, "code": code}}, headers=headers or {}
    )


def steady_score(prompt: str) -> int:
    """Return the score that `steady` gives a prompt: a fixed function of it."""
    return hashlib.sha256(prompt.encode()).digest()[0] % 5 + 1


def steady(prompt: str, attempt: int) -> Answer:
    """Answer every prompt with its own score."""
    return completion(f"Explanation: as it is.\nScore: {steady_score(prompt)}")


class JudgeServer:
    """Requests seen so far, and how to answer: a function of the prompt and of how often that
    prompt came (from 1).
    """

    def __init__(self, answer: Callable[[str, int], Answer]) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.most_in_flight = 0
        self._in_flight = 0
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()
        self.url = ""

    @property
    def prompts(self) -> list[str]:
        """The prompts in the order they came."""
        return [request["messages"][0]["content"] for request in self.requests]

    def reply(self, request: dict[str, Any], key: str | None) -> Answer:
        prompt = request["messages"][0]["content"]
        with self._lock:
            self.requests.append(request)
            self.keys.add(key)
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
            self._seen[prompt] = attempt = self._seen.get(prompt, 0) + 1
        try:
            return self.answer(prompt, attempt)
        finally:
            with self._lock:
                self._in_flight -= 1


@contextmanager
def judge_server(answer: Callable[[str, int], Answer] = steady) -> Iterator[JudgeServer]:
    """Serve on a free loopback port while the block runs."""
    state = JudgeServer(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            given = state.reply(request, self.headers["authorization"])
            if given.drop:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            filled = (
                {"model": request["model"], **given.body}
                if isinstance(given.body, dict)
                else given.body
            )
            if not isinstance(filled, bytes):
                filled = (filled if isinstance(filled, str) else json.dumps(filled)).encode()
            body = filled
            self.send_response(given.status)
            for name, value in {"content-type": "application/json", **given.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if given.stall is not None:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                select.select([self.connection], [], [], given.stall)
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that was killed

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_port() -> int:
    """Return a loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_items(
    samples: int, candidates: int = 1, *, text: str = "it is a {k}"
) -> list[tuple[Sample, Candidate]]:
    """Return candidates of samples over clips of two questions each; texts differ by {s} and
    {k}.
    """
    items = []
    for number in range(samples):
        sample = Sample(
            id=f"s{number}",
            video=f"v{number // 2}.mp4",
            caption=f"Clip {number // 2}: a dog jumps.",
            prompt=f"What happens ({number})?",
            answer="A dog jumps.",
        )
        items += [
            (
                sample,
                Candidate(
                    id=f"s{number}#{k}",
                    sample_id=sample.id,
                    text=text.format(s=number, k=k),
                    model="m",
                    settings="h",
                    seed=k,
                ),
            )
            for k in range(candidates)
        ]
    return items


def shown_answers(prompt: str) -> list[str]:
    """Return the two answers of a prompt in the order they stand."""
    return [line[2:] for line in prompt.splitlines() if line.startswith("> ")]


def pairwise_verdict(chance: float, tie: float = 0.0) -> Answer:
    """Return a reply with P(A) = chance, P(C) = tie."""
    top = {"A": chance, "B": 1 - chance - tie, "C": tie}
    return completion(
        "Verdict: A", top={label: math.log(value) for label, value in top.items() if value > 0}
    )
