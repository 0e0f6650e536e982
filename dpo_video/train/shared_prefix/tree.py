"""Rows of tokens that begin alike, as trees: what rows share stands in one packed sequence once.

R rows, T tokens of a row, N tokens of the packed sequence. A token is a vector of K numbers: its id
and its positions, so that tokens are shared only where a plain forward would give them the same
state.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

MIN_SAVED = 8
"""Tokens that a fork must save to get a segment of its own: each segment costs attention calls in
every layer.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Tokens that the same rows hold; in the packed sequence they stand right after one another."""

    begin: int
    """Place of the first token in the packed sequence."""
    end: int
    """Place after the last."""
    ancestors: tuple[int, ...]
    """Positions in the list of segments, from the root on; empty for a root."""
    row: int
    """A row that holds these tokens."""
    start: int
    """Where in that row they begin."""

    @property
    def stop(self) -> int:
        """Where in `row` they end."""
        return self.start + self.end - self.begin


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Packing:
    """Rows packed into one sequence, tree after tree, each parent right before its first child."""

    segments: Sequence[Segment]
    places: Sequence[IntArray]
    """For each row (T,), the places of its tokens in the packed sequence, ascending."""

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.segments[-1].end

    @property
    def tokens_saved(self) -> int:
        """Tokens that the rows have more, run one by one."""
        return sum(map(len, self.places)) - self.num_tokens


@dataclass(slots=True)
class _Node:
    start: int
    stop: int
    rows: list[int]
    """Rows through this node; the first one names it."""
    ends: list[int]
    """Those that end here."""
    children: list["_Node"] = field(default_factory=list)


def pack_rows(
    rows: Sequence[IntArray], clips: Sequence[int], *, min_saved: int = MIN_SAVED
) -> Packing:
    """Return rows packed so that a prefix common to rows of a clip stands once, and so do equal
    rows.

    Args:
        rows: (T, K) each, the tokens; T >= 1.
        clips: (R,), equal for rows of the same clip; rows of different clips share nothing.
        min_saved: forks that save fewer tokens are not made.
    """
    segments: list[Segment] = []
    places = [np.empty(len(row), dtype=np.int64) for row in rows]

    def lay(node: _Node, ancestors: tuple[int, ...]) -> None:
        begin = segments[-1].end if segments else 0
        number, length = len(segments), node.stop - node.start
        segments.append(
            Segment(
                begin=begin,
                end=begin + length,
                ancestors=ancestors,
                row=node.rows[0],
                start=node.start,
            )
        )
        for row in node.rows:
            places[row][node.start : node.stop] = np.arange(begin, begin + length)
        for child in node.children:
            lay(child, (*ancestors, number))

    for clip in dict.fromkeys(clips):
        root = _grow(rows, [row for row, its in enumerate(clips) if its == clip], 0)
        for tree in _worth(root, min_saved):
            lay(tree, ())
    return Packing(segments=segments, places=places)


def _grow(rows: Sequence[IntArray], members: list[int], start: int) -> _Node:
    """Return the tree of rows that are equal up to `start`."""
    first, *others = members
    stop = min([len(rows[first])] + [_common(rows[first], rows[other], start) for other in others])
    forks: dict[tuple[int, ...], list[int]] = {}
    for member in members:
        if len(rows[member]) > stop:
            forks.setdefault(tuple(rows[member][stop].tolist()), []).append(member)
    ends = [member for member in members if len(rows[member]) == stop]
    return _Node(start, stop, members, ends, [_grow(rows, group, stop) for group in forks.values()])


def _common(one: IntArray, other: IntArray, start: int) -> int:
    """Return up to which token two rows are equal, that are so up to `start`."""
    length = min(len(one), len(other))
    differs = (one[start:length] != other[start:length]).any(axis=1)
    return start + int(differs.argmax()) if differs.any() else length


def _worth(node: _Node, min_saved: int) -> list[_Node]:
    """Return the tree without the forks that save too little: their tokens go to each of their
    children.
    """
    node.children = [kept for child in node.children for kept in _worth(child, min_saved)]
    branches = len(node.children) + bool(node.ends)
    if not node.children or (node.stop - node.start) * (branches - 1) >= min_saved:
        return [node]
    for child in node.children:
        child.start = node.start
    leaf = [_Node(node.start, node.stop, node.ends, node.ends)] if node.ends else []
    return [*leaf, *node.children]
