"""Rows become trees: what they share stands once, and every row can be read back from the packed
sequence.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_video.models.shared_prefix.tree import Packing, pack_rows

VIDEO = list(range(100, 130))


def tokens(*rows: list[int]) -> list[np.ndarray]:
    """Return rows of ids as tokens (T, 2) with positions 0, 1, 2, ..."""
    return [np.stack([np.array(row), np.arange(len(row))], axis=1) for row in rows]


def spelled(packing: Packing, rows: list[np.ndarray]) -> list[tuple[int, ...]]:
    """Return the ids of each segment."""
    return [
        tuple(rows[segment.row][segment.start : segment.stop, 0].tolist())
        for segment in packing.segments
    ]


def parents(packing: Packing) -> list[int | None]:
    return [segment.ancestors[-1] if segment.ancestors else None for segment in packing.segments]


def test_video_question_and_answers_become_three_levels() -> None:
    one, other = list(range(10, 20)), list(range(20, 30))
    rows = tokens(VIDEO + one + [1], VIDEO + other + [2], VIDEO + one + [3, 3], VIDEO + other + [4])
    packing = pack_rows(rows, [0] * 4)
    assert spelled(packing, rows) == [
        tuple(VIDEO),
        tuple(one),
        (1,),
        (3, 3),
        tuple(other),
        (2,),
        (4,),
    ]
    assert parents(packing) == [None, 0, 1, 1, 0, 4, 4]
    assert packing.segments[3].ancestors == (0, 1)
    assert packing.num_tokens == 30 + 2 * 10 + 5
    assert packing.tokens_saved == sum(map(len, rows)) - 55
    assert packing.packed_index[2].tolist() == [*range(40), 41, 42]


def test_equal_rows_are_one_leaf() -> None:
    rows = tokens([*VIDEO, 1, 2], [*VIDEO, 3], [*VIDEO, 1, 2])
    packing = pack_rows(rows, [0, 0, 0])
    assert spelled(packing, rows) == [tuple(VIDEO), (1, 2), (3,)]
    assert packing.packed_index[0].tolist() == packing.packed_index[2].tolist()


def test_a_row_alone_is_one_segment() -> None:
    assert spelled(pack_rows(tokens(VIDEO), [7]), tokens(VIDEO)) == [tuple(VIDEO)]


def test_an_answer_that_begins_as_another_ends_is_a_leaf_of_its_own_when_little_is_saved() -> None:
    rows = tokens([*VIDEO, 1], [*VIDEO, 1, 2])
    packing = pack_rows(rows, [0, 0])
    assert spelled(packing, rows) == [tuple([*VIDEO, 1]), (2,)]
    rows = tokens([*VIDEO, 1], [*VIDEO, 1, 2], [*VIDEO, 3])
    assert spelled(pack_rows(rows, [0] * 3), rows) == [tuple(VIDEO), (1,), (1, 2), (3,)]
    assert spelled(pack_rows(rows, [0] * 3, min_saved=1), rows) == [tuple(VIDEO), (1,), (2,), (3,)]


def test_a_fork_is_made_from_the_saving_that_pays() -> None:
    shared = list(range(10, 17))  # 7 tokens, once instead of 2 times
    rows = tokens(VIDEO + shared + [1], VIDEO + shared + [2], [*VIDEO, 3])
    assert len(pack_rows(rows, [0] * 3, min_saved=8).segments) == 4
    assert len(pack_rows(rows, [0] * 3, min_saved=7).segments) == 5


def test_rows_of_different_clips_share_nothing() -> None:
    rows = tokens([*VIDEO, 1], [*VIDEO, 1], [*VIDEO, 2])
    packing = pack_rows(rows, [5, 6, 5])
    assert parents(packing) == [None, 0, 0, None]
    assert spelled(packing, rows) == [tuple(VIDEO), (1,), (2,), (*VIDEO, 1)]


def test_rows_of_a_clip_that_begin_differently_are_trees_of_their_own() -> None:
    rows = tokens([1, *VIDEO], [2, *VIDEO])
    assert parents(pack_rows(rows, [0, 0])) == [None, None]


def test_equal_ids_at_other_positions_are_not_shared() -> None:
    one, other = tokens([*VIDEO, 1], [*VIDEO, 1])
    other[20:, 1] += 5
    packing = pack_rows([one, other], [0, 0])
    assert [segment.end - segment.begin for segment in packing.segments] == [20, 11, 11]


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(0, 2)),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 9),
)
def test_every_row_reads_its_own_tokens_and_sees_itself_causally(
    rows: list[tuple[list[int], int]], saved: int
) -> None:
    """Each row is the chain of its last segment's ancestors and that segment, in order and
    complete.
    """
    made = tokens(*(row for row, _ in rows))
    packing = pack_rows(made, [clip for _, clip in rows], min_saved=saved)
    segments = packing.segments
    packed = np.concatenate(
        [made[segment.row][segment.start : segment.stop] for segment in segments]
    )
    assert len(packed) == packing.num_tokens
    for row, places in zip(made, packing.packed_index, strict=True):
        assert (packed[places] == row).all()
        (last,) = [segment for segment in segments if segment.begin <= places[-1] < segment.end]
        chain = [*(segments[ancestor] for ancestor in last.ancestors), last]
        assert places.tolist() == [
            place for segment in chain for place in range(segment.begin, segment.end)
        ]
    for segment in segments:
        assert segment.end > segment.begin
        assert all(segments[ancestor].end <= segment.begin for ancestor in segment.ancestors)


@pytest.mark.parametrize("answers", [2, 8])
def test_answers_of_one_question_cost_their_own_tokens_only(answers: int) -> None:
    rows = tokens(*(VIDEO + [answer] * 5 for answer in range(answers)))
    assert pack_rows(rows, [0] * answers).num_tokens == 30 + 5 * answers
