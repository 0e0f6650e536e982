"""Clips that generation cannot read: set aside, counted, tried again."""

import shutil

import pytest
from clips import write_clip
from generation_runs import make_recipe, run_generate

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import Sample
from dpo_video.generate.stage import generate
from dpo_video.run import open_run


def broken_copy(data, folder):
    folder.mkdir()
    for path in data.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "2.mp4").write_bytes(b"this is no video at all")
    return folder


def test_a_clip_that_cannot_be_read_is_set_aside_counted_and_tried_again(data, tmp_path):
    folder = broken_copy(data, tmp_path / "data")
    recipe = make_recipe(tmp_path, folder, data={"max_bad_fraction": 0.4})
    counts, candidates = run_generate(recipe)
    assert (counts["bad_clips"], counts["samples_without"], counts["candidates"]) == (1, 2, 8)
    assert not [candidate for candidate in candidates if candidate.sample_id.startswith("2-")]
    write_clip(folder / "2.mp4", 20)
    counts, candidates = run_generate(recipe)
    assert (counts["bad_clips"], counts["samples_without"], counts["candidates"]) == (0, 0, 12)
    assert counts["reused"] == 8


def test_a_clip_that_may_be_read_next_time_leaves_the_stage_unfinished(data, tmp_path, monkeypatch):
    """A file that is not there yet, and one whose decoding process dies; a broken one is final."""
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    (folder / "1.mp4").rename(tmp_path / "away.mp4")
    recipe = make_recipe(tmp_path, folder, data={"max_bad_fraction": 1.0})
    with open_run(recipe) as run:
        result = generate(run)
    assert not result.complete
    assert result.incomplete_because.startswith("1 clip was not read this time, and may be")
    assert "no such file [not_found]" in result.incomplete_because

    (tmp_path / "away.mp4").rename(folder / "1.mp4")
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def hook(event, arguments):\n"
        f"    if event == 'open' and str(arguments[0]) == {str(folder / '1.mp4')!r}:\n"
        "        os.kill(os.getpid(), 9)\n"
        "if 'worker' in ' '.join(sys.orig_argv):\n"
        "    sys.addaudithook(hook)\n"
    )
    with monkeypatch.context() as patched, open_run(recipe) as run:
        patched.syspath_prepend(tmp_path)
        result = generate(run)
    assert "died (SIGKILL: out of memory?) [crashed]" in result.incomplete_because

    with open_run(recipe) as run:
        assert generate(run).complete
    (folder / "1.mp4").write_text("<html>")
    with open_run(recipe) as run:
        result = generate(run)
    assert result.complete and result.counts["bad_clips"] == 1


def test_too_many_bad_clips_stop_the_run_with_their_reasons(data, tmp_path):
    folder = broken_copy(data, tmp_path / "data")
    with pytest.raises(
        UserError, match=r"1 of 3 clips cannot be read, more than data.max_bad_fraction 0.05 allows"
    ):
        run_generate(make_recipe(tmp_path, folder))


def test_an_address_in_place_of_a_file_is_set_aside_with_its_own_reason(data, tmp_path):
    samples = [
        *read_jsonl(data / "samples.jsonl", Sample),
        Sample(id="far", video="https://example.org/a.mp4", prompt="?", caption="a film"),
    ]
    write_jsonl(tmp_path / "samples.jsonl", samples)
    recipe = make_recipe(
        tmp_path, tmp_path, data={"video_root": str(data), "max_bad_fraction": 0.5}
    )
    with open_run(recipe) as run:
        counts = generate(run).counts
        assert counts["samples_without"] == counts["bad_clips"] == 1
        assert "download it first" in run.bad_clips["https://example.org/a.mp4"].reason


def test_a_clip_over_the_token_budget_loses_frames_and_is_counted(data, tmp_path):
    """A 160 x 64 frame is 140 x 56 after resizing to multiples of 28: 10 tokens per step of two
    frames.
    """
    recipe = make_recipe(tmp_path, data, video={"num_frames": 8, "max_tokens": 25})
    counts, candidates = run_generate(recipe)
    assert (counts["clips_over_max_tokens"], counts["frames_dropped"]) == (3, 12), (
        "8 frames to 4, three times"
    )
    assert len(candidates) == 12
