"""The bench for GPUs on the CPU, at a size that shows only that it runs from end to end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _tables(text: str) -> dict[str, list[list[str]]]:
    """Return the rows of each table by its title, without its head."""
    tables: dict[str, list[list[str]]] = {}
    title = ""
    for line in text.splitlines():
        if line.startswith("**"):
            title = line.strip("*")
            tables[title] = []
        elif line.startswith("| ") and title:
            tables[title].append([cell.strip() for cell in line.strip("|").split("|")])
    return {title: rows[1:] for title, rows in tables.items()}


def test_one_command_measures_all_parts_and_writes_their_tables(tmp_path: Path) -> None:
    out = tmp_path / "tables.md"
    options = ["--device", "cpu", "--size", "tiny", "--tokens", "64", "--minutes", "60", "--out"]
    done = subprocess.run(
        ["bash", "scripts/bench_gpu.sh", *options, str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    tables = _tables(out.read_text())
    assert list(tables) == ["Training step", "Generation and judge", "Largest clip of a pair"]
    sides = [(row[0], row[2]) for row in tables["Training step"]]
    assert sides == [
        (weights, side)
        for weights in ("fp32", "nf4")
        for side in ("stock TRL", "plain rows, SDPA", "trees")
    ]
    sides = [(row[0], row[2]) for row in tables["Generation and judge"]]
    assert sides == [
        *(
            (weights, f"generate, {side}")
            for weights in ("fp32", "nf4")
            for side in ("stock", "by rows", "on trees")
        ),
        ("fp32", "judge, stock"),
        ("fp32", "judge, on trees"),
    ]
    for _, _, side, seconds, ratio, peak, predicted in [
        *tables["Training step"],
        *tables["Generation and judge"],
    ]:
        assert float(seconds) > 0 and peak.endswith("MiB") and ratio.endswith("x"), side
        assert ("stock" not in side) or ratio == "1.00x"
        assert bool(predicted) == (side in ("trees", "generate, on trees")), side
    assert [row[:2] for row in tables["Largest clip of a pair"]] == [
        ["fp32", "80 GB"],
        ["nf4", "24 GB"],
        ["nf4", "80 GB"],
    ]


def test_the_largest_clip_fits_and_the_next_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from bench.case import Case, make_spec  # type: ignore[import-not-found]
    from bench.memory import FREE, largest_clip, predicted_total  # type: ignore[import-not-found]

    def case(video_tokens: int) -> Case:
        return Case(video_tokens=video_tokens, questions=1, answers=2, size="tiny")

    spec = make_spec(case(256))
    tokens = largest_clip(case(256), spec, gib=0.25)
    assert 256 < tokens < 60000
    assert predicted_total(case(tokens), spec) <= FREE * 0.25
    assert predicted_total(case(tokens + 256), spec) > FREE * 0.25
