"""The cache of frames and features: nothing is made twice, nothing stale or damaged is read, the
limit holds.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import write_clip
from policies import make_frames, policy
from tiny_world import KINDS, adapter_weights, make_pairs, make_recipe, open_run

from dpo_video.core.errors import UserError
from dpo_video.models.clip_source import (
    ClipSource,
    EncodedClip,
    read_features,
    tower_identity,
    write_features,
)
from dpo_video.models.load import load_policy
from dpo_video.recipe import VideoSettings
from dpo_video.store import RunStore
from dpo_video.train.stage import train
from dpo_video.video import ClipRequest, FramePool
from dpo_video.video.cache import (
    DiskCache,
    entry_head,
    frames_identity,
    read_frames_entry,
    write_frames,
)

MIB = 1 << 20


def requests(qwen: Path) -> list[ClipRequest]:
    return [ClipRequest(key=f"c{number}.mp4", video=qwen / f"c{number}.mp4") for number in range(3)]


@contextmanager
def source(kind: Any, settings: VideoSettings, cache: DiskCache | None) -> Iterator[ClipSource]:
    with ClipSource(policy(kind), settings, cache=cache) as made:
        yield made


def read_all(made: ClipSource, qwen: Path) -> list[EncodedClip]:
    return [
        made.encode(clip) for _, clip in made.map(requests(qwen)) if not isinstance(clip, UserError)
    ]


def assert_same(one: EncodedClip, other: EncodedClip) -> None:
    assert torch.equal(one.features.embeddings, other.features.embeddings)
    assert one.features.embeddings.dtype == other.features.embeddings.dtype
    assert one.inputs.clip_inputs.keys() == other.inputs.clip_inputs.keys()
    assert all(
        torch.equal(tensor, other.inputs.clip_inputs[name])
        for name, tensor in one.inputs.clip_inputs.items()
    )
    assert (one.inputs.expansions, one.inputs.typed, one.frames_dropped) == (
        other.inputs.expansions,
        other.inputs.typed,
        other.frames_dropped,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode, decoded, encoded", [("frames", 0, 3), ("features", 0, 0)])
def test_a_second_reader_makes_nothing_that_is_kept_and_gets_the_same(
    kind: Any, mode: str, decoded: int, encoded: int, qwen: Path, tmp_path: Path
) -> None:
    settings = VideoSettings(num_frames=6, workers=1, max_tokens=80, cache=mode)
    with source(kind, settings, None) as plain:
        expected = read_all(plain, qwen)
        assert plain.counts == {"decoded": 3, "encoded": 3}
    with source(kind, settings, DiskCache(tmp_path, limit=MIB * 64)) as first:
        for one, other in zip(read_all(first, qwen), expected, strict=True):
            assert_same(one, other)
    with source(kind, settings, DiskCache(tmp_path, limit=MIB * 64)) as second:
        for one, other in zip(read_all(second, qwen), expected, strict=True):
            assert_same(one, other)
        assert (second.counts["decoded"], second.counts["encoded"]) == (decoded, encoded)


@pytest.mark.parametrize("mode", ["frames", "features"])
def test_training_is_the_same_with_a_cache_and_needs_no_tower_after_its_reference(
    mode: str, qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass over the reference fills the cache; the three epochs and another run's then decode
    nothing.
    """
    plain, kept = (
        make_recipe(qwen, name="plain"),
        make_recipe(qwen, name=mode, video={"cache": mode}),
    )
    made = {"decoded": 0, "encoded": 0}
    read, encode = FramePool.read, ClipSource.encode

    def count_read(self: FramePool, request: ClipRequest) -> Any:
        made["decoded"] += 1
        return read(self, request)

    def count_encode(self: ClipSource, clip: Any) -> EncodedClip:
        made["encoded"] += clip.features is None
        return encode(self, clip)

    monkeypatch.setattr(FramePool, "read", count_read)
    monkeypatch.setattr(ClipSource, "encode", count_encode)
    for recipe in (plain, kept):
        made.update(decoded=0, encoded=0)
        with RunStore(recipe.run_folder) as store:
            train(open_run(recipe, store, qwen, make_pairs()))
    assert made == {"decoded": 3, "encoded": 3 if mode == "features" else 12}
    weights = [adapter_weights(recipe.run_folder / "adapter") for recipe in (plain, kept)]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


