"""Candidates and judgments as Parquet shards."""

import hashlib
import json

import pyarrow.parquet
import pytest
from judge_runs import exported, judge_command, write_run
from judge_server import (
    failure,
    judge_server,
    make_items,
    steady,
)

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Judgment
from dpo_video.formats import parquet as shards
from dpo_video.formats.parquet import write_parquet


def test_shards_hold_what_the_exports_hold_and_the_manifest_comes_last(tmp_path):
    items = make_items(7, 3)
    faults = {"s1": failure(400, "bad")}
    with judge_server(
        lambda prompt, n: faults["s1"] if "(1)" in prompt else steady(prompt, n)
    ) as server:
        recipe = write_run(tmp_path, items, server.url, retries=0)
        done = judge_command(recipe, "--parquet", str(tmp_path / "out"))
        assert done.returncode == 0, done.stderr
    assert f"parquet: candidates 21, judgments 21; {tmp_path / 'out'}" in done.stdout
    folder = tmp_path / "runs" / "r"
    assert write_parquet(folder, tmp_path / "out", shard_rows=8) == {
        "candidates": 21,
        "judgments": 21,
    }
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    table = manifest["tables"]["judgments"]
    assert [shard["rows"] for shard in table["shards"]] == [8, 8, 5] and table["rows"] == 21
    assert (
        table["schema"]["score"] == "double"
        and table["schema"]["distribution"] == "map<string, double>"
    )
    rows = []
    for shard in table["shards"]:
        content = (tmp_path / "out" / shard["file"]).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (
            shard["sha256"],
            shard["bytes"],
        )
        read = pyarrow.parquet.ParquetFile(tmp_path / "out" / shard["file"])
        assert read.metadata.row_group(0).column(0).compression == "ZSTD"
        rows += read.read().to_pylist()
    written = exported(recipe)
    assert [(row["candidate_id"], row["score"], row["reply"]) for row in rows] == [
        (row.candidate_id, row.score, row.reply) for row in written
    ]
    assert sum(row.score is None for row in written) == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir())[-1] == "manifest.json"
    assert len(list((tmp_path / "out").iterdir())) == 7
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        write_parquet(folder, tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").exists()


def test_label_probabilities_and_missing_values_keep_their_types(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "GROUP_ROWS", 2)
    rows = [
        Judgment(
            candidate_id=f"s#{n}",
            scorer="x@1",
            judge="m",
            score=None if n == 2 else n / 2,
            status="scored",
            reason="",
            reply="Ja.",
            distribution={"A": 0.25, "B": 0.75} if n % 2 else None,
        )
        for n in range(5)
    ]
    write_jsonl(tmp_path / "judgments.jsonl", rows)
    write_jsonl(tmp_path / "candidates.jsonl", [])
    assert write_parquet(tmp_path, tmp_path / "out") == {"candidates": 0, "judgments": 5}
    read = pyarrow.parquet.read_table(tmp_path / "out" / "judgments-00000.parquet").to_pylist()
    assert [row["score"] for row in read] == [0.0, 0.5, None, 1.5, 2.0]
    assert [row["distribution"] and dict(row["distribution"]) for row in read] == [
        row.distribution for row in rows
    ]
