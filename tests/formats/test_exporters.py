"""Data out: round trips, what a format cannot say, best answers as SFT data, flat memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from format_rows import ASKED, BAD, GOOD, ROWS, imported

from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Candidate, Judgment, Pair, Sample
from dpo_video.formats.export_run import ExportSource, export_run
from dpo_video.formats.exporters import EXPORTERS


def make_run(folder: Path, pairs: list[Pair], samples: list[Sample] | None = None) -> ExportSource:
    write_jsonl(folder / "pairs.jsonl", pairs)
    return ExportSource(folder=folder, samples=lambda: samples or [], threshold=3.0)


@pytest.mark.parametrize("name", [name for name, row in EXPORTERS.items() if row.of == "pairs"])
def test_a_pair_exported_and_imported_again_is_the_same_pair(name, tmp_path):
    pairs = [
        Pair(
            sample_id=f"s{n}",
            video=f"v{n}.mp4",
            prompt=ASKED,
            chosen=f"{GOOD} {n}",
            rejected=BAD,
            chosen_score=4.5,
            rejected_score=None if n else 1.0,
            source=name,
            rejected_finish="length" if n == 1 else "stop",
            implicit_margin=0.5 if n == 2 else None,
            chosen_id=f"s{n}#chosen",
            rejected_id=f"s{n}#rejected",
        )
        for n in range(3)
    ]
    cut = Pair(
        **{
            **{field: getattr(pairs[0], field) for field in pairs[0].__slots__},
            "sample_id": "cut",
            "end": 2.0,
        }
    )
    made = export_run(name, make_run(tmp_path, [*pairs, cut]), tmp_path / "out.jsonl")
    assert (made.num_rows, made.dropped) == (3, {"part of a file": 1})
    _, again = imported(name, str(tmp_path / "out.jsonl"), tmp_path / "again.jsonl")
    export_run(name, make_run(tmp_path, pairs), tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == [
        json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()
    ], "a list for those who want one"
    assert again == pairs


def test_what_a_format_cannot_say_is_dropped_and_counted(tmp_path):
    frames = Pair(
        sample_id="f",
        video=["1.jpg", "2.jpg"],
        prompt=ASKED,
        chosen=GOOD,
        rejected=BAD,
        source="s",
        chosen_id="a",
        rejected_id="b",
    )
    other = Pair(
        sample_id="o",
        video="v.mp4",
        rejected_video="w.mp4",
        prompt=ASKED,
        chosen=GOOD,
        rejected=GOOD,
        source="s",
        chosen_id="a",
        rejected_id="b",
    )
    plain = Pair(
        sample_id="p",
        video="v.mp4",
        prompt=ASKED,
        chosen=GOOD,
        rejected=BAD,
        source="s",
        chosen_id="a",
        rejected_id="b",
    )
    backwards = Pair(
        sample_id="b",
        video="v.mp4",
        rejected_corruption="reverse",
        prompt=ASKED,
        chosen=GOOD,
        rejected=GOOD,
        source="s",
        chosen_id="a",
        rejected_id="a",
    )
    source = make_run(tmp_path, [frames, other, plain, backwards])
    corrupted = {"corrupted clip for the rejected answer": 1}
    assert export_run("hound_pairs", source, tmp_path / "h.jsonl").dropped == {
        "list of frames": 1,
        "another video for the rejected answer": 1,
        **corrupted,
    }
    assert export_run("trl", source, tmp_path / "t.jsonl").dropped == {
        "another video for the rejected answer": 1,
        **corrupted,
    }
    assert export_run("ms_swift", source, tmp_path / "m.jsonl").dropped == corrupted
    _, again = imported("ms_swift", str(tmp_path / "m.jsonl"), tmp_path / "again.jsonl")
    assert [pair.video for pair in again] == [["1.jpg", "2.jpg"], "v.mp4", "v.mp4"]
    assert again[1].rejected_video == "w.mp4"


def test_best_answers_are_the_highest_whole_ones_at_or_above_the_threshold(tmp_path):
    """s0: 4 beats 2, and the 5 was cut; s1: 2 is below 3; s2 has no score."""
    samples = [Sample(id=f"s{n}", video=f"v{n}.mp4", prompt=ASKED, caption="c") for n in range(3)]
    given = {
        "s0#0": (2.0, "stop"),
        "s0#1": (4.0, "stop"),
        "s0#2": (5.0, "length"),
        "s1#0": (2.0, "stop"),
        "s2#0": (None, "stop"),
    }
    write_jsonl(
        tmp_path / "candidates.jsonl",
        [
            Candidate(
                id=key,
                sample_id=key[:2],
                text=f"text {key}",
                model="m",
                settings="x",
                seed=0,
                finish=finish,
            )
            for key, (_, finish) in given.items()
        ],
    )
    write_jsonl(
        tmp_path / "judgments.jsonl",
        [
            Judgment(
                candidate_id=key,
                scorer="s",
                judge="j",
                score=score,
                status="scored" if score else "unscored",
                reason="",
                reply="",
            )
            for key, (score, _) in given.items()
        ],
    )
    made = export_run("sharegpt", make_run(tmp_path, [], samples), tmp_path / "best.jsonl")
    assert (made.num_rows, made.dropped) == (
        1,
        {"no whole answer with a score": 1, "best answer below the threshold": 1},
    )
    row = json.loads((tmp_path / "best.jsonl").read_text())
    assert row == {
        "id": "s0",
        "video": "v0.mp4",
        "score": 4.0,
        "conversations": [
            {"from": "human", "value": f"<video>\n{ASKED}"},
            {"from": "gpt", "value": "text s0#1"},
        ],
    }


CODE = """
import json, resource, sys
from pathlib import Path
from dpo_video.formats.import_file import ImportOptions, import_file
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
import_file("hound_pairs", sys.argv[1], Path(sys.argv[2]), ImportOptions())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)
"""


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """8 bytes of id and a set's slots are kept a row: 60,000 rows of 1 kB may take 12 MB, not their
    60 MB.
    """
    with (tmp_path / "big.jsonl").open("w") as file:
        for number in range(60_000):
            row = {
                **ROWS["hound_pairs"][0],
                "id": str(number),
                "chosen": f"{number} " + "word " * 200,
            }
            file.write(json.dumps(row) + "\n")
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "big.jsonl"), str(tmp_path / "out.jsonl")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) < 12_000, f"{done.stdout} kB"
