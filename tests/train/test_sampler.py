"""The order of pairs: shuffled by clip, shared among processes, the same again after a resume."""

from collections import Counter
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_video.train.sampler import ClipSampler

CLIPS = [f"c{number % 7}" for number in range(24)]


def flat(order: ClipSampler) -> list[int]:
    return [position for batch in order for position in batch]


@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_every_pair_comes_once_an_epoch_and_a_clip_s_pairs_together(
    clips: list[str], size: int, epoch: int
) -> None:
    order = ClipSampler(clips, batch_size=size, seed=0)
    order.set_epoch(epoch)
    assert sorted(flat(order)) == list(range(len(clips)))
    assert len(list(groupby(clips[position] for position in flat(order)))) == len(set(clips))
    assert len(list(order)) == len(order) and all(len(batch) == size for batch in list(order)[:-1])


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 3))
def test_processes_share_all_pairs_in_equally_many_equal_batches(
    count: int, processes: int, size: int
) -> None:
    clips = [f"c{number % 5}" for number in range(count)]
    shares = [
        list(ClipSampler(clips, batch_size=size, seed=1, process=process, num_processes=processes))
        for process in range(processes)
    ]
    assert len({tuple(len(batch) for batch in share) for share in shares}) == 1
    seen = Counter(position for share in shares for batch in share for position in batch)
    assert set(seen) == set(range(count))
    assert (
        sum(seen.values()) - count < processes + count
    )  # only what is needed to make shares equal comes again
    assert sum(seen.values()) == processes * -(-count // processes)


def test_epochs_and_seeds_have_orders_of_their_own_that_come_again() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        made = ClipSampler(CLIPS, batch_size=2, seed=seed)
        made.set_epoch(epoch)
        return flat(made)

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_a_clip_that_is_left_out_leaves_the_order_of_the_others() -> None:
    whole = ClipSampler(CLIPS, batch_size=1, seed=0).clip_groups()
    without = ClipSampler(
        [clip for clip in CLIPS if clip != "c3"], batch_size=1, seed=0
    ).clip_groups()
    assert without == [clip for clip in whole if clip != ("c3",)]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_clip_order_is_that_of_the_batches(processes: int) -> None:
    for process in range(processes):
        order = ClipSampler(CLIPS, batch_size=3, seed=5, process=process, num_processes=processes)
        assert order.clip_groups() == [
            (clip,) for clip, _ in groupby(CLIPS[position] for position in flat(order))
        ]
