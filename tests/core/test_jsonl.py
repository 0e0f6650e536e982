"""Records as JSONL: strict reading with file and line, atomic writing."""

import json
import os
from pathlib import Path

import pytest

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import as_row, read_jsonl, read_object, read_places, to_json, write_jsonl
from dpo_video.core.records import Judgment, Sample

GOOD = {"id": "a", "video": "a.mp4", "prompt": "What?", "caption": "A cat."}


def lines(path: Path, *rows: object) -> Path:
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return path


def test_records_survive_a_round_trip(tmp_path: Path) -> None:
    samples = [
        Sample(id="a", video="a.mp4", prompt="p", caption='\u00e4 "quoted"\nline', start=1.5),
        Sample(id="b", video=["1.jpg", "2.jpg"], prompt="p", caption="c", answer="yes"),
        Sample(id="c", video="a.mp4", prompt="p", caption="a character in two halves: \U0001f415"),
    ]
    write_jsonl(tmp_path / "s.jsonl", samples)
    assert list(read_jsonl(tmp_path / "s.jsonl", Sample)) == samples


def test_an_unscored_judgment_keeps_its_null_score() -> None:
    judgment = Judgment(
        candidate_id="a#0",
        scorer="s@1",
        judge="j",
        score=None,
        status="unscored",
        reason="r",
        reply="",
    )
    assert json.loads(to_json(judgment))["score"] is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GOOD, "captoin": "x"}, "s.jsonl:2: unknown field `captoin`. Did you mean 'caption'?"),
        (
            {key: GOOD[key] for key in ("id", "video", "caption")},
            "s.jsonl:2: missing `prompt`. Every sample needs it",
        ),
        ({**GOOD, "video": 5}, "s.jsonl:2: `video` must be a string in quotes or a list, got 5"),
        (
            {**GOOD, "answer_kind": "number"},
            "s.jsonl:2: `answer_kind` must be 'text' or 'letter' or 'yes_no', got 'number'",
        ),
        (
            {**GOOD, "options": {"A": "a cat"}},
            "s.jsonl:2: `options` must be a list or null, got {'A': 'a cat'}",
        ),
        ({**GOOD, "start": "1"}, "s.jsonl:2: `start` must be a number or null, got '1'"),
        ('{"id": ', "s.jsonl:2: not JSON"),
        (
            json.dumps({**GOOD, "start": float("nan")}),
            "s.jsonl:2: not JSON (NaN is no number of JSON; leave the field out",
        ),
        ("[1]", "s.jsonl:2: expected one JSON object a line, got '[1]'"),
        (
            json.dumps(GOOD)[:-1] + ', "id" : "b"}',
            "s.jsonl:2: not JSON (the key 'id' stands twice at column 1)",
        ),
        (
            json.dumps(GOOD)[:-1] + ', "start": ' + "9" * 5000 + "}",
            "s.jsonl:2: not JSON of ours (Exceeds the limit",
        ),
        ({**GOOD, "start": "x" * 5000}, "xxx.. (5,002 characters)"),
        ("[" * 100_000, "s.jsonl:2: not JSON"),
        ('{"id": ' * 100_000, "s.jsonl:2: not JSON"),
        ({**GOOD, "start": 1e999}, "s.jsonl:2: not JSON (Infinity is no number of JSON"),
        (json.dumps(GOOD)[:-1] + ', "start": 1e999}', "s.jsonl:2: `start` must be a finite number"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, row: object, message: str) -> None:
    path = lines(tmp_path / "s.jsonl", GOOD, row)
    with pytest.raises(UserError) as error:
        list(read_jsonl(path, Sample))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GOOD, "start": True}, "`start` must be a number or null, got True"),
        (
            {**GOOD, "video": ["a.jpg", 1]},
            "`video` must be a string in quotes or a list, got ['a.jpg', 1]",
        ),
        ({**GOOD, "prompt": None}, "`prompt` must be a string in quotes, got None"),
    ],
)
def test_a_wrong_line_among_many_right_ones_of_its_shape_is_named(
    tmp_path: Path, row: object, message: str
) -> None:
    right = [
        {**GOOD, "start": 1},
        {**GOOD, "start": 1.5},
        {**GOOD, "start": None},
        {**GOOD, "video": ["1.jpg"]},
    ]
    path = lines(tmp_path / "s.jsonl", *right, *right, row)
    with pytest.raises(UserError) as error:
        list(read_jsonl(path, Sample))
    assert str(error.value) == f"{path}:9: {message}"


