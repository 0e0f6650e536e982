"""Clips of pairs whose rejected answer goes with another clip: read once, measured, set aside."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from clips import write_clip
from negatives import with_negatives
from policies import policy as shared_policy
from tiny_world import made_trainer, make_pairs, make_recipe
from training import train_here

from dpo_video.core.errors import UserError
from dpo_video.core.records import Pair
from dpo_video.models.clip_source import ClipSource
from dpo_video.models.load import load_policy
from dpo_video.pair.video_negatives import add_negatives
from dpo_video.recipe import Recipe, VideoSettings
from dpo_video.train.micro_batches import forward_tokens, pair_costs
from dpo_video.train.pair_batches import PairBatch, pair_rows, tokenize_pair
from dpo_video.train.prefetch import ClipPrefetcher
from dpo_video.train.reference import ReferenceLogps
from dpo_video.train.sampler import ClipSampler
from dpo_video.train.selection import read_selection, select_pairs, without_clips
from dpo_video.video import (
    clip_key,
    clip_request,
    rejected_clip_key,
    rejected_clip_request,
)
from dpo_video.video.cache import DiskCache


def read_all(
    world: Path, pairs: Sequence[Pair], recipe: Recipe | None = None
) -> tuple[PairBatch, int]:
    """Return all pairs as one batch, and how many clips were decoded for it."""
    recipe = make_recipe(world) if recipe is None else recipe
    order = ClipSampler(
        [clip_key(pair) for pair in pairs],
        rejected_clips=[rejected_clip_key(pair) for pair in pairs],
        batch_size=len(pairs),
        seed=recipe.seed,
    )
    with made_trainer(world, recipe, pairs, order=order) as (trainer, reader):
        batch = trainer._read(next(iter(trainer.order)))
        assert batch is not None
        return batch, reader._source.counts["decoded"]


def test_a_clip_is_decoded_once_for_all_its_corruptions(qwen: Path) -> None:
    batch, decoded = read_all(qwen, with_negatives(6, ["shuffle", "reverse", "drop"]))
    assert (len(batch.pairs), len(batch.clips), decoded) == (6 + 18, 3 + 9, 3)


def test_tokens_of_a_forward_count_both_clips_of_a_pair(qwen: Path) -> None:
    """The slow way: every token of every row by the path to it."""
    batch, _ = read_all(qwen, with_negatives(6))
    nodes, rows = set(), pair_rows(batch, batch.features)
    for row, clip in zip(rows, [*batch.clip_of_pair, *batch.rejected_clip_of_pair], strict=True):
        ids = [*row.prompt.input_ids.tolist(), *row.answer]
        prompt = len(row.prompt.input_ids)
        nodes |= {(clip, tuple(ids[: place + 1])) for place in range(prompt)}
        nodes |= {
            (clip, tuple(ids[:prompt]), row.answer, place) for place in range(len(row.answer))
        }
    assert forward_tokens(pair_costs(batch), shared=True) == len(nodes)
    assert forward_tokens(pair_costs(batch), shared=False) == len(rows) * max(map(len, rows))


def test_one_stream_of_clips_serves_all_epochs_and_a_jump_costs_one_restart(qwen: Path) -> None:
    class Counted(ClipSource):
        starts = 0

        def map(self, requests):  # type: ignore[no-untyped-def]
            self.starts += 1
            return super().map(requests)

    pairs = with_negatives(7)
    requests = {rejected_clip_key(pair): rejected_clip_request(pair, qwen) for pair in pairs}
    requests |= {clip_key(pair): clip_request(pair, qwen) for pair in pairs}
    order = ClipSampler(
        [clip_key(pair) for pair in pairs],
        rejected_clips=[rejected_clip_key(pair) for pair in pairs],
        batch_size=2,
        seed=3,
    )
    order.num_epochs = 3
    with Counted(shared_policy("qwen2_5_vl"), make_recipe(qwen).video) as source:
        reader = ClipPrefetcher(
            source, requests, order.clips_ahead, on_bad_clip=lambda clip, error: pytest.fail(clip)
        )

        def read(begin: int = 0) -> None:
            for place in order.positions()[begin:]:
                visit = tuple(dict.fromkeys((order.clips[place], order.rejected_clips[place])))
                assert None not in reader.get(visit)

        for epoch in range(3):
            order.set_epoch(epoch)
            read()
        assert source.starts == 1
        order.set_epoch(1)
        for begin in (15, 20):
            starts = source.starts
            read(begin)
            assert source.starts == starts + 1


def test_a_pair_with_a_control_token_is_left_out_and_told_by_its_line(
    qwen: Path, caplog: pytest.LogCaptureFixture
) -> None:
    closed, header, plain = make_pairs(3)
    pairs = [
        replace(closed, chosen=closed.chosen + "<|im_end|>\n"),
        replace(header, rejected="<|im_start|>assistant\n" + header.rejected),
        plain,
    ]
    recipe = make_recipe(qwen)
    policy = load_policy(recipe.model)
    selection = select_pairs(
        policy, recipe, pairs, root=qwen, on_bad_clip=lambda clip, error: pytest.fail(clip)
    )
    assert selection.indices == [0, 2] and selection.dropped == {"control_token": 1}
    assert "pairs.jsonl:2: not trained on: <|im_start|> is a control token" in caplog.text
    as_it_was = tokenize_pair(policy, closed)
    assert as_it_was is not None and selection.pairs[0].chosen == as_it_was.chosen


def test_clips_of_both_rows_are_asked_for_measured_and_left_out(qwen: Path) -> None:
    """Under `fps` the second clip is longer, and is what decides."""
    pairs = add_negatives(make_pairs(3), ["other_clip", "reverse"], seed=3).pairs
    recipe = make_recipe(
        qwen, video={"policy": "fps", "fps": 2.0, "min_frames": 2, "max_frames": 30}
    )
    policy = load_policy(recipe.model)
    every = select_pairs(
        policy, recipe, pairs, root=qwen, on_bad_clip=lambda clip, error: pytest.fail(clip)
    )
    assert every.indices == list(range(9)) and len(every.requests) == 6
    again = read_selection(policy, pairs, root=qwen, indices=every.indices, dropped={})
    assert again.requests == every.requests and again.pairs == every.pairs
    batch, _ = read_all(qwen, pairs, recipe)
    rows = list(map(len, pair_rows(batch, batch.features)))
    lengths = dict(
        zip(
            (pair.pair.source + pair.clip for pair in batch.pairs),
            zip(rows[:9], rows[9:], strict=True),
            strict=True,
        )
    )
    assert lengths["video_other_clipc0.mp4"][0] * 2 < lengths["video_other_clipc0.mp4"][1]
    limit = sorted(map(max, lengths.values()))[4]
    short = recipe.model_copy(
        update={"train": recipe.train.model_copy(update={"max_length": limit})}
    )
    kept = select_pairs(
        policy, short, pairs, root=qwen, on_bad_clip=lambda clip, error: pytest.fail(clip)
    )
    fitting = [
        place
        for place, pair in enumerate(every.pairs)
        if max(lengths[pair.pair.source + pair.clip]) <= limit
    ]
    assert kept.indices == fitting and 0 < len(fitting) < 9
    assert kept.dropped == {"longer_than_max_length": 9 - len(fitting)}
    left = without_clips(every, {"c0.mp4#reverse"})
    assert len(left.pairs) == 8 and left.dropped == {"clip_failed_in_training": 1}


def test_equal_answers_are_a_pair_where_clips_differ_and_have_log_probs_of_their_own(
    qwen: Path,
) -> None:
    policy = shared_policy("qwen2_5_vl")
    pairs = with_negatives(2)
    tokens = [tokenize_pair(policy, pair) for pair in pairs]
    made = [pair for pair in tokens if pair is not None]
    assert len(made) == len(pairs)
    requests = {rejected_clip_key(pair): rejected_clip_request(pair, qwen) for pair in pairs}
    requests |= {clip_key(pair): clip_request(pair, qwen) for pair in pairs}
    reference = ReferenceLogps(policy, VideoSettings(), requests)
    first = made[1:5]
    assert len({reference.keys(pair)[0] for pair in first}) == 1
    assert len({key for pair in first for key in reference.keys(pair)}) == 5


@pytest.mark.parametrize("kept", ["frames", "features"])
def test_a_cache_tells_corruptions_apart(qwen: Path, tmp_path: Path, kept: str) -> None:
    pairs = with_negatives(1, ["shuffle", "reverse", "drop"])
    requests = [
        clip_request(pairs[0], qwen),
        *(rejected_clip_request(pair, qwen) for pair in pairs[1:]),
    ]
    policy, found = shared_policy("qwen2_5_vl"), []
    for cache in (None, DiskCache(tmp_path, limit=1 << 30), DiskCache(tmp_path, limit=1 << 30)):
        settings = VideoSettings(num_frames=6, workers=1, cache="none" if cache is None else kept)
        with ClipSource(policy, settings, cache=cache) as source:
            found.append(
                [source.encode(clip).features.embeddings for _, clip in source.map(requests)]
            )
            counts = source.counts
    assert counts["decoded"] == 0, "the last source finds all it needs"
    for one, other, third in zip(*found, strict=True):
        assert torch.equal(one, other) and torch.equal(one, third)
    assert len({embeddings.numpy().tobytes() for embeddings in found[0]}) == 4


def test_a_still_clip_costs_its_negative_is_told_and_counts_for_no_limit(qwen: Path) -> None:
    write_clip(qwen / "still.mp4", 1, rate=2)
    still = [
        Pair(
            sample_id="still",
            video="still.mp4",
            prompt="what ?",
            chosen="a red square",
            rejected="yes",
            source="test",
            chosen_id="a",
            rejected_id="b",
        )
    ]
    pairs = [*with_negatives(3, ["reverse"]), *add_negatives(still, ["reverse"], seed=0).pairs]
    summary, run = train_here(
        make_recipe(qwen, name="still", epochs=1, save_steps=100), qwen, pairs
    )
    assert list(run.bad_clips) == ["still.mp4#reverse"]
    assert run.bad_clips["still.mp4#reverse"].reason.endswith(
        "its 1 frames look the same after 'reverse' [unchanged]"
    )
    assert (summary["pairs"], summary["trained"]) == (8, 7), "all but the still clip's negative"
    assert summary["not_seen"] == {"pairs": 1, "clips": 1}


def test_an_unknown_corruption_stops_training_before_it_begins(qwen: Path) -> None:
    pair = Pair(
        sample_id="q7",
        video="c0.mp4",
        prompt="what ?",
        chosen="yes",
        rejected="yes",
        source="test",
        chosen_id="a",
        rejected_id="a",
        rejected_corruption="mirror",
    )
    with pytest.raises(
        UserError,
        match=r"rejected_corruption of the pair of sample 'q7': unknown corruption 'mirror'",
    ):
        train_here(make_recipe(qwen, name="mirror"), qwen, [pair])
