"""A chat completion server of known capacity and latency, so light that the client is what is
measured.

    python scripts/bench/judge_server.py CAPACITY_PER_SECOND LATENCY_SECONDS

Prints its port. A request is answered LATENCY after it arrived, and not before its turn: requests
are worked off at CAPACITY a second, 0 for no limit. `GET /` returns as JSON `answered` and
`middle_per_s`: the answers so far, and how many a second from the first tenth of them to the last.
"""

import asyncio
import json
import sys
import time
from array import array

BODY = json.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "Score: 4"},
            }
        ],
        "usage": {
            "prompt_tokens": 300,
            "completion_tokens": 4,
            "total_tokens": 304,
            "prompt_tokens_details": {"cached_tokens": 240},
        },
    }
).encode()
REPLY = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)
    + BODY
)


class Work:
    """The queue of the server: when the next request's turn is, and how many were answered."""

    def __init__(self, capacity: float, latency: float) -> None:
        self.spacing, self.latency = 1 / capacity if capacity else 0.0, latency
        self.next_turn = 0.0
        self.times = array("d")

    def wait(self) -> float:
        """Return the seconds until a request that comes now is answered."""
        now = time.monotonic()
        self.next_turn = max(now, self.next_turn + self.spacing)
        return max(self.latency, self.next_turn - now)

    def facts(self) -> dict[str, float]:
        """Return what `GET /` says."""
        answered, first = len(self.times), len(self.times) // 10
        seconds = self.times[-1 - first] - self.times[first] if answered else 0.0
        return {
            "answered": answered,
            "middle_per_s": (answered - 1 - 2 * first) / seconds if seconds else 0.0,
        }


class Connection(asyncio.Protocol):
    """One keep-alive connection; requests come one by one."""

    def __init__(self, work: Work) -> None:
        self.work, self.buffer = work, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        _, found, rest = head.lower().partition(b"content-length:")
        length = int(rest.split(b"\r\n", 1)[0]) if found else 0
        if len(body) < length:
            return
        self.buffer = body[length:]
        if head.startswith(b"GET"):
            facts = json.dumps(self.work.facts()).encode()
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(facts) + facts
            )
        else:
            asyncio.get_running_loop().call_later(self.work.wait(), self.answer)

    def answer(self) -> None:
        self.work.times.append(time.monotonic())
        if not self.transport.is_closing():
            self.transport.write(REPLY)


async def serve(capacity: float, latency: float) -> None:
    """Serve on a free loopback port until the process is ended."""
    work = Work(capacity, latency)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(work), "127.0.0.1", 0, backlog=2048
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(*map(float, sys.argv[1:3])))
