"""A JSON list of any length, an element at a time, with Python's own reader: NaN is read as pandas
writes it.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from dpo_video.core.strict_json import FOREIGN_DECODER, TooDeep

CHUNK = 1 << 20
"""Characters read at a time, doubled while an element is not whole."""
LONGEST = 1 << 27
"""Characters of an element; a longer one is taken for a list that is no JSON."""
NEAR_END = 32
"""Characters before the end of what is read in which an error may only mean that more is to come.
"""
SPACE = re.compile(r"[ \t\r\n]*")


class _Text:
    """What is read of a file, and how far it is understood."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.text = file.read(CHUNK)
        self.begin = 0

    def grow(self) -> bool:
        """Read as much again as is not understood yet; return whether there was more."""
        unread = self.text[self.begin :]
        chunk = self._file.read(max(CHUNK, len(unread)))
        self.text, self.begin = unread + chunk, 0
        return bool(chunk)

    def next_sign(self) -> str:
        """Return the next character that is no space, without taking it; "" at the end."""
        while True:
            match = SPACE.match(self.text, self.begin)
            assert match is not None
            self.begin = match.end()
            if self.begin < len(self.text):
                return self.text[self.begin]
            if not self.grow():
                return ""

    def take(self, sign: str) -> None:
        """Take the next character, which must be this one."""
        character = self.next_sign()
        if character != sign:
            raise ValueError(
                f"expected {sign!r}, got {character!r}" if character else "the file ends"
            )
        self.begin += 1


def read_json_list(file: TextIO) -> Iterator[Any]:
    """Yield the elements of a JSON list; raises ValueError where it is none, TooDeep where one is
    nested too deeply.
    """
    text = _Text(file)
    text.take("[")
    if text.next_sign() == "]":
        return
    while True:
        yield _element(text)
        if text.next_sign() == "]":
            return
        text.take(",")


def _element(text: _Text) -> Any:
    text.next_sign()
    while True:
        try:
            value, end = FOREIGN_DECODER.raw_decode(text.text, text.begin)
        except RecursionError as error:
            raise TooDeep from error
        except json.JSONDecodeError as error:
            _check_unfinished(text, error)
            if not text.grow():
                raise ValueError(error.msg) from error
            continue
        if end == len(text.text) and text.grow():
            continue  # a number may go on
        text.begin = end
        return value


def _check_unfinished(text: _Text, error: json.JSONDecodeError) -> None:
    """Raise ValueError where more of the file cannot mend an error."""
    is_unfinished = error.msg.startswith("Unterminated string") or (
        error.pos >= len(text.text) - NEAR_END
    )
    if not is_unfinished or len(text.text) - text.begin > LONGEST:
        raise ValueError(error.msg) from error
