"""Captions by clip, from a file of any size: kept in a temporary SQLite file, not in memory."""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from dpo_video.core.errors import UserError
from dpo_video.formats.fields import BadRow, Dropped, one_video, turns_of, without_tags
from dpo_video.formats.rows import ForeignRow, read_foreign_rows

COMMIT_ROWS = 10_000


class Captions:
    """Looks captions up by a clip's path, then by its name without folder and suffix."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def of(self, video: str) -> str | None:
        """Return a clip's caption, or None."""
        query = "select text from captions where name = ?"
        for name in (video, stem(video)):
            caption = self._database.execute(query, [name]).fetchone()
            if caption and caption[0] is not None:
                return str(caption[0])
        return None


def stem(video: str) -> str:
    """Return a clip's name without folders and suffix, as LLaVA-Hound joins captions and
    questions.
    """
    return PurePosixPath(video).name.split(".")[0]


@contextmanager
def open_captions(source: str) -> Iterator[Captions]:
    """Read a file of captions: rows with `video` and `caption`, or conversations whose answer is
    the caption.

    Two clips of one name in different folders with different captions are found by their whole
    paths only.
    """
    with tempfile.TemporaryDirectory(prefix="dpo-video-captions-") as folder:
        database = sqlite3.connect(Path(folder) / "captions.sqlite", isolation_level=None)
        try:
            database.execute("pragma journal_mode=off")
            database.execute("create table captions (name text primary key, text text)")
            _fill(database, source)
            yield Captions(database)
        finally:
            database.close()


def _fill(database: sqlite3.Connection, source: str) -> None:
    number = 0
    for number, (where, row) in enumerate(read_foreign_rows(source), start=1):
        if number % COMMIT_ROWS == 1:
            if number > 1:
                database.execute("commit")
            database.execute("begin")
        try:
            video, text = _caption(row)
        except (BadRow, Dropped) as error:
            raise UserError(
                f"{where}: {error}; a file of captions has `video` and `caption`, or "
                f"`conversations`"
            ) from error
        database.execute("insert or replace into captions values (?, ?)", (video, text))
        # another clip of this name: null stands for "ask by the path"
        database.execute(
            "insert into captions values (?, ?) on conflict (name) do update set text = "
            "case when text = excluded.text then text else null end where name <> ?",
            (stem(video), text, video),
        )
    if number == 0:
        raise UserError(f"{source}: no captions in it")
    database.execute("commit")


def _caption(row: ForeignRow) -> tuple[str, str]:
    video = one_video(row, "video", "videos")
    path = video if isinstance(video, str) else video[0]
    if isinstance(row.get("caption"), str):
        return path, without_tags(row["caption"])
    answers = [turn.question for turn in turns_of(row, "conversations") if turn.role == "assistant"]
    if len(answers) != 1:
        raise BadRow(f"{len(answers)} answers in `conversations`, and a caption is one")
    return path, answers[0]
