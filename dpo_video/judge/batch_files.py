"""Files of many requests that a vendor's batch service or `vllm run-batch` answers later, and the
files of results.

A request is one line `{"custom_id", "method", "url", "body"}`, a result one line
`{"custom_id", "response": {"status_code", "body"}, "error"}`, as OpenAI's batch service defines
them. `custom_id` is the key of the reply in the run store.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from dpo_video.client.http_errors import refusal_reason
from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.store.database import Database
from dpo_video.store.writer import Row

MAX_REQUESTS = 50_000
MAX_BYTES = 200_000_000
"""The vendor's limits on one file."""
URL = "/v1/chat/completions"
KIND, REFUSED = "result", "refused"
BATCH = 1000


@dataclass(kw_only=True)
class BatchFiles:
    """Writes requests to FILE, or to FILE-00001.jsonl and so on where one file would be over the
    limits.

    Files get their names when the block ends without an error.
    """

    path: Path
    max_requests: int = MAX_REQUESTS
    max_bytes: int = MAX_BYTES
    requests: int = 0
    written: list[Path] = field(default_factory=list)
    """The finished files."""
    _parts: list[Path] = field(default_factory=list)
    _out: TextIO | None = None
    _room: tuple[int, int] = (0, 0)
    """Requests and bytes that still fit in the open file."""

    def __enter__(self) -> Self:
        for path in [self.path, *self._numbered(1), *self.path.parent.glob(self._pattern())]:
            if path.exists():
                raise UserError(
                    f"{str(path)!r} exists already: what was sent must not be mixed with new "
                    "batches. Delete it, or give --batch-out another name"
                )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def add(self, key: str, body: dict[str, Any]) -> None:
        """Write one request."""
        line = (
            strict_json.dumps({"custom_id": key, "method": "POST", "url": URL, "body": body}) + "\n"
        )
        if self._out is None or self._room[0] < 1 or self._room[1] < len(line):
            self._begin()
        assert self._out is not None
        self._out.write(line)
        self._room = self._room[0] - 1, self._room[1] - len(line)
        self.requests += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._out is not None:
            self._out.close()
        if error is not None:
            for unnamed in self._parts:
                unnamed.unlink(missing_ok=True)
            return
        names = [self.path] if len(self._parts) == 1 else self._numbered(len(self._parts))
        for unnamed, name in zip(self._parts, names, strict=False):
            self.written.append(unnamed.replace(name))

    def _begin(self) -> None:
        if self._out is not None:
            self._out.close()
        unnamed = self.path.parent / f".{self.path.name}.{len(self._parts)}"
        self._parts.append(unnamed)
        self._out = unnamed.open("w", encoding="utf-8")
        self._room = self.max_requests, self.max_bytes

    def _numbered(self, count: int) -> list[Path]:
        return [
            self.path.with_name(f"{self.path.stem}-{number:05d}{self.path.suffix}")
            for number in range(1, count + 1)
        ]

    def _pattern(self) -> str:
        return f"{self.path.stem}-[0-9][0-9][0-9][0-9][0-9]{self.path.suffix}"


class Results:
    """Results of batches by their custom id, in a temporary database: they need not fit in memory.

    `counts` has `results` (lines), `duplicates` (lines with a custom id that came before),
    `refused` (prompts that will never be answered); `reasons` has errors by reason.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self._folder = tempfile.TemporaryDirectory(prefix="dpo-video-batch-")
        self._rows = Database(Path(self._folder.name) / "results.sqlite")
        try:
            for path in paths:
                self._read(path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the temporary database."""
        self._rows.close()
        self._folder.cleanup()

    def body(self, key: str) -> dict[str, Any] | None:
        """Return the chat completion under a custom id, or None."""
        row = self._rows.get(KIND, [key]).get(key)
        return None if row is None else strict_json.loads(row)

    def refusal(self, key: str) -> str | None:
        """Return why the prompt under a custom id will never be answered, or None."""
        row = self._rows.get(REFUSED, [key]).get(key)
        return None if row is None else str(strict_json.loads(row)["reason"])

    def any_refusal(self) -> str:
        """Return the reason of one of the refusals, of which there is at least one."""
        _, row = next(iter(self._rows.rows(REFUSED)))
        return str(strict_json.loads(row)["reason"])

    def keys(self) -> Iterator[str]:
        """Yield the custom ids that have a chat completion or a refusal."""
        for kind in (KIND, REFUSED):
            for key, _ in self._rows.rows(kind):
                yield key

    def _read(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"--batch-in: no file at {str(path)!r}")
        batch: dict[tuple[str, str], str] = {}
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                self.counts["results"] += 1
                kind, key, body = self._line(f"{path}:{number}", line)
                if body is None:
                    continue
                if (kind, key) in batch or self._rows.known(kind, [key], without=()):
                    self.counts["duplicates"] += 1
                    continue
                batch[kind, key] = body
                self.counts["refused"] += kind == REFUSED
                if len(batch) == BATCH:
                    self._keep(batch)
        self._keep(batch)

    def _keep(self, batch: dict[tuple[str, str], str]) -> None:
        self._rows.commit([Row(kind, key, body) for (kind, key), body in batch.items()])
        batch.clear()

    def _line(self, where: str, line: bytes) -> tuple[str, str, str | None]:
        """Return kind, custom id and body (JSON) of a result: a completion, or the reason of a
        refusal.

        The body is None for other errors: they are counted, and the prompt is asked as usual.
        """
        try:
            row = strict_json.loads_foreign(line)
            key, response, error = row["custom_id"], row.get("response"), row.get("error")
        except (ValueError, KeyError, TypeError, AttributeError):
            key, row = None, {}
        if not isinstance(key, str):
            raise UserError(
                f"{where}: no batch result: expected a JSON object with `custom_id` and "
                "`response`. Is it the output file of the batch, not its input?"
            )
        if "body" in row:
            raise UserError(
                f"{where}: this is a request, not a result: give --batch-in the output file of the "
                "batch"
            )
        status = response.get("status_code") if isinstance(response, dict) else None
        body = response.get("body") if isinstance(response, dict) else None
        if not error and status == 200 and isinstance(body, dict) and body.get("choices"):
            try:
                return KIND, key, strict_json.dumps(body)
            except ValueError:
                self.reasons["a number that is not finite"] += 1
                return KIND, key, None
        fault = _fault(error, body)
        code, message = fault.get("code"), " ".join(str(fault.get("message") or "").split())[:200]
        http_status = status if isinstance(status, int) else code if isinstance(code, int) else 0
        reason = refusal_reason(http_status, code, message)
        if reason is not None:
            return REFUSED, key, strict_json.dumps({"reason": reason})
        self.reasons[_reason(status, fault)] += 1
        return KIND, key, None


def _fault(error: object, body: object) -> dict[str, Any]:
    """Return the error of a result: `error` of the line (in vLLM's with an `error` within) or of
    the reply's body.
    """
    inner = error.get("error") if isinstance(error, dict) else None
    of_body = body.get("error") if isinstance(body, dict) else None
    fault = inner or error or of_body
    if not fault:
        return {}
    return fault if isinstance(fault, dict) else {"message": str(fault)}


def _reason(status: object, fault: dict[str, Any]) -> str:
    """Return in a few words why a request has no completion."""
    message = str(fault.get("code") or fault.get("type") or fault.get("message") or "")[:80]
    if status in (None, 200):
        return message or "no completion in the result"
    return f"HTTP {status}: {message}" if message else f"HTTP {status}"
