"""The recipe that workers of a Ray cluster get: each starts in a folder of its own."""

from pathlib import Path

import pytest
from tiny_world import make_recipe

from dpo_video.generate.ray import worker_recipe
from dpo_video.video.cache import cache_folder, open_cache


def test_workers_keep_clips_where_the_run_looks_for_them_or_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = make_recipe(tmp_path, video={"cache_folder": "kept"})
    untold = make_recipe(tmp_path, video={"cache": "auto"})
    assert (told.video.cache, told.video.cache_folder) == ("auto", "kept")
    here = cache_folder(told).absolute()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cache_folder(told).absolute() != here
    monkeypatch.chdir(tmp_path)
    sent, nothing = worker_recipe(told), worker_recipe(untold)
    monkeypatch.chdir(tmp_path / "elsewhere")
    cache = open_cache(sent)
    assert cache is not None and cache.folder == here
    assert open_cache(nothing) is None
