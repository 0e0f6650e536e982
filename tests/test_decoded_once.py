"""A whole run of the toy world: how often each clip is decoded and goes through the tower."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dpo_video.cli.app import app
from dpo_video.models.clip_source import ClipSource, EncodedClip, ReadyClip
from dpo_video.video import ClipRequest, FramePool

SMALL = [
    "data.limit=12",
    "data.heldout_limit=9",
    "generate.num_candidates=4",
    "train.epochs=2",
    "train.save_steps=100",
    "evaluate.pair_samples=9",
    "evaluate.bootstrap=50",
    "evaluate.sets=[]",
]
"""Questions about 4 clips, and about 3 that are held out."""
CLIPS = 4 + 3


class Work:
    """What was done for clips."""

    def __init__(self) -> None:
        self.decoded = Counter[str]()
        """How often, by the clip's name."""
        self.encoded = 0


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    done = Work()
    read, encode = FramePool.read, ClipSource.encode

    def counted_read(self: FramePool, request: ClipRequest) -> Any:
        done.decoded[request.key] += 1
        return read(self, request)

    def counted_encode(self: ClipSource, clip: ReadyClip, **how: Any) -> EncodedClip:
        done.encoded += clip.features is None
        return encode(self, clip, **how)

    monkeypatch.setattr(FramePool, "read", counted_read)
    monkeypatch.setattr(ClipSource, "encode", counted_encode)
    return done


def run(folder: Path, *settings: str) -> Path:
    words = ["run", "quickstart", f"runs_folder={folder}", *SMALL, *settings]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output[-3000:]
    return folder / "quickstart"


def test_by_default_a_run_decodes_and_encodes_each_clip_once(tmp_path: Path, work: Work) -> None:
    """Without a cache a clip is decoded in generate, for the reference and in each of two epochs;
    a held-out one for both models, and for the rewards of what was sampled. All answers are the
    same.
    """
    kept = run(tmp_path / "kept", "video.cache=auto")
    assert len(work.decoded) == CLIPS and set(work.decoded.values()) == {1}
    assert work.encoded == CLIPS
    cache = json.loads((kept / "manifest.json").read_text())["cache"]
    sizes = [path.stat().st_size for path in (kept / "cache").glob("*/*")]
    assert cache["folder"] == str(kept / "cache") and cache["clips"] == len(sizes) == CLIPS
    assert cache["gigabytes"] == sum(sizes) / 1e9

    work.decoded.clear()
    plain = run(tmp_path / "plain", "video.cache=none")
    trained = {json.loads(line)["video"] for line in (kept / "pairs.jsonl").open()}
    # less often where a clip ends one epoch and begins the next
    assert trained and {work.decoded[clip] for clip in trained} <= {3, 4}
    heldout = {name: count for name, count in work.decoded.items() if "heldout" in name}
    assert len(heldout) == 3 and set(heldout.values()) <= {2, 3}
    assert json.loads((plain / "manifest.json").read_text())["cache"] is None
    for name in ("candidates.jsonl", "pairs.jsonl", "answers.jsonl"):
        assert said(plain / name) == said(kept / name), name


def said(file: Path) -> list[dict[str, Any]]:
    """Return the texts and scores of a file; other rows name clips, which were written twice."""
    rows = map(json.loads, file.read_text().splitlines())
    names = ("text", "chosen", "rejected", "chosen_score", "rejected_score", "score")
    return [{name: row.get(name) for name in names} for row in rows]
