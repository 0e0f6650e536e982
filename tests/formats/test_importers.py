"""Data in: each format as its project documents it, drops counted, errors by line, and the
commands.
"""

import csv
import json
import re
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from format_rows import ASKED, BAD, COLUMNS, FROM, GOOD, ROWS, TURN, imported, write_rows
from policies import tiny_folder
from typer.testing import CliRunner

from dpo_video.benchmarks.sets import BENCHMARKS
from dpo_video.cli.app import app
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Judgment, Sample
from dpo_video.data.votes import texts_hash
from dpo_video.formats.importers import IMPORTERS
from dpo_video.pair.build import build_pairs
from dpo_video.pipeline import do_stages
from dpo_video.recipe import PairSettings, Recipe
from dpo_video.run import open_run
from dpo_video.stages import stages_of


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Return a file of the question that ids of answers mean: v1_0_1 may be a question as well."""
    write_jsonl(
        tmp_path / "samples.jsonl",
        [Sample(id="v1_0", video="clips/v1", prompt=ASKED, caption="A woman.")],
    )
    return tmp_path / "samples.jsonl"


@pytest.fixture
def captions(tmp_path: Path) -> str:
    rows = [
        {
            "id": "v1",
            "video": "elsewhere/v1",
            "conversations": [FROM, {"from": "gpt", "value": "A woman cooks."}],
        }
    ]
    return write_rows(tmp_path / "captions.jsonl", rows)


ROW_FORMATS = [name for name, importer in IMPORTERS.items() if importer.read is not None]
"""All but the benchmarks, which tests/benchmarks reads."""


def test_every_importer_has_a_fixture():
    assert set(ROWS) == set(ROW_FORMATS)
    assert set(IMPORTERS) - set(ROW_FORMATS) == set(BENCHMARKS)


@pytest.mark.parametrize("name", ROW_FORMATS)
def test_each_format_is_read_as_its_project_writes_it(name, root, captions, samples, tmp_path):
    columns = COLUMNS if name == "table" else {}
    report, records = imported(
        name,
        write_rows(tmp_path / "in.jsonl", ROWS[name]),
        tmp_path / "out.jsonl",
        root=root,
        captions=captions if IMPORTERS[name].kind in ("samples", None) else None,
        samples=samples if name == "hound_judgments" else None,
        columns=columns,
    )
    assert (report.num_rows, report.dropped) == (len(ROWS[name]), {})
    first = records[0]
    if report.kind == "pairs":
        assert (first.prompt, first.chosen, first.rejected) == (ASKED, GOOD, BAD)
    elif report.kind == "samples":
        assert (first.prompt, first.answer, first.caption) == (ASKED, GOOD, "A woman cooks.")
    elif report.kind == "votes":
        assert (first.preferred_id, first.texts) == ("v1_0#0", texts_hash(GOOD, BAD))
    if report.kind in ("pairs", "samples"):
        wanted = (
            ["clips/a.jpg"]
            if name == "rlaif_v"
            else "clips/v1.mp4"
            if "v1.mp4" in str(ROWS[name])
            else "clips/v1"
        )
        assert first.video == wanted


def test_what_formats_have_beyond_a_pair_is_kept(root, tmp_path):
    _, (pair,) = imported(
        "hound_pairs", write_rows(tmp_path / "h.jsonl", ROWS["hound_pairs"]), tmp_path / "o.jsonl"
    )
    assert (pair.chosen_score, pair.rejected_score, pair.sample_id) == (5.0, 2.0, "v1_0")
    _, pairs = imported(
        "vista_dpo", write_rows(tmp_path / "v.jsonl", ROWS["vista_dpo"]), tmp_path / "o.jsonl"
    )
    assert [(pair.sample_id, pair.rejected) for pair in pairs] == [
        ("star/CSLEP", BAD),
        ("star/CSLEP.2", "She sleeps."),
    ]
    assert pairs[1].extra == {
        name: ROWS["vista_dpo"][0][name] for name in ("bbox", "clip_w", "clip_l", "frame")
    }
    row = {
        "messages": [TURN, {"role": "assistant", "content": GOOD}],
        "videos": ["clips/v1.mp4"],
        "rejected_videos": ["clips/v2.mp4"],
    }
    _, (pair,) = imported(
        "ms_swift", write_rows(tmp_path / "s.jsonl", [row]), tmp_path / "o.jsonl", root=root
    )
    assert (pair.chosen, pair.rejected, pair.rejected_video) == (GOOD, GOOD, "clips/v2.mp4")


def test_imported_candidates_and_judgments_go_through_pair(captions, samples, tmp_path):
    """The reply with a number but no verdict line is unscored: the peer's parser gave it 2."""
    made = {
        name: imported(
            name,
            write_rows(tmp_path / f"{name}.jsonl", ROWS[name]),
            tmp_path / f"{name}.out.jsonl",
            captions=captions if name == "hound_qa" else None,
            samples=samples if name == "hound_judgments" else None,
        )[1]
        for name in ("hound_qa", "hound_predictions", "hound_judgments")
    }
    asked, candidates, judgments = made.values()
    assert [(row.candidate_id, row.score, row.status) for row in judgments] == [
        ("v1_0#0", 5.0, "scored"),
        ("v1_0#1", None, "unscored"),
    ]
    worse = Judgment(
        candidate_id="v1_0#1",
        scorer=judgments[0].scorer,
        judge="j",
        score=1.0,
        status="scored",
        reason="",
        reply="",
    )
    paired = build_pairs(
        asked,
        candidates,
        [judgments[0], worse],
        settings=PairSettings(rule="hound"),
        threshold=3.0,
        seed=0,
    )
    assert [(pair.chosen, pair.rejected) for pair in paired.pairs] == [(GOOD, BAD)]


