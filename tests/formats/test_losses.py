"""What a foreign row says beyond a question, a clip and answers: kept, or dropped with the reason,
never passed over in silence.
"""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clips import write_clip
from format_rows import ASKED, BAD, FROM, GOOD, ROWS, TURN, imported, write_rows
from typer.testing import CliRunner

from dpo_video.cli.app import app
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import Pair, Sample
from dpo_video.formats.export_run import ExportSource, export_run
from dpo_video.formats.exporters import EXPORTERS
from dpo_video.formats.rows import read_foreign_rows

ANSWER = {"role": "assistant", "content": GOOD}
WITH_PICTURE = ["hound_pairs", "llava_next", "qwen_vl_finetune", "llama_factory", "ms_swift"]


def reasons(name: str, row: dict[str, Any], folder: Path) -> dict[str, int]:
    """Return why a row is dropped that stands behind one that is not."""
    good = {**ROWS[name][0], "id": "good"}
    source = write_rows(folder / "in.jsonl", [good, {**row, "id": "other"}])
    report, _ = imported(name, source, folder / "out.jsonl")
    return dict(report.dropped)


@pytest.mark.parametrize("field", ["image", "images"])
@pytest.mark.parametrize("name", [*WITH_PICTURE, "trl", "vista_dpo"])
def test_a_picture_beside_the_clip_drops_the_row(name, field, tmp_path):
    row = {**ROWS[name][0], field: "a.jpg" if field == "image" else ["a.jpg"]}
    dropped = reasons(name, row, tmp_path)
    assert dropped["images beside the video"] == 1


@pytest.mark.parametrize("name", ["llama_factory", "ms_swift", "trl"])
@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("system", "Answer in French.", "system prompt"),
        ("tools", '[{"name": "zoom"}]', "tools"),
        ("audios", ["a.wav"], "sound beside the video"),
    ],
)
def test_what_changes_the_question_drops_the_row(name, field, value, reason, tmp_path):
    assert reasons(name, {**ROWS[name][0], field: value}, tmp_path)[reason] == 1


@pytest.mark.parametrize("name", ["llama_factory", "ms_swift"])
def test_the_clips_own_sound_is_no_sound_beside_it(name, tmp_path):
    """A row that names its clip once more as a sound, as `use_audio_in_video` has it."""
    row = ROWS[name][0]
    turns = "conversations" if name == "llama_factory" else "messages"
    key = "value" if name == "llama_factory" else "content"
    asked, *others = row[turns]
    tagged = {**asked, key: asked[key].replace("<video>", "<video><audio>")}
    assert "<audio>" in tagged[key]
    own = {**row, turns: [tagged, *others], "audios": list(row["videos"])}
    _, (plain,) = imported(name, write_rows(tmp_path / "a.jsonl", [row]), tmp_path / "a.out.jsonl")
    _, (heard,) = imported(name, write_rows(tmp_path / "b.jsonl", [own]), tmp_path / "b.out.jsonl")
    assert heard.prompt == plain.prompt == ASKED and heard.video == plain.video
    other = {**own, "audios": ["a.wav"]}
    assert reasons(name, other, tmp_path)["sound beside the video"] == 1


@pytest.mark.parametrize("field", ["system", "tools", "images", "history"])
def test_an_empty_field_changes_nothing(field, tmp_path):
    assert reasons("ms_swift", {**ROWS["ms_swift"][0], field: []}, tmp_path) == {}


def test_a_system_turn_of_questions_drops_the_row(tmp_path):
    answer = {"from": "gpt", "value": GOOD}
    row = {"video": "v1", "caption": "A woman cooks."}
    system = {"from": "system", "value": "Answer with a letter."}
    rows = [
        {**row, "id": "a", "conversations": [system, FROM, answer]},
        {**row, "id": "b", "conversations": [FROM, answer]},
    ]
    source = write_rows(tmp_path / "in.jsonl", rows)
    report, samples = imported("hound_qa", source, tmp_path / "out.jsonl")
    assert [(sample.id, sample.prompt) for sample in samples] == [("b", ASKED)]
    assert report.dropped == {"system prompt": 1}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("hound_pairs", {"start": 0.5, "end": 1.5}),
        ("hound_pairs", {"video_start": 0.5, "video_end": "1.5"}),
        ("ms_swift", {"chat_template_kwargs": {"video_start": 0.5, "video_end": 1.5}}),
        ("ms_swift", {"videos": [{"path": "v.mp4", "video_start": 0.5, "video_end": 1.5}]}),
        ("llama_factory", {"start": 0.5, "end": 1.5}),
        ("trl", {"start": 0.5, "end": 1.5}),
    ],
)
def test_the_part_of_a_file_that_is_meant_is_kept(name, more, tmp_path):
    source = write_rows(tmp_path / "in.jsonl", [{**ROWS[name][0], **more}])
    _, (pair,) = imported(name, source, tmp_path / "out.jsonl")
    assert (pair.start, pair.end) == (0.5, 1.5)


