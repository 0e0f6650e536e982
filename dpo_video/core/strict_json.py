"""JSON as the standard has it: NaN, Infinity, a key that stands twice and endless nesting are
errors, in what is read and in what is written.
"""

import json
import math
from collections.abc import Callable
from typing import Any


class TooDeep(ValueError):
    """JSON is nested deeper than Python reads."""


def dumps(
    value: Any,
    *,
    indent: int | None = None,
    ensure_ascii: bool = True,
    sort_keys: bool = False,
    separators: tuple[str, str] | None = None,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """Return a value as JSON; raises ValueError for a number that is not finite, which JSON has no
    word for.
    """
    return json.dumps(
        value,
        indent=indent,
        ensure_ascii=ensure_ascii,
        sort_keys=sort_keys,
        separators=separators,
        default=default,
        allow_nan=False,
    )


def loads(text: str | bytes) -> Any:
    """Return what JSON text of ours holds; raises ValueError (TooDeep, `json.JSONDecodeError`) for
    all that the standard does not have.
    """
    return _decode(DECODER, text)


def loads_foreign(text: str | bytes) -> Any:
    """Return what JSON text of another program holds, also NaN and Infinity: configurations of
    transformers, exports of pandas and replies of servers have them. Raises ValueError.
    """
    return _decode(FOREIGN_DECODER, text)


def loads_earlier(text: str | bytes) -> Any:
    """Return what JSON text of an earlier version of ours holds: NaN and Infinity, which it wrote,
    are null. Raises ValueError.
    """
    return _decode(EARLIER_DECODER, text)


def _decode(decoder: json.JSONDecoder, text: str | bytes) -> Any:
    text = text.decode() if isinstance(text, bytes) else text
    try:
        return decoder.decode(text)
    except RecursionError:
        raise TooDeep("it is nested too deeply") from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # an integer of more digits than Python reads
        raise ValueError(without_advice(error)) from None


def without_advice(error: Exception) -> str:
    """Return what Python says of a value, without what a program could do about it."""
    return str(error).partition("; use sys.")[0]


def _no_number(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is no number of JSON; leave the field out", name, 0)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise json.JSONDecodeError(f"{digits[:20]} is larger than any number here", digits, 0)
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; a key that stands twice would lose one of its values."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise json.JSONDecodeError(f"the key {twice!r} stands twice", twice, 0)
    return row


DECODER = json.JSONDecoder(
    parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_object
)
EARLIER_DECODER = json.JSONDecoder(parse_constant=lambda name: None)
FOREIGN_DECODER = json.JSONDecoder()
"""Python's own: of a key that stands twice it takes the last."""