PAIR = ROWS["hound_pairs"][0]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**PAIR, "rejected": GOOD}, "chosen equals rejected"),
        ({**PAIR, "rejected": " <video> "}, "empty answer"),
        ({**PAIR, "prompt": "<video>\n"}, "empty question"),
        ({**PAIR, "video": "clips/none.mp4"}, "no such video"),
        ({**PAIR, "video": "../root2/v.mp4"}, "video outside the root"),
        ({**PAIR, "video": "/etc/passwd"}, "video outside the root"),
        ({**PAIR, "video": "https://example.org/v.mp4"}, "remote video"),
        ({**PAIR, "video": ["a.mp4", "b.mp4"]}, "several videos"),
        (
            {key: value for key, value in PAIR.items() if key != "video"} | {"image": "a.jpg"},
            "image, no video",
        ),
    ],
)
def test_what_cannot_be_used_is_dropped_counted_and_written_down(row, reason, root, tmp_path):
    source = write_rows(tmp_path / "in.jsonl", [PAIR, {**row, "id": "other"}, PAIR])
    report, records = imported("hound_pairs", source, tmp_path / "out.jsonl", root=root)
    assert report.dropped == {reason: 1, "pair stands twice": 1}
    assert len(records) == report.num_kept == 1
    drops = [json.loads(line) for line in report.drops_path.read_text().splitlines()]
    assert [drop["where"] for drop in drops] == [f"{source}:2", f"{source}:3"]


def test_conversations_with_instructions_or_a_clip_in_a_later_turn_are_dropped(tmp_path):
    answer = {"role": "assistant", "content": GOOD}
    rows = [
        {"messages": [{"role": "system", "content": "Be brief."}, TURN, answer]},
        {"messages": [TURN, answer, TURN, answer]},
        {"messages": [TURN, answer]},
    ]
    rows = [{**row, "videos": ["a.mp4"], "rejected_response": BAD} for row in rows]
    report, _ = imported(
        "ms_swift", write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    )
    assert report.dropped == {"system prompt": 1, "clip in a later turn": 1}


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("hound_pairs", {"id": "x", "video": "v"}, "no `prompt` in it; it has: id, video"),
        ("hound_pairs", {**PAIR, "chosen": 5}, "`chosen` must be a text, got '5'"),
        ("hound_pairs", {**PAIR, "chosen_score": "good"}, "`chosen_score` must be a number"),
        ("ms_swift", {"messages": [{"role": "robot", "content": "x"}]}, "unknown role 'robot'"),
        ("ms_swift", {"messages": "hello"}, "`messages` must be a list of turns"),
        ("table", {"file": "v"}, "no column 'question'"),
    ],
)
def test_a_row_of_another_format_stops_with_file_and_line_or_is_counted(name, row, said, tmp_path):
    options = {"columns": COLUMNS} if name == "table" else {}
    source = write_rows(tmp_path / "in.jsonl", [*ROWS[name], row])
    with pytest.raises(UserError, match=r"in\.jsonl:2: ") as caught:
        imported(name, source, tmp_path / "out.jsonl", **options)
    assert said in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()
    report, _ = imported(name, source, tmp_path / "out.jsonl", skip_bad=True, **options)
    assert report.dropped == {"not of the format": 1}