@pytest.mark.parametrize("mode", ["frames", "features"])
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_entry_is_made_again_and_counted(
    mode: str, damage: str, qwen: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = VideoSettings(num_frames=6, workers=1, cache=mode)
    with source("qwen2_5_vl", settings, DiskCache(tmp_path, limit=MIB * 64)) as first:
        expected = read_all(first, qwen)
    for path in tmp_path.glob("*/*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    cache = DiskCache(tmp_path, limit=MIB * 64)
    with source("qwen2_5_vl", settings, cache) as second:
        for one, other in zip(read_all(second, qwen), expected, strict=True):
            assert_same(one, other)
        assert second.counts["decoded"] == 3
    assert cache.counts == {"corrupt": 3, "written": 3}
    assert "is damaged" in caplog.text
    with source("qwen2_5_vl", settings, DiskCache(tmp_path, limit=MIB * 64)) as third:
        read_all(third, qwen)
        assert third.counts["decoded"] == 0


def test_a_clip_that_cannot_be_read_is_not_kept(qwen: Path, tmp_path: Path) -> None:
    gone = ClipRequest(key="gone.mp4", video=qwen / "gone.mp4")
    cache = DiskCache(tmp_path, limit=MIB)
    with source("qwen2_5_vl", VideoSettings(cache="frames", workers=1), cache) as made:
        ((_, clip),) = made.map([gone])
    assert isinstance(clip, UserError) and not cache.counts


def test_each_setting_and_the_file_determine_the_frames_kept(qwen: Path, tmp_path: Path) -> None:
    """Two clips of one name, size and time of change in different folders differ too: their ends
    are hashed.
    """
    settings = VideoSettings()
    first, second = tmp_path / "a" / "clip.mp4", tmp_path / "b" / "clip.mp4"
    for number, path in enumerate((first, second)):
        path.parent.mkdir()
        path.write_bytes(bytes([number]) * 1000)
        os.utime(path, ns=(10**18, 10**18))
    request = ClipRequest(key="k", video=first)
    asked = [
        (request, settings, 1),
        (request, settings, 2),
        (replace(request, video=second), settings, 1),
        (replace(request, start=1.0), settings, 1),
        (replace(request, end=1.0), settings, 1),
        (replace(request, video=(first, second)), settings, 1),
    ]
    changes = {
        "policy": "fps",
        "num_frames": 3,
        "fps": 1.0,
        "min_frames": 1,
        "max_frames": 5,
        "change": 0.2,
        "decode_size": "model",
        "backend": "decord",
    }
    asked += [
        (request, settings.model_copy(update={name: value}), 1) for name, value in changes.items()
    ]
    names = [str(frames_identity(one, video, multiple_of=step)) for one, video, step in asked]
    os.utime(first, ns=(10**18 + 1, 10**18 + 1))
    names.append(str(frames_identity(request, settings, multiple_of=1)))
    assert len(set(names)) == len(names)
    unlike = set(VideoSettings.model_fields) - set(changes)
    unlike -= {"sound"}  # counts for models that hear, see test_sound.py
    later = {"min_pixels", "max_pixels", "cap_pixels", "max_tokens", "reserve_tokens"}
    assert unlike - later == {
        "preset",
        "workers",
        "timeout",
        "max_clip_gb",
        "cache",
        "cache_gb",
        "cache_folder",
    }


def test_each_part_of_the_tower_determines_the_features_kept() -> None:
    model, settings = policy("qwen2_5_vl"), VideoSettings()
    changed = [
        replace(model, revision="other"),
        replace(model, dtype=torch.bfloat16),
        replace(model, device=torch.device("meta")),
        replace(model, family=replace(model.family, name="x")),
        replace(model, settings=model.settings.model_copy(update={"attention": "eager"})),
    ]
    names = ("min_pixels", "max_pixels", "cap_pixels", "max_tokens", "reserve_tokens")
    sizes = [settings.model_copy(update={name: 60000}) for name in names]
    made = [str(tower_identity(one, settings)) for one in (model, *changed)]
    made += [str(tower_identity(model, one)) for one in sizes]
    assert len(set(made)) == len(made)


def test_how_far_the_context_is_stretched_determines_the_features_kept_where_clips_fill_it() -> (
    None
):
    """Under `fit` a longer context takes more frames; the checkpoint and all settings of frames are
    the same.
    """
    plain, fit = VideoSettings(), VideoSettings(policy="fit", reserve_tokens=16)
    settings = policy("llava_next_video").settings
    models = [
        load_policy(settings.model_copy(update={"rope_factor": factor})) for factor in (None, 2.0)
    ]
    assert len({str(tower_identity(model, fit)) for model in models}) == 2
    assert len({str(tower_identity(model, plain)) for model in models}) == 1


def test_frames_and_features_come_back_exactly() -> None:
    frames = replace(make_frames(5, seconds_apart=0.7), note="why")
    again = read_frames_entry(write_frames(frames))
    assert np.array_equal(again.pixels, frames.pixels) and np.array_equal(again.times, frames.times)
    assert (again.indices, again.fps, again.note, again.total_frames) == (
        frames.indices,
        frames.fps,
        "why",
        frames.total_frames,
    )
    model = policy("llava_next_video", dtype="bfloat16")
    with ClipSource(model, VideoSettings()) as made:
        from dpo_video.models.features import encode_video
        from dpo_video.models.prompts import video_inputs

        inputs = video_inputs(model, frames, VideoSettings())
        clip = EncodedClip(
            inputs=replace(inputs, pixels={}),
            features=encode_video(model, inputs),
            frames_dropped=2,
        )
        assert made.counts == {}
    assert_same(read_features(write_features(clip)), clip)
    assert clip.features.embeddings.dtype == torch.bfloat16


def test_what_a_killed_writer_left_is_never_read_and_goes_after_an_hour(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    young, old = tmp_path / "ab" / ".young", tmp_path / "ab" / ".old"
    for path in (young, old):
        path.write_bytes(bytes(100))
    os.utime(old, (time.time() - 4000, time.time() - 4000))
    cache = DiskCache(tmp_path, limit=1000)
    assert cache.get("ab", len) is None
    assert young.exists() and not old.exists()


def test_a_disk_that_refuses_costs_the_entry_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = DiskCache(tmp_path, limit=1000)
    (tmp_path / "ab").write_text("a file where the folder should be")
    cache.put("ab1", b"x")
    cache.put("ab2", b"x")
    assert cache.get("ab1", len) is None
    assert cache.counts == {"not_written": 2, "not_read": 1}
    assert caplog.text.count("cannot write") == caplog.text.count("cannot read") == 1


def test_an_entry_in_the_place_of_another_is_damaged_and_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = DiskCache(tmp_path, limit=1000)
    cache.put("ab1", b"one")
    cache.put("ab2", b"two")
    shutil.copy(tmp_path / "ab" / "ab1", tmp_path / "ab" / "ab2")
    assert cache.get("ab2", bytes) is None
    assert cache.get("ab1", bytes) == b"one"
    assert cache.counts["corrupt"] == 1
    assert "ab2 is damaged (it is the entry of another clip or setting)" in caplog.text
    assert not (tmp_path / "ab" / "ab2").exists()


def test_a_pipe_or_a_folder_in_the_place_of_an_entry_is_not_waited_for(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, limit=1000)
    (tmp_path / "ab").mkdir()
    os.mkfifo(tmp_path / "ab" / "ab1")
    (tmp_path / "ab" / "ab2").mkdir()
    assert cache.get("ab1", bytes) is None
    assert cache.get("ab2", bytes) is None
    assert cache.counts == {"not_read": 2}


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot make the cache .*video\.cache_folder"):
        DiskCache(tmp_path / "file" / "cache", limit=1)


WRITER = """
import hashlib, random, sys
from pathlib import Path
from dpo_video.video.cache import DiskCache

def whole(data):
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise ValueError("torn")
    return True

cache = DiskCache(Path(sys.argv[1]), limit=40_000)
chance = random.Random(sys.argv[2])
for _ in range(300):
    name = f"{chance.randrange(30):02}"
    if cache.get(name, whole) is None:
        body = chance.randbytes(4000)
        cache.put(name, hashlib.sha256(body).digest() + body)
assert not cache.counts["corrupt"] and not cache.counts["not_written"], cache.counts
assert cache.counts["evicted"] and cache.counts["hits"], cache.counts
"""


def test_processes_share_a_cache_and_none_reads_a_torn_entry(tmp_path: Path) -> None:
    """30 entries of 4 kB in 40 kB, written by all under the same names: hits, misses and evictions
    cross.
    """
    with ThreadPoolExecutor(3) as threads:
        done = list(
            threads.map(
                lambda seed: subprocess.run(
                    [sys.executable, "-c", WRITER, str(tmp_path), str(seed)],
                    capture_output=True,
                    text=True,
                    check=False,
                ),
                range(3),
            )
        )
    assert [one.returncode for one in done] == [0, 0, 0], [one.stderr for one in done]
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*")) <= 40_000 * (
        1 + 3 / 20
    ) + 3 * (4032 + len(entry_head("00")))


def test_more_clips_than_may_wait_for_the_disk_are_all_written(tmp_path: Path) -> None:
    for number in range(9):
        write_clip(tmp_path / f"n{number}.mp4", 4 + number, rate=2)
    asked = [ClipRequest(key=str(number), video=tmp_path / f"n{number}.mp4") for number in range(9)]
    settings = VideoSettings(num_frames=4, workers=2, cache="features")
    cache = DiskCache(tmp_path / "cache", limit=MIB)
    with source("qwen2_5_vl", settings, cache) as made:
        for _, clip in made.map(asked):
            made.encode(clip)  # type: ignore[arg-type]
    assert cache.counts["written"] == 9
