"""RUN/votes.jsonl as it is written: a line a vote, on disk before the page hears of it."""

import fcntl
import os
from pathlib import Path
from typing import Self

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import to_json
from dpo_video.core.records import Vote
from dpo_video.data.votes import read_all_votes, standing_votes


class VoteFile:
    """The votes of a run, appended to one file: `with VoteFile(path) as file: file.append(vote)`.

    A vote is written in one piece and flushed to disk before `append` returns. What a killed
    process left of a line is cut off when the file is opened. One process may write at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise UserError(f"cannot write {str(path)!r}: {error.strerror}") from error
        try:
            self._take()
            self._cut_torn_line()
            self.votes = read_all_votes(path)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)

    def append(self, vote: Vote) -> None:
        """Write a vote and wait until it is on disk."""
        line = (to_json(vote) + "\n").encode("utf-8", "surrogatepass")
        written = os.write(self._file, line)
        if written < len(line):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(f"{self.path}: only a part of the vote could be written")
        os.fsync(self._file)
        self.votes.append(vote)

    def standing(self) -> list[Vote]:
        """Return the votes that count."""
        return standing_votes(self.votes)

    def _take(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{str(self.path)!r} is open in another review of this run: use its address, or "
                "end it first"
            ) from error
        except OSError:  # a file system without locks: two reviews would still append whole lines
            pass

    def _cut_torn_line(self) -> None:
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.ftruncate(self._file, end)