def test_the_same_rows_come_from_every_kind_of_file(tmp_path):
    rows = [{**PAIR, "id": str(number)} for number in range(3)]
    write_rows(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    with (tmp_path / "a.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    found = [
        imported("hound_pairs", str(tmp_path / name), tmp_path / "out.jsonl")[1]
        for name in ("a.jsonl", "a.json", "a.csv", "a.parquet", "saved")
    ]
    assert all(records == found[0] for records in found)
    assert len(found[0]) == 3


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"id": 1}\n{"id"', ":2: not JSON"),
        ("a.jsonl", "5\n", ":1: expected a JSON object"),
        ("a.json", '[{"id": "1"}, ', "not JSON after row"),
        ("a.csv", "a,b\n1\n", "a.csv:2: 2 columns are named"),
        ("a.parquet", "PAR", "not a Parquet file"),
        ("a.txt", "x", "the end of its name tells nothing"),
        ("a.csv", b"a,b\ncaf\xe9,1\n", "a.csv: not UTF-8 text"),
        ("a.jsonl", b'{"a": "\xe9"}\n', "not UTF-8 text"),
        ("a.jsonl", "", "it has no rows"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        imported("table", str(tmp_path / name), tmp_path / "out.jsonl", skip_bad=True)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_a_byte_order_mark_is_read_over(name, tmp_path):
    row = {"prompt": ASKED, "video": "v.mp4", "chosen": GOOD, "rejected": BAD}
    text = {
        "a.json": json.dumps([row]),
        "a.jsonl": json.dumps(row),
        "a.csv": f"prompt,video,chosen,rejected\n{ASKED},v.mp4,{GOOD},{BAD}",
    }[name]
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    _, pairs = imported("table", str(tmp_path / name), tmp_path / "out.jsonl")
    assert [(pair.prompt, pair.chosen) for pair in pairs] == [(ASKED, GOOD)]


def test_a_table_keeps_which_part_of_a_file_is_meant(tmp_path):
    head = "prompt,video,chosen,rejected,caption,begin,stop\n"
    (tmp_path / "p.csv").write_text(
        head + "a?,v.mp4,x,y,c,1.5,4\nb?,v.mp4,x,y,c,,\nc?,v.mp4,x,y,c,3,2\n"
    )
    columns = {"start": "begin", "end": "stop"}
    report, pairs = imported(
        "table", str(tmp_path / "p.csv"), tmp_path / "out.jsonl", columns=columns
    )
    assert [(pair.start, pair.end) for pair in pairs] == [(1.5, 4.0), (None, None)]
    assert report.dropped == {"clip ends before it starts": 1}
    (tmp_path / "s.csv").write_text("prompt,video,caption,start\na?,v.mp4,c,2\n")
    _, samples = imported("table", str(tmp_path / "s.csv"), tmp_path / "out2.jsonl")
    assert [(sample.start, sample.end) for sample in samples] == [(2.0, None)]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "table",
            {"columns": {"rejeced": "bad"}},
            "unknown field in --map 'rejeced'. Did you mean 'rejected'?",
        ),
        ("trl", {"columns": {"prompt": "question"}}, "--map is for the format `table`"),
        ("trl", {"captions": "c.jsonl"}, "--captions is for formats of samples; trl has pairs"),
        (
            "table",
            {"samples": Path("s.jsonl")},
            "--samples is for formats of candidates and judgments, and table is of",
        ),
    ],
)
def test_an_option_that_the_format_would_not_read_is_refused(name, options, said, tmp_path):
    with pytest.raises(UserError, match=re.escape(said)):
        imported(name, str(tmp_path / "a.jsonl"), tmp_path / "out.jsonl", **options)


