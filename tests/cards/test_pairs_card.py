"""What an export tells about itself, and the folder with clips, which `datasets` loads."""

import json
from pathlib import Path

import pytest
from card_runs import make_card_run
from datasets import Video, load_dataset
from huggingface_hub import DatasetCard
from typer.testing import CliRunner

from dpo_video.cli.app import app
from dpo_video.core.errors import UserError
from dpo_video.formats.exporters import EXPORTERS

VOTES = [name for name, row in EXPORTERS.items() if row.of == "votes"]


def export(*words: str) -> str:
    done = CliRunner().invoke(app, ["export", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Four pairs on two clips, whose names look like splits."""
    run = make_card_run(tmp_path)
    for number, name in enumerate(("train-0.mp4", "test-1.mp4")):
        (tmp_path / f"clip{number}.mp4").rename(tmp_path / name)
        for file in (run / "pairs.jsonl", tmp_path / "samples.jsonl"):
            file.write_text(file.read_text().replace(f"clip{number}.mp4", name))
    return run


def pairs_of(run: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (run / "pairs.jsonl").read_text().splitlines()]


def test_a_file_has_its_card_beside_it(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "prefs.jsonl"
    told = export("trl", str(run), "card.license=mit", "--out", str(out))
    card = tmp_path / "prefs.card.md"
    assert str(card) in told
    data = DatasetCard.load(card).data
    assert (data.license, data.size_categories) == ("mit", ["n<1K"])
    text = card.read_text()
    for name in json.loads(out.read_text().splitlines()[0]):
        assert f"| {name} | " in text
    assert "was not measured" in text and "Clips and captions: none stated" in text
    paired = json.loads((run / "manifest.json").read_text())["stages"]["pair"]["summary"]
    for unit in ("questions", "answers", "pairs"):
        for reason, count in paired[f"{unit}_dropped"].items():
            assert f"| {unit} | {reason} | {count} |" in text


def test_a_card_says_what_was_heard_by_the_model_that_answered(run: Path, tmp_path: Path) -> None:
    export("trl", str(run), "--out", str(tmp_path / "deaf.jsonl"))
    assert "heard" not in (tmp_path / "deaf.card.md").read_text()
    manifest = json.loads((run / "manifest.json").read_text())
    counts = {"candidates": 4, "clips_with_sound": 2, "clips_without_sound": 1}
    manifest["stages"]["generate"] = {"summary": counts}
    (run / "manifest.json").write_text(json.dumps(manifest))
    export("trl", str(run), "--out", str(tmp_path / "heard.jsonl"))
    text = (tmp_path / "heard.card.md").read_text()
    assert ", which heard its clips: 2 have sound, 1 have none." in text


@pytest.mark.parametrize("name", ["trl", "hound_pairs"])
def test_datasets_loads_the_folder_with_its_clips(run: Path, tmp_path: Path, name: str) -> None:
    """`hound_pairs` has a field `video` of its own."""
    out = tmp_path / "out"
    export(name, str(run), "--with-clips", "--out", str(out))
    rows = load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    rows = rows.cast_column("clip", Video(decode=False))
    takes_turns = name == "trl"  # the other has one question a row
    pairs = [pair for pair in pairs_of(run) if takes_turns or not pair.get("history")]
    assert len(rows) == len(pairs) > 0
    for row, pair in zip(rows, pairs, strict=True):
        assert row["id"] == pair["sample_id"]
        clip = Path(row["clip"]["path"])
        assert clip == out / "clips" / pair["video"]
        assert clip.read_bytes() == (tmp_path / pair["video"]).read_bytes()
    assert "load_dataset" in (out / "README.md").read_text()


def test_a_folder_that_holds_something_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(UserError, match="which exists: name a new folder"):
        export("trl", str(run), "--with-clips", "--out", str(tmp_path / "out"))
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_clip_outside_of_the_root_is_not_copied(run: Path, tmp_path: Path) -> None:
    pairs = (run / "pairs.jsonl").read_text()
    (run / "pairs.jsonl").write_text(pairs.replace("train-0.mp4", "/etc/hostname"))
    with pytest.raises(UserError, match=r"/etc/hostname"):
        export("trl", str(run), "--with-clips", "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("name", VOTES)
def test_answers_to_be_voted_on_are_shown_in_an_order_that_tells_nothing(
    run: Path, tmp_path: Path, name: str
) -> None:
    lines = (run / "pairs.jsonl").read_text().splitlines()
    many = [{**json.loads(lines[0]), "sample_id": f"q{number}"} for number in range(200)]
    (run / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    out = tmp_path / "tasks.json"
    export(name, str(run), "--out", str(out))
    rows = [row.get("data", row) for row in json.loads(out.read_text())]
    assert len(rows) == 200
    for row in rows:
        chosen = row[f"answer_{row['judge_prefers']}"]
        other = row["answer_b" if row["judge_prefers"] == "a" else "answer_a"]
        assert (chosen, other) == (many[0]["chosen"], many[0]["rejected"])
    first = sum(row["judge_prefers"] == "a" for row in rows)
    assert 70 < first < 130, "5 sigma of a fair coin are 35"
