"""Ids of imported rows: what a row calls itself, and records told apart by it, in a few bytes
each.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl
from dpo_video.core.records import AnyRecord, Judgment, Pair, Reward, Sample
from dpo_video.formats.fields import BadRow, Dropped
from dpo_video.formats.rows import ForeignRow

Imported = TypeVar("Imported", bound=AnyRecord)


def id_of(row: ForeignRow, *names: str, fallback: str) -> str:
    """Return the first of several fields that says something, else the fallback: null and "" are no
    ids.
    """
    for name in names:
        value = row.get(name)
        if value is not None and value != "":
            return str(value)
    return fallback


def answered(
    identity: str, *, clip: str | None, is_question: Callable[[str], bool] | None
) -> tuple[str, int]:
    """Return the question that LLaVA-Hound's id of an answer names, and which answer to it this is.

    The id is the question's own, `<clip>_<question>`, or `<clip>_<question>_<answer>`, and names of
    clips have underscores and numbers in them, too. So the questions decide where they are known,
    else the clip's name.
    """
    question, _, number = identity.rpartition("_")
    if is_question is not None:
        if is_question(identity):
            return identity, 0
        if number.isdecimal() and is_question(question):
            return question, int(number)
        raise Dropped("no such question", identity)
    if re.search(r"_\d+_\d+$", identity) is None:
        return identity, 0
    path = PurePosixPath(clip or "")
    for name in (path.name, path.stem, path.name.split(".")[0]):
        suffix = identity.removeprefix(f"{name}_")
        if name and suffix.isdecimal():
            return identity, 0
        if name and re.fullmatch(r"\d+_\d+", suffix):
            return question, int(number)
    raise BadRow(
        f"the id {identity!r} is question {identity!r}, or answer {number} to question "
        f"{question!r}: give the "
        "imported questions with --samples FILE"
    )


class UniqueIds:
    """The ids so far. Samples, candidates and judgments stand once; a question has any number of
    different pairs.
    """

    def __init__(self) -> None:
        self._first: dict[int, int] = {}
        self._further: dict[int, set[int]] = {}

    def take(self, record: Imported) -> Imported:
        """Note a record and return it, the answers of a question's second and further pairs
        numbered.

        Raises Dropped for one that stood before, and for a pair whose id is that of another
        question.
        """
        identity = _identity(record)
        key, mark = _digest(identity), _mark(record)
        first = self._first.get(key)
        if first is None:
            self._first[key] = mark
            return record
        if not isinstance(record, Pair):
            raise Dropped("id stands twice", identity)
        if first >> 32 != mark >> 32:
            raise Dropped(
                "id stands twice", f"{identity}, with another question or clip than before"
            )
        further = self._further.setdefault(key, set())
        if mark == first or mark in further:
            raise Dropped("pair stands twice", identity)
        further.add(mark)
        number = len(further) + 1
        return replace(
            record,
            chosen_id=f"{record.chosen_id}.{number}",
            rejected_id=f"{record.rejected_id}.{number}",
        )


def questions_of(path: Path) -> Callable[[str], bool]:
    """Return what tells whether an id is that of a sample in a file."""
    digests = {_digest(sample.id) for sample in read_jsonl(path, Sample)}
    if not digests:
        raise UserError(f"{path}: no samples in it")
    return lambda identity: _digest(identity) in digests


def _identity(record: AnyRecord) -> str:
    if isinstance(record, Judgment | Reward):
        return record.candidate_id
    return record.sample_id if isinstance(record, Pair) else record.id


def _mark(record: AnyRecord) -> int:
    """Return what tells pairs of one id apart: 4 bytes for the question and its clip, 4 for the
    answers.
    """
    if not isinstance(record, Pair):
        return 0
    question = repr((record.video, record.history, record.prompt, record.start, record.end))
    answers = repr((record.chosen, record.rejected, record.rejected_video))
    return _digest(question) >> 32 << 32 | _digest(answers) >> 32


def _digest(text: str) -> int:
    """Return 8 bytes for a text: they keep a million rows small."""
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )
