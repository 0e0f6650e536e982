"""Values that real files hold: NaN of pandas, half characters, parts that are no objects, a dataset
that breaks off.
"""

import json

import pytest
from format_rows import imported_rows

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl
from dpo_video.core.records import Pair
from dpo_video.formats.import_file import ImportOptions, import_file

NAN, INFINITE = float("nan"), float("inf")
PAIR = {
    "id": "1",
    "video": "v1.mp4",
    "prompt": "What is she doing?",
    "chosen": "Cooking.",
    "rejected": "Sleeping.",
}
TURNS = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A cat."}]


def test_nan_stands_for_what_is_missing(tmp_path):
    row = {**PAIR, "id": NAN, "chosen_score": NAN, "rejected_score": 1.0, "start": NAN, "end": 2.0}
    _, (pair,) = imported_rows("table", [row], tmp_path)
    assert (pair.sample_id, pair.chosen_score, pair.rejected_score) == ("row1", None, 1.0)
    assert (pair.start, pair.end) == (None, 2.0)


def test_nan_is_no_number_in_a_csv_either(tmp_path):
    head = "video,prompt,chosen,rejected,chosen_score,end\n"
    (tmp_path / "in.csv").write_text(head + "v.mp4,What?,A cat.,A dog.,nan,NaN\n")
    import_file("table", str(tmp_path / "in.csv"), tmp_path / "out.jsonl", ImportOptions())
    (pair,) = read_jsonl(tmp_path / "out.jsonl", Pair)
    assert (pair.chosen_score, pair.end) == (None, None)


def test_nan_in_what_is_kept_beside_a_pair_becomes_null(tmp_path):
    _, (pair,) = imported_rows("vista_dpo", [{**PAIR, "clip_w": [0, NAN], "frame": NAN}], tmp_path)
    assert pair.extra == {"clip_w": [0, None]}


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        (
            "hound_pairs",
            {**PAIR, "chosen_score": INFINITE},
            "`chosen_score` must be a finite number, got 'inf'",
        ),
        ("table", {**PAIR, "start": -INFINITE}, "`start` must be a finite number, got '-inf'"),
        ("vista_dpo", {**PAIR, "clip_w": [INFINITE]}, "`clip_w` must be what JSON can hold"),
        (
            "ms_swift",
            {"messages": [{"role": "user", "content": ["hello"]}]},
            "the parts of a turn must be objects",
        ),
        (
            "ms_swift",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "the parts of a turn",
        ),
        ("ms_swift", {"messages": [{"role": ["user"], "content": "x"}]}, "unknown role ['user']"),
    ],
)
def test_a_value_that_no_row_of_the_format_has_is_named_or_counted(name, row, said, tmp_path):
    good = (
        {"messages": TURNS, "rejected_response": "A dog.", "videos": ["v.mp4"]}
        if name == "ms_swift"
        else PAIR
    )
    with pytest.raises(UserError) as error:
        imported_rows(name, [good, row], tmp_path)
    assert "in.jsonl:2: " in str(error.value) and said in str(error.value)
    report, _ = imported_rows(name, [good, row], tmp_path, skip_bad=True)
    assert report.dropped == {"not of the format": 1}


def test_half_a_character_becomes_the_sign_for_that(tmp_path):
    """A limit of tokens cuts an emoji in two; JSON can say the half, UTF-8 cannot, and no tokenizer
    takes it.
    """
    row = {
        "messages": [TURNS[0], {"role": "assistant", "content": "A cat \ud83d"}],
        "videos": ["v.mp4"],
        "rejected_response": "A dog \udc15.",
        "id": "\ud83d",
    }
    _, (pair,) = imported_rows("ms_swift", [row], tmp_path)
    assert (pair.chosen, pair.rejected, pair.sample_id) == (
        "A cat \ufffd",
        "A dog \ufffd.",
        "\ufffd",
    )


def test_a_dataset_that_breaks_off_says_where(tmp_path):
    """A file of the dataset ends in the middle of an object: `datasets` finds out while it
    streams.
    """
    (tmp_path / "data").mkdir()
    rows = "".join(json.dumps({**PAIR, "id": str(number)}) + "\n" for number in range(2))
    (tmp_path / "data" / "a.jsonl").write_text(rows)
    (tmp_path / "data" / "b.jsonl").write_text('{"id": \n')
    with pytest.raises(
        UserError, match=r"cannot read the dataset '.*data' past row 2: .*Check the name, the split"
    ):
        import_file(
            "hound_pairs", f"hf:{tmp_path / 'data'}", tmp_path / "out.jsonl", ImportOptions()
        )