def test_a_value_with_the_name_of_a_field_is_no_second_field(tmp_path: Path) -> None:
    rows = [{**GOOD, "prompt": "id", "caption": 'What is "id"? "id": NaN, Infinity'}]
    path = lines(tmp_path / "s.jsonl", *rows)
    assert [sample.prompt for sample in read_jsonl(path, Sample)] == ["id"]


def test_a_record_with_a_number_that_json_lacks_is_not_written(tmp_path: Path) -> None:
    judgment = Judgment(
        candidate_id="a#0",
        scorer="s",
        judge="j",
        score=float("nan"),
        status="",
        reason="",
        reply="",
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_jsonl(tmp_path / "j.jsonl", [judgment])
    text = json.dumps({**as_row(judgment), "score": 1.0, "details": {"noise": float("inf")}})
    (tmp_path / "j.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"j\.jsonl:1: not JSON \(Infinity is no number"):
        list(read_jsonl(tmp_path / "j.jsonl", Judgment))


@pytest.mark.parametrize("text", ["\\ud83d\\udc15", "\\u0000", "1e5", "\u00e9"])
def test_all_that_json_allows_is_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(
        json.dumps(GOOD)[:-1] + ', "answer": "' + text + '", "end": 1e3, "start": -0.0}\n'
    )
    assert list(read_jsonl(path, Sample)) == [
        Sample(**GOOD, answer=json.loads(f'"{text}"'), end=1000.0, start=-0.0)
    ]  # type: ignore[arg-type]


def test_half_a_surrogate_pair_is_read_as_what_files_can_hold(tmp_path: Path) -> None:
    """Around it a whole pair, and a second half that stands first."""
    path = tmp_path / "s.jsonl"
    path.write_text(
        json.dumps({**GOOD, "prompt": "\U0001f415 \ud83d \udc15\ud83d", "caption": "\xe9"}) + "\n"
    )
    read = list(read_jsonl(path, Sample))
    assert (read[0].prompt, read[0].caption) == ("\U0001f415 \ufffd \ufffd\ufffd", "\xe9")
    write_jsonl(path, read)
    assert list(read_jsonl(path, Sample)) == read


def test_a_file_from_a_windows_editor_is_read(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    text = f"{json.dumps(GOOD)}\r\n\r\n{json.dumps({**GOOD, 'id': 'second'})}\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [record.id for record in read_jsonl(path, Sample)] == [GOOD["id"], "second"]
    data = path.read_bytes()
    for begin, record in read_places(path, Sample):
        assert json.loads(data[begin:].splitlines()[0])["id"] == record.id


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a JSONL file of Sample records"):
        list(read_jsonl(tmp_path / "none.jsonl", Sample))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    sample = Sample(**GOOD)  # type: ignore[arg-type]
    write_jsonl(path, [sample])

    def breaks():  # type: ignore[no-untyped-def]
        yield sample
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_jsonl(path, breaks())
    assert list(read_jsonl(path, Sample)) == [sample]
    assert [file.name for file in tmp_path.iterdir()] == ["s.jsonl"]


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o027, 0o640), (0o022, 0o644)])
def test_who_may_read_a_file_the_umask_says(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_jsonl(tmp_path / "new" / "s.jsonl", [Sample(**GOOD)])  # type: ignore[arg-type]
    finally:
        os.umask(before)
    (written,) = (tmp_path / "new").iterdir()
    assert written.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1,\n "b": }', ":2: not JSON (Expecting value)"),
        (b'{"a": 1,\n\n "b": NaN}', ":3: not JSON (NaN is no number of JSON"),
        (b'{"a": {},\n "b": -Infinity}', ":2: not JSON (-Infinity is no number of JSON"),
        (b'{"a": 1,\n "a": 2}', ":1: not JSON (the key 'a' stands twice)"),
        (b'{"a": ' * 100_000, ": not JSON of ours: it is nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", ": not JSON of ours (Exceeds the limit"),
        (b"\xff{}", ": not UTF-8 text (byte 0)"),
        (b"[]", ":1: expected one JSON object, got '[]'"),
        (b"", ":1: not JSON (Expecting value)"),
    ],
)
def test_a_file_that_is_no_json_object_is_named(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(text)
    with pytest.raises(UserError) as error:
        read_object(path)
    assert str(error.value).startswith(f"{path}{message}")