def test_a_part_that_no_file_has_drops_the_row(tmp_path):
    pair = ROWS["hound_pairs"][0]
    assert reasons("hound_pairs", {**pair, "start": -1}, tmp_path) == {
        "clip starts before its file": 1
    }
    assert reasons("hound_pairs", {**pair, "start": 2, "end": 2}, tmp_path) == {
        "clip ends before it starts": 1
    }


def test_more_tags_than_clips_drop_the_row_but_not_one_a_frame(tmp_path):
    question = "<video>First. <video>Second. Which is longer?"
    row = {**ROWS["ms_swift"][0], "messages": [{**TURN, "content": question}, ANSWER]}
    assert reasons("ms_swift", row, tmp_path) == {"several clips in the question": 1}
    frames = {**row, "videos": [["1.jpg", "2.jpg"]]}
    _, (pair,) = imported("ms_swift", write_rows(tmp_path / "f.jsonl", [frames]), tmp_path / "o")
    assert pair.prompt == "First. Second. Which is longer?"


def test_fields_that_nothing_reads_are_told(tmp_path):
    rows = [{**ROWS["hound_pairs"][0], "id": str(n), "fps": 2, "note": ""} for n in range(3)]
    source = write_rows(tmp_path / "in.jsonl", rows)
    report, _ = imported("hound_pairs", source, tmp_path / "out.jsonl")
    assert report.unread == {"answer": 3, "fps": 3}
    arguments = ["import", "hound_pairs", source, "--out", str(tmp_path / "out.jsonl")]
    printed = CliRunner().invoke(app, arguments, catch_exceptions=False).output
    assert "not read, by field (rows): answer (3), fps (3)" in printed


def test_trl_rows_with_a_text_prompt_and_answers_as_messages(tmp_path):
    row = {"prompt": ASKED, "video": "v.mp4", "chosen": [ANSWER]}
    row["rejected"] = [{**ANSWER, "content": BAD}]
    _, (pair,) = imported("trl", write_rows(tmp_path / "in.jsonl", [row]), tmp_path / "out.jsonl")
    assert (pair.prompt, pair.chosen, pair.rejected) == (ASKED, GOOD, BAD)


def test_trl_clips_inside_the_parts_of_a_turn(tmp_path):
    clip = {"type": "video", "video": "v.mp4"}
    parts = [clip, {"type": "text", "text": ASKED}]
    answers = {"chosen": [ANSWER], "rejected": [{**ANSWER, "content": BAD}]}
    row = {"prompt": [{"role": "user", "content": parts}], **answers}
    _, (pair,) = imported("trl", write_rows(tmp_path / "in.jsonl", [row]), tmp_path / "out.jsonl")
    assert (pair.video, pair.prompt) == ("v.mp4", ASKED)
    both = {**row, "prompt": [{"role": "user", "content": [clip, *parts]}]}
    picture = {**row, "prompt": [{"role": "user", "content": [{"type": "image"}, *parts]}]}
    assert reasons("trl", both, tmp_path) == {"several videos": 1}
    assert reasons("trl", picture, tmp_path) == {"image in a turn": 1}


def test_ms_swift_rows_of_the_older_form(tmp_path):
    row = {"query": f"<video>{ASKED}", "response": GOOD, "rejected_response": BAD}
    row |= {"videos": ["v.mp4"], "history": []}
    source = write_rows(tmp_path / "in.jsonl", [row])
    _, (pair,) = imported("ms_swift", source, tmp_path / "out.jsonl")
    assert (pair.prompt, pair.chosen, pair.rejected) == (ASKED, GOOD, BAD)


@pytest.mark.parametrize("column", ["video", "videos"])
@pytest.mark.parametrize("kind", ["saved", "parquet", "streamed"])
def test_video_columns_of_hugging_face_are_paths(kind, column, tmp_path):
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "v.mp4", 8)
    text = datasets.Value("string")
    columns = {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]}
    clip, feature = str(tmp_path / "clips" / "v.mp4"), datasets.Video()
    dataset = datasets.Dataset.from_dict(
        {**columns, column: [clip if column == "video" else [clip]]},
        features=datasets.Features(
            **dict.fromkeys(columns, text),
            **{column: feature if column == "video" else datasets.List(feature)},
        ),
    )
    (tmp_path / "data").mkdir()
    source = str(tmp_path / ("saved" if kind == "saved" else "data/rows.parquet"))
    if kind == "saved":
        dataset.save_to_disk(source)
    else:
        dataset.to_parquet(source)
    if kind == "streamed":
        source = f"hf:{tmp_path / 'data'}"
    _, (pair,) = imported("trl", source, tmp_path / "out.jsonl", root=tmp_path / "clips")
    assert pair.video == "v.mp4"


