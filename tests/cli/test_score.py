"""`dpo-video import` of a benchmark and `dpo-video score`, as they are typed."""

import json
from pathlib import Path

import pytest
from benchmark_rows import EVENTS, PAIRS, WRITTEN, written
from judge_server import completion, judge_server
from typer.testing import CliRunner

from dpo_video.cli.app import app
from dpo_video.core.errors import UserError


def run(*arguments: str) -> str:
    outcome = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return outcome.stdout


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Two questions of EventHallusion, imported."""
    path = tmp_path / "samples.jsonl"
    written(tmp_path / "questions", "entire_questions.json", EVENTS)
    said = run("import", "eventhallusion", str(tmp_path / "questions"), "--out", str(path))
    assert "2 rows read, 2 samples kept; dropped: none" in said
    return path


def test_answers_made_elsewhere_are_scored_by_both_rules(tmp_path: Path, samples: Path) -> None:
    rows = [
        {"id": "entire_001-0", "answer": "Not sure."},
        {"id": "entire_001-1", "answer": "Yes."},
    ]
    answers = str(written(tmp_path, "answers.jsonl", rows))
    said = run("score", str(samples), answers)
    assert "EventHallusion, binary" in said and "strict rule" in said
    assert "the rules differ in 1 answers" in said
    report = json.loads(run("score", str(samples), answers, "--json", "--parser", "published"))
    assert list(report["rules"]) == ["published", "strict"]
    assert report["rules"]["published"]["metrics"]["accuracy"]["value"] == 1.0
    assert report["rules"]["strict"]["metrics"]["accuracy"]["value"] == 0.5
    assert report["different_examples"][0]["id"] == "entire_001-0"


def test_missing_answers_are_counted_unless_refused(tmp_path: Path, samples: Path) -> None:
    answers = str(written(tmp_path, "a.jsonl", [{"id": "entire_001-0", "answer": "No."}]))
    assert "1 without an answer are wrong, and counted" in run("score", str(samples), answers)
    with pytest.raises(UserError, match="1 of the 2 questions have no answer, first"):
        run("score", str(samples), answers, "--refuse-missing")
    with pytest.raises(UserError, match="unknown parser 'strcit'"):
        run("score", str(samples), answers, "--parser", "strcit")


def test_a_benchmark_takes_clips_under_the_root_and_neither_captions_nor_skip_bad(
    tmp_path: Path,
) -> None:
    path = written(tmp_path, "temporal.json", PAIRS)
    (tmp_path / "clips/temporal/videos").mkdir(parents=True)
    (tmp_path / "clips/temporal/videos/2.mp4").touch()
    out = ("--out", str(tmp_path / "out.jsonl"))
    said = run("import", "videohallucer", str(path), *out, "--video-root", str(tmp_path / "clips"))
    assert "2 samples kept; dropped: no such video 2" in said
    with pytest.raises(UserError, match="is a benchmark, whose questions need no captions"):
        run("import", "videohallucer", str(path), *out, "--skip-bad")
    listed = run("list", "formats")
    assert (
        "import videohallucer" in listed and "benchmark: VideoHallucer (object_relation" in listed
    )


def test_answers_in_words_are_rated_once_and_the_replies_kept_beside_them(tmp_path: Path) -> None:
    samples, answers = tmp_path / "samples.jsonl", tmp_path / "answers.json"
    questions = written(tmp_path, "generic_qa.json", WRITTEN)
    run("import", "vcgbench", str(questions), "--out", str(samples))
    written(tmp_path, "answers.json", [{**WRITTEN[0], "pred": "A man cooks."}])
    with pytest.raises(UserError, match="are answered in words, which a judge rates and no rule"):
        run("score", str(samples), str(answers))
    with judge_server(lambda prompt, attempt: completion("Score: 4")) as server:
        judge = f"judge.model=m,judge.base_url={server.url}"
        said = run("score", str(samples), str(answers), "--judge", judge)
        again = run("score", str(samples), str(answers), "--judge", judge, "--json")
        assert len(server.requests) == 3, "in three ways, and none of them twice"
    assert "vcg_detail@" in said and "4.00" in said
    assert [row["mean_score"]["value"] for row in json.loads(again)["scorers"]] == [4.0] * 3
    assert (tmp_path / "answers.json.replies").is_dir()