def test_an_import_never_overwrites_what_it_reads(tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text(
        json.dumps({"prompt": ASKED, "video": "v.mp4", "chosen": GOOD, "rejected": BAD})
    )
    before = source.read_text()
    with pytest.raises(UserError, match="which is read: name another file"):
        imported("table", str(source), tmp_path / "." / "a.jsonl")
    assert source.read_text() == before


def test_captions_that_are_missing_from_the_command_are_asked_for(tmp_path):
    rows = [{"id": "1", "video": "v", "conversations": [FROM, {"from": "gpt", "value": GOOD}]}]
    source = write_rows(tmp_path / "q.json", rows)
    with pytest.raises(
        UserError, match=r"no caption \(1\); give the captions with --captions FILE"
    ):
        imported("hound_qa", source, tmp_path / "o.jsonl")


def test_clips_of_one_name_with_other_captions_are_told_apart_by_their_paths(tmp_path):
    source = write_rows(
        tmp_path / "c.jsonl",
        [{"video": f"{folder}/x.mp4", "caption": f"It is {folder}."} for folder in "ab"],
    )
    rows = [
        {"id": video, "video": video, "prompt": ASKED}
        for video in ("a/x.mp4", "b/x.mp4", "c/x.mp4")
    ]
    report, samples = imported(
        "table", write_rows(tmp_path / "q.jsonl", rows), tmp_path / "o.jsonl", captions=source
    )
    assert [sample.caption for sample in samples] == ["It is a.", "It is b."]
    assert report.dropped == {"no caption": 1}


def test_the_commands_import_list_and_train_on_what_was_imported(root, tmp_path):
    """Two of three rows are usable; a run on them only pairs and trains."""
    rows = [{**ROWS["ms_swift"][0], "id": str(n), "videos": [f"clips/v{n}.mp4"]} for n in (1, 2, 3)]
    source, out = write_rows(tmp_path / "swift.jsonl", rows), tmp_path / "pairs.jsonl"
    runner = CliRunner()
    done = runner.invoke(
        app,
        ["import", "ms_swift", source, "--out", str(out), "--video-root", str(root)],
        catch_exceptions=False,
    )
    assert "3 rows read, 2 pairs kept; dropped: no such video 1" in done.output
    listed = runner.invoke(app, ["list", "formats"], catch_exceptions=False).output
    assert all(f"import {name}" in listed for name in IMPORTERS) and "export trl" in listed
    recipe = Recipe.model_validate(
        {
            "name": "given",
            "runs_folder": str(tmp_path),
            "model": {"name": str(tiny_folder("qwen2_5_vl"))},
            "data": {"pairs": str(out), "video_root": str(root)},
            "judge": {"model": "none"},
            "video": {"num_frames": 2, "workers": 1},
            "train": {"max_steps": 1},
            "tracking": {"to": "none"},
        }
    )
    assert stages_of(recipe) == ["pair", "train"]
    with open_run(recipe) as run:
        assert do_stages(run, stages_of(recipe)) == ["pair", "train"]
    with open_run(recipe) as run:
        assert do_stages(run, stages_of(recipe)) == []
    assert (tmp_path / "given" / "adapter" / "adapter_config.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import", "ms_swfit", "x"], "Did you mean 'ms_swift'?"),
        (["import", "trl", "none.jsonl"], "no file at"),
        (["import", "table", "x", "--map", "prompt"], "write it as our_field=column"),
        (["export", "trl", "none"], "no run folder 'none'"),
    ],
)
def test_mistakes_are_users_errors(arguments, said, tmp_path):
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "o.jsonl")])
    assert isinstance(result.exception, UserError)
    assert said in str(result.exception)