def test_a_clip_inside_a_row_is_dropped_and_not_copied(tmp_path):
    pair = ROWS["hound_pairs"][0]
    for video in ("data:video/mp4;base64,AAAA", "QUJD" * 5000):
        assert reasons("hound_pairs", {**pair, "video": video}, tmp_path) == {
            "video inside the row": 1
        }
        assert (tmp_path / "out.drops.jsonl").stat().st_size < 400
    columns = {name: [value] for name, value in pair.items()}
    table = pa.table({**columns, "video": [{"bytes": b"x", "path": None}]})
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(UserError, match=r"video inside the row \(1\)"):
        imported("hound_pairs", str(tmp_path / "in.parquet"), tmp_path / "out.jsonl")


def test_a_file_address_of_this_machine_is_a_path(tmp_path):
    write_clip(tmp_path / "a b.mp4", 8)
    row = {**ROWS["hound_pairs"][0], "video": (tmp_path / "a b.mp4").as_uri()}
    source = write_rows(tmp_path / "in.jsonl", [row])
    _, (pair,) = imported("hound_pairs", source, tmp_path / "out.jsonl", root=tmp_path)
    assert pair.video == "a b.mp4"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "[" + "[" * 100_000 + "]" * 100_000 + "]"),
        ("a.json", '[{"a": ' + "[" * 100_000),
        ("a.json", '[{"a": ' + "[" * 500 + "]" * 500 + "}]"),
        ("a.jsonl", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}\n"),
        ("a.jsonl", '{"a": ' + "[" * 500 + "]" * 500 + "}\n"),
    ],
)
def test_a_row_is_refused_by_its_depth(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=r"(row 1|jsonl:1): nested deeper than 100 levels"):
        list(read_foreign_rows(str(tmp_path / name)))


def test_nan_in_a_list_stands_for_what_is_missing(tmp_path):
    (tmp_path / "a.json").write_text('[{"a": NaN, "b": [1.5, NaN]}]')
    assert [row for _, row in read_foreign_rows(str(tmp_path / "a.json"))] == [
        {"a": None, "b": [1.5, None]}
    ]


def test_a_list_longer_than_a_chunk_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("dpo_video.formats.json_list.CHUNK", 7)
    rows = [{"n": n, "text": 'a \\ " \u4e2d' * n, "list": [n, {"x": None}]} for n in range(20)]
    for text in (json.dumps(rows), json.dumps(rows, indent=2), json.dumps(rows) + "  \n"):
        (tmp_path / "a.json").write_text(text)
        assert [row for _, row in read_foreign_rows(str(tmp_path / "a.json"))] == rows
    for broken in (json.dumps(rows)[:-1], json.dumps(rows)[:-9], "[1 2]", '[{"a" 1}]'):
        (tmp_path / "a.json").write_text(broken)
        with pytest.raises(UserError, match=r"not JSON after row|expected a JSON object"):
            list(read_foreign_rows(str(tmp_path / "a.json")))


def test_damaged_parquet_is_told_in_one_line(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"q": [f"x{n}" * 20 for n in range(2000)], "n": range(2000)}), path)
    whole = path.read_bytes()
    failed = 0
    for place in range(4, len(whole), len(whole) // 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            assert sum(1 for _ in read_foreign_rows(str(path))) <= 2000
        except UserError as error:
            failed += 1
            assert str(error).startswith(f"{path}: not a Parquet file, or a damaged one")
            assert "\n" not in str(error)
    assert failed > 20


@pytest.mark.parametrize("name", [name for name, row in EXPORTERS.items() if row.of == "pairs"])
def test_space_and_tags_of_texts_come_back_as_they_were(name, tmp_path):
    texts = [("What?", "The <video> tag.", "The <image> tag."), (" What?\n", " green.", " red.\n")]
    pairs = [
        Pair(
            sample_id=f"s{n}",
            video="v.mp4",
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
            source=name,
            chosen_id=f"s{n}#chosen",
            rejected_id=f"s{n}#rejected",
        )
        for n, (prompt, chosen, rejected) in enumerate(texts)
    ]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    source = ExportSource(folder=tmp_path, samples=lambda: [], threshold=3.0)
    export_run(name, source, tmp_path / "out.jsonl")
    _, again = imported(name, str(tmp_path / "out.jsonl"), tmp_path / "again.jsonl")
    assert again == pairs == list(read_jsonl(tmp_path / "pairs.jsonl", Pair))


def test_a_list_of_our_own_samples_becomes_jsonl_with_all_they_hold(tmp_path):
    rows = [
        {"id": "a", "video": "v.mp4", "prompt": ASKED, "caption": "A woman.", "start": 1.0},
        {"id": "b", "video": "v.mp4", "prompt": "Why?", "caption": "c", "meta": {"shot": 2}},
    ]
    (tmp_path / "samples.json").write_text(json.dumps(rows))
    report, samples = imported("table", str(tmp_path / "samples.json"), tmp_path / "out.jsonl")
    assert (report.num_kept, report.unread) == (2, {})
    assert samples == [Sample(**row) for row in rows]
