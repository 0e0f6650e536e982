"""Video negatives: which pairs are added, and what a corrupted clip shows."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from preferences import records

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, to_json, write_jsonl
from dpo_video.core.records import Pair
from dpo_video.pair.audit import audit, audit_row
from dpo_video.pair.stage import pair
from dpo_video.pair.video_negatives import NO_OTHER, add_negatives
from dpo_video.recipe import DataSettings, JudgeSettings, ModelSettings, PairSettings, Recipe
from dpo_video.run import open_run
from dpo_video.stages import fingerprint
from dpo_video.video import (
    Frames,
    VideoError,
    check_corruption,
    clip_key,
    corrupt,
    rejected_clip_key,
)

KINDS = ("shuffle", "reverse", "drop", "other_clip")


def frames_of(count: int) -> Frames:
    """Return frames of which each is filled with its number."""
    pixels = np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 6, 3)
    )
    return Frames(
        pixels=pixels,
        times=np.arange(count) / 2,
        indices=list(range(count)),
        fps=2.0,
        total_frames=count,
        duration=count / 2,
        backend="pyav",
    )


def shown(count: int, corruption: str) -> list[int]:
    """Return which frames a corrupted clip shows, at unchanged places."""
    before = frames_of(count)
    after = corrupt(before, corruption, "v.mp4")
    assert after.pixels.shape == before.pixels.shape and after.pixels.dtype == np.uint8
    assert (after.indices, after.fps, after.total_frames) == (
        before.indices,
        before.fps,
        before.total_frames,
    )
    assert (after.times == before.times).all()
    assert all((frame == frame[0, 0, 0]).all() for frame in after.pixels)
    return [int(frame[0, 0, 0]) for frame in after.pixels]


def a_pair(
    number: int, *, clip: int | None = None, score: float | None = 4.0, **fields: object
) -> Pair:
    return Pair(
        **{
            "sample_id": f"s{number}",
            "video": f"c{number if clip is None else clip}.mp4",
            "prompt": "what ?",
            "chosen": f"good {number} {score}",
            "rejected": "bad",
            "chosen_score": score,
            "rejected_score": 1.0,
            "source": "best_worst",
            "chosen_id": f"s{number}#0",
            "rejected_id": f"s{number}#1",
            **fields,
        }
    )  # type: ignore[arg-type]


@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_each_corruption_shows_what_it_says_and_never_the_clip_itself(
    count: int, seed: int
) -> None:
    order = shown(count, f"shuffle:{seed}")
    assert sorted(order) == list(range(count)) != order
    assert shown(count, "reverse") == list(range(count))[::-1]
    dropped = shown(count, f"drop:{seed}")
    first, last = dropped[0], dropped[-1]
    assert last - first + 1 == max(1, count // 5)
    assert dropped == [min(max(place, first), last) for place in range(count)]


def test_a_number_draws_the_same_order_again_and_another_one_another() -> None:
    assert shown(20, "shuffle:7") == shown(20, "shuffle:7") != shown(20, "shuffle:8")
    assert len({tuple(shown(20, f"drop:{seed}")) for seed in range(20)}) > 5


@pytest.mark.parametrize("corruption", ["reverse", "shuffle:1", "drop:1"])
def test_a_clip_that_looks_the_same_afterwards_is_refused(corruption: str) -> None:
    still = replace(frames_of(6), pixels=np.full((6, 4, 6, 3), 9, np.uint8))
    for frames in (still, frames_of(1)):
        with pytest.raises(
            VideoError, match=r"'v\.mp4': its \d frames look the same .*\[unchanged\]"
        ):
            corrupt(frames, corruption, "v.mp4")


@pytest.mark.parametrize(
    "corruption", ["", "shufle:1", "shuffle", "drop:", "reverse:1", "shuffle:-1", "drop:1.5"]
)
def test_an_unknown_corruption_is_refused_with_the_known_ones(corruption: str) -> None:
    with pytest.raises(
        UserError, match=r"row 3: unknown corruption .* Known: `reverse`, `shuffle:N` and `drop:N`"
    ):
        check_corruption(corruption, "row 3")


def test_a_question_gets_one_negative_of_each_kind_of_its_best_chosen_answer() -> None:
    pairs = [
        a_pair(0, score=3.0, rejected_finish="length", implicit_margin=0.5),
        a_pair(0, score=5.0),
        a_pair(1, start=1.0, end=2.5),
    ]
    made = add_negatives(pairs, KINDS, seed=4)
    assert [pair.source for pair in made.pairs] == [
        "best_worst",
        "best_worst",
        *(f"video_{kind}" for kind in KINDS),
        "best_worst",
        *(f"video_{kind}" for kind in KINDS),
    ]
    assert [pair for pair in made.pairs if pair.source == "best_worst"] == pairs
    assert made.counts == {f"video_{kind}": 2 for kind in KINDS} and made.dropped == {}
    for negative in made.pairs[2:6]:
        assert negative.chosen == negative.rejected == "good 0 5.0"
        assert negative.chosen_id == negative.rejected_id and negative.rejected_finish == "stop"
        assert (negative.chosen_score, negative.rejected_score, negative.implicit_margin) == (
            5.0,
            None,
            None,
        )
        assert clip_key(negative) == "c0.mp4" != rejected_clip_key(negative)
        check_corruption(negative.rejected_corruption or "reverse", "here")
    other = made.pairs[5]
    assert (other.rejected_video, other.rejected_start, other.rejected_end) == ("c1.mp4", 1.0, 2.5)
    assert rejected_clip_key(other) == clip_key(pairs[2])
    assert rejected_clip_key(made.pairs[7]).startswith("c1.mp4#t=1.0,2.5#shuffle:")


def test_negatives_depend_on_seed_and_clip_and_questions_about_a_clip_share_them() -> None:
    pairs = [a_pair(number, clip=number % 10) for number in range(20)]
    one, again, other = (add_negatives(pairs, KINDS, seed=seed).pairs for seed in (1, 1, 2))
    assert one == again != other
    clips = Counter(rejected_clip_key(pair) for pair in one if pair.rejected_corruption)
    assert len(clips) == 3 * 10 and set(clips.values()) == {2}
    assert len({pair.rejected_corruption for pair in one}) == 1 + 1 + 10 + 10, (
        "clips share no order of frames"
    )
    assert add_negatives(pairs, ["drop", "drop"], seed=1).counts == {"video_drop": 20}


def test_without_another_file_there_is_no_other_clip_and_pairs_that_have_one_get_none() -> None:
    parts = [a_pair(0, clip=0, start=0.0, end=1.0), a_pair(1, clip=0, start=1.0, end=2.0)]
    found = add_negatives(parts, ["other_clip"], seed=0)
    assert found.pairs == parts and found.counts == {} and found.dropped == {NO_OTHER: 2}
    imported = [a_pair(0, rejected_video="w.mp4"), a_pair(1, rejected_corruption="reverse")]
    assert add_negatives(imported, KINDS, seed=0).pairs == imported
    assert add_negatives(parts, [], seed=0).pairs == parts


def test_a_pair_writes_its_negative_clip_only_where_it_has_one(tmp_path: Path) -> None:
    pairs = add_negatives([a_pair(0), a_pair(1)], KINDS, seed=0).pairs
    assert "rejected_" not in to_json(pairs[0]).replace("rejected_score", "").replace(
        "rejected_id", ""
    )
    write_jsonl(tmp_path / "p.jsonl", pairs)
    assert list(read_jsonl(tmp_path / "p.jsonl", Pair)) == pairs


def recipe_of(folder: Path, kinds: list[str], **data: str) -> Recipe:
    return Recipe(
        name="r",
        runs_folder=str(folder),
        data=DataSettings(video_root=str(folder), **data),
        seed=3,
        model=ModelSettings(name="none"),
        judge=JudgeSettings(model="none"),
        pair=PairSettings(video_negatives=kinds),
    )


def test_the_stage_adds_them_counts_them_and_the_audit_leaves_them_out(tmp_path: Path) -> None:
    samples, candidates, judgments = records(
        {f"q{n}": [("yes", 5.0), ("no", 1.0), ("so", 3.0)] for n in range(4)}
    )
    write_jsonl(tmp_path / "s.jsonl", samples)
    found = []
    for kinds in ([], ["reverse", "other_clip"]):
        with open_run(recipe_of(tmp_path, kinds, samples=str(tmp_path / "s.jsonl"))) as run:
            write_jsonl(run.folder / "candidates.jsonl", candidates)
            write_jsonl(run.folder / "judgments.jsonl", judgments)
            found.append(
                (
                    pair(run).counts,
                    list(read_jsonl(run.folder / "pairs.jsonl", Pair)),
                    audit_row(audit(run.folder)),
                )
            )
    (plain, plain_pairs, plain_audit), (summary, pairs, audited) = found
    assert summary == {**plain, "video_negatives": {"video_reverse": 4, "video_other_clip": 4}}
    assert len(pairs) == 12 and [row for row in pairs if row.source == "best_worst"] == plain_pairs
    assert audited["counts"].pop("other_clip_pairs") == 8
    assert audited == plain_audit


def test_pairs_that_are_given_get_them_too_and_a_change_redoes_the_stage(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "p.jsonl", [a_pair(0), a_pair(1)])
    prints = []
    for kinds in ([], ["drop"]):
        with open_run(
            recipe_of(tmp_path, kinds, samples="", pairs=str(tmp_path / "p.jsonl"))
        ) as run:
            summary = pair(run).counts
            prints.append(fingerprint(run, "pair"))
    assert summary["pairs"] == 2 and summary["video_negatives"] == {"video_drop": 2}
    assert len(list(read_jsonl(run.folder / "pairs.jsonl", Pair))) == 4
    assert prints[0] != prints[1]
