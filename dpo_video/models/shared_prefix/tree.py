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
    """Position of the first token in the packed sequence."""
    end: int
    """Position after the last."""
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
    """Rows packed into one sequence, tree after tree, each parent right before its first child.

    Four rows of one clip, two questions with two answers each. A clip has the tokens 9 9 9, the
    questions 4 5 and 6, the answers 7 2, 8 2, 7 3 2 and 8 2 (positions are left out):

        row 0   9 9 9 4 5 7 2
        row 1   9 9 9 4 5 8 2
        row 2   9 9 9 6 7 3 2
        row 3   9 9 9 6 8 2

    With `min_saved=1`, `pack_rows` makes of these 27 tokens a sequence of N = 15:

        9 9 9 | 4 5 | 7 2 | 8 2 | 6 | 7 3 2 | 8 2

        segments[0]  begin 0,  end 3,  ancestors (),      row 0, start 0   the clip
        segments[1]  begin 3,  end 5,  ancestors (0,),    row 0, start 3   the first question
        segments[2]  begin 5,  end 7,  ancestors (0, 1),  row 0, start 5   its first answer
        segments[6]  begin 13, end 15, ancestors (0, 4),  row 3, start 4   the last answer
        packed_index[1]  [0 1 2 3 4 7 8]
        packed_index[3]  [0 1 2 9 13 14]
    """

    segments: Sequence[Segment]
    packed_index: Sequence[IntArray]
    """For each row (T,), the positions of its tokens in the packed sequence, ascending."""

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.segments[-1].end

    @property
    def tokens_saved(self) -> int:
        """Tokens that the rows have more, run one by one."""
        return sum(map(len, self.packed_index)) - self.num_tokens


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
    packed_index = [np.empty(len(row), dtype=np.int64) for row in rows]

    def lay(node: _Node, ancestors: tuple[int, ...]) -> None:
        begin = segments[-1].end if segments else 0
        index, length = len(segments), node.stop - node.start
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
            packed_index[row][node.start : node.stop] = np.arange(begin, begin + length)
        for child in node.children:
            lay(child, (*ancestors, index))

    for clip in dict.fromkeys(clips):
        members = [row for row, row_clip in enumerate(clips) if row_clip == clip]
        for tree in _without_small_forks(_grow(rows, members, 0), min_saved):
            lay(tree, ())
    return Packing(segments=segments, packed_index=packed_index)


def _grow(rows: Sequence[IntArray], members: list[int], start: int) -> _Node:
    """Return the tree of rows that are equal up to `start`."""
    tokens = rows[members[0]]
    stop = len(tokens)
    for member in members[1:]:
        stop = min(stop, _common_length(tokens, rows[member], start))
    forks: dict[tuple[int, ...], list[int]] = {}
    for member in members:
        if len(rows[member]) > stop:
            forks.setdefault(tuple(rows[member][stop].tolist()), []).append(member)
    ends = [member for member in members if len(rows[member]) == stop]
    return _Node(start, stop, members, ends, [_grow(rows, group, stop) for group in forks.values()])


def _common_length(tokens: IntArray, other_tokens: IntArray, start: int) -> int:
    """Return up to which token two rows are equal, that are so up to `start`."""
    length = min(len(tokens), len(other_tokens))
    differs = (tokens[start:length] != other_tokens[start:length]).any(axis=1)
    return start + int(differs.argmax()) if differs.any() else length


def _without_small_forks(node: _Node, min_saved: int) -> list[_Node]:
    """Return the tree without the forks that save too little: their tokens go to each of their
    children.
    """
    children: list[_Node] = []
    for child in node.children:
        children += _without_small_forks(child, min_saved)
    node.children = children
    branches = len(children) + bool(node.ends)
    if not children or (node.stop - node.start) * (branches - 1) >= min_saved:
        return [node]
    for child in children:
        child.start = node.start
    leaf = [_Node(node.start, node.stop, node.ends, node.ends)] if node.ends else []
    return [*leaf, *children]
