"""The store of a run that others use too: their rows are common, their stages are not."""

from pathlib import Path

import pytest

from dpo_video.core.errors import UserError
from dpo_video.store import RunStore


def test_runs_share_rows_and_the_lock_and_not_what_is_about_their_stages(tmp_path: Path) -> None:
    shared = tmp_path / "r"
    with RunStore(shared / "rounds" / "1", shared=shared) as store:
        store.put("judgment", "k", {"score": 4})
        store.put(store.own("finished_with"), "train", {"beta": 0.1})
        store.finish("train", fingerprint="f", seconds=1.0, summary={})
        with pytest.raises(UserError, match="is in use by process"), RunStore(shared):
            pass
    with RunStore(shared / "rounds" / "2", shared=shared) as store:
        assert store.get("judgment", ["k"]) == {"k": {"score": 4}}
        assert store.get(store.own("finished_with"), ["train"]) == {}
        assert store.finished("train") is None
    with RunStore(shared / "rounds" / "1", shared=shared) as store:
        assert store.finished("train") is not None
        assert store.get(store.own("finished_with"), ["train"]) == {"train": {"beta": 0.1}}
    assert {path.name for path in (shared / "rounds").iterdir()} == {"1", "2"}
    assert not list((shared / "rounds").rglob("*.sqlite"))
