"""The reader of clips: one stream over reference pass and epochs, restarted only where training
really jumps.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from policies import policy
from tiny_world import FRAMES, make_recipe

from dpo_video.core.errors import UserError
from dpo_video.models.clip_source import ClipSource
from dpo_video.train.prefetch import ClipPrefetcher
from dpo_video.train.run_trainer import _num_epochs
from dpo_video.train.sampler import ClipSampler
from dpo_video.video import ClipRequest


class Counted(ClipSource):
    """Counts how often reading ahead begins anew."""

    starts = 0

    def map(self, requests):  # type: ignore[no-untyped-def]
        self.starts += 1
        return super().map(requests)


@pytest.fixture
def source(qwen: Path) -> Iterator[Counted]:
    with Counted(policy("qwen2_5_vl"), make_recipe(qwen).video) as made:
        yield made


def reader_of(
    source: Counted, qwen: Path, order: ClipSampler, failed: list[str], *, gone: str = ""
) -> ClipPrefetcher:
    requests = {
        name: ClipRequest(key=name, video=qwen / ("gone.mp4" if name == gone else name))
        for name in dict.fromkeys(order.clips)
    }
    return ClipPrefetcher(
        source, requests, order.clips_ahead, on_bad_clip=lambda clip, error: failed.append(clip)
    )


def clip_order(num_epochs: int) -> ClipSampler:
    order = ClipSampler([f"c{number % 3}.mp4" for number in range(7)], batch_size=2, seed=3)
    order.num_epochs = num_epochs
    return order


def read_epoch(reader: ClipPrefetcher, order: ClipSampler) -> list[int]:
    """Read an epoch as batches do; return each clip's features as a number that tells the clips
    apart.
    """
    found = []
    for batch in order:
        for place in batch:
            clip = reader.read(order.clips[place])
            found.append(
                0 if clip is None else int(clip.inputs.clip_inputs["video_grid_thw"][0, 0])
            )
    return found


def test_the_reference_pass_and_all_epochs_are_one_stream(qwen: Path, source: Counted) -> None:
    """Four orders in a row, and reading ahead begins once; no clip beyond the last epoch is
    decoded.
    """
    order = clip_order(num_epochs=3)
    reader = reader_of(source, qwen, order, [])
    order.set_epoch(0, next_epoch=0)
    passes = [read_epoch(reader, order)]
    for epoch in range(3):
        order.set_epoch(epoch)
        passes.append(read_epoch(reader, order))
    steps = {f"c{number}.mp4": min(6, frames) // 2 for number, frames in enumerate(FRAMES)}
    for epoch, got in zip((0, 0, 1, 2), passes, strict=True):
        assert got == [steps[order.clips[place]] for place in order.positions(epoch)]
    assert source.starts == 1
    assert source.counts["decoded"] <= 4 * len(FRAMES)


def test_a_jump_into_an_epoch_starts_reading_there(qwen: Path, source: Counted) -> None:
    order = clip_order(num_epochs=3)
    reader = reader_of(source, qwen, order, [])
    order.set_epoch(1)
    middle = order.clip_groups()[1][0]
    assert reader.read(middle) is not None and reader.num_read == 1
    order.set_epoch(2)
    last = order.clip_groups()[-1][0]
    assert reader.read(last) is not None
    assert source.starts <= 2


def test_a_clip_that_fails_is_told_once_and_left_out_of_later_epochs(
    qwen: Path, source: Counted
) -> None:
    order, failed = clip_order(num_epochs=3), list[str]()
    reader = reader_of(source, qwen, order, failed, gone="c1.mp4")
    for epoch in range(3):
        order.set_epoch(epoch)
        read_epoch(reader, order)
    assert failed == ["c1.mp4"]
    assert source.starts == 1


def test_a_clip_outside_the_order_is_our_mistake(qwen: Path, source: Counted) -> None:
    order = clip_order(num_epochs=1)
    reader = reader_of(source, qwen, order, [])
    with pytest.raises(AssertionError, match="not in the order"):
        reader.read("c9.mp4")
    assert not isinstance(reader.read("c0.mp4"), UserError)


@pytest.mark.parametrize(
    ("train", "batches", "expected"),
    [
        ({"epochs": 2.5}, 7, 3),
        ({"max_steps": 10, "gradient_accumulation": 2}, 7, 3),
        ({"max_steps": 10, "gradient_accumulation": 2, "tokens_per_batch": 100}, 7, 2),
    ],
)
def test_epochs_are_those_that_transformers_begins(
    train: dict[str, float], batches: int, expected: int, tmp_path: Path
) -> None:
    """10 steps of 2 forwards are 20 of 7 an epoch, the last one of an epoch alone; or 10 steps of
    one read each.
    """
    assert _num_epochs(make_recipe(tmp_path, **train).train, batches) == expected
