"""Fields of foreign rows: texts, conversations and videos, with the two ways a row can be unusable.

`BadRow`: it is not of the format. `Dropped`: it is, and cannot be used; counted by reason.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from dpo_video.core.text import TAG
from dpo_video.formats.rows import Row

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}


class BadRow(Exception):
    """A row that is not of the format."""


class Dropped(Exception):
    """A row that cannot be used: the reason, and what in it is meant."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


class Turn(NamedTuple):
    """One turn of a conversation; the role is user, assistant or system."""

    role: str
    text: str


def text_of(row: Row, *names: str) -> str:
    """Return the first of several fields that there is, a text without tags for the clip; BadRow
    without any.
    """
    for name in names:
        if row.get(name) is not None:
            value = row[name]
            if not isinstance(value, str):
                raise BadRow(f"`{name}` must be a text, {_given(value)}")
            return clean(value)
    raise BadRow(f"no `{'` or `'.join(names)}` in it; it has: {', '.join(row)}")


def _given(value: object) -> str:
    """Return what stands in a field, in words of an error."""
    return "and is not there" if value is None else f"got {str(value)[:60]!r}"


def clean(text: str) -> str:
    """Return a text without the tags that stand for the clip, and without space around it."""
    return TAG.sub("", text).strip()


def number_of(row: Row, name: str) -> float | None:
    """Return a number, also from a text (CSV); None where there is none, or NaN stands for that."""
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadRow(f"`{name}` must be a number, {_given(value)}") from None
    if math.isinf(number):
        raise BadRow(f"`{name}` must be a finite number, {_given(value)}")
    return None if math.isnan(number) else number


def turns_of(row: Row, name: str) -> list[Turn]:
    """Return a conversation of `from`/`value` or `role`/`content`; texts in parts (`type: text`)
    are joined.
    """
    value = row.get(name)
    if not isinstance(value, list) or not value:
        raise BadRow(f"`{name}` must be a list of turns, {_given(value)}")
    return [turn_of(turn, name) for turn in value]


def turn_of(turn: Any, name: str) -> Turn:
    """Return one turn of either form."""
    if not isinstance(turn, dict):
        raise BadRow(
            f"`{name}` must hold turns (role and content, or from and value), got "
            f"{str(turn)[:60]!r}"
        )
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if not isinstance(role, str) or role not in ROLES:
        raise BadRow(f"`{name}`: unknown role {role!r}; known: {', '.join(ROLES)}")
    if isinstance(content, list):
        if not all(
            isinstance(part, dict) and isinstance(part.get("text"), str | None) for part in content
        ):
            raise BadRow(
                f"`{name}`: the parts of a turn must be objects with type and text, "
                f"{_given(content)}"
            )
        content = " ".join(part.get("text") or "" for part in content if part.get("type") == "text")
    if not isinstance(content, str):
        raise BadRow(f"`{name}`: a turn's text must be a text, got {str(content)[:60]!r}")
    return Turn(ROLES[role], clean(content))


def question_of(turns: Sequence[Turn]) -> str:
    """Return the one question of a conversation; one with more turns, or with instructions, is
    dropped.
    """
    if any(turn.role == "system" and turn.text for turn in turns):
        raise Dropped("system prompt", "the chat template of the model tuned writes its own")
    asked = [turn for turn in turns if turn.role != "system"]
    if [turn.role for turn in asked] != ["user"]:
        raise Dropped("several turns", " ".join(turn.role for turn in asked))
    return asked[0].text


def one_video(row: Row, *names: str) -> str | list[str]:
    """Return the one clip of a row: a path, or a list of frames; rows of images only or of several
    clips are dropped.

    A list of one path is that clip; a list in a list is a clip of frames.
    """
    value = next((row[name] for name in names if row.get(name)), None)
    if value is None:
        if row.get("image") or row.get("images"):
            raise Dropped("image, no video")
        raise Dropped("no video")
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        if len(value) > 1:
            raise Dropped("several videos", f"{len(value)} of them")
        inner = value[0]
        if isinstance(inner, str):
            return inner
        if isinstance(inner, list) and inner and all(isinstance(frame, str) for frame in inner):
            return list(inner)
    raise BadRow(f"`{names[0]}` must be a path or a list of frames, {_given(value)}")
