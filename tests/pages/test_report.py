"""The report of a run: every section tells what the files hold, and nothing of a text is run."""

import json
import re
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import pytest
from browser import wait_until
from shown_runs import HOSTILE, NUM_QUESTIONS, add_evaluation, make_shown_run
from typer.testing import CliRunner

from dpo_video.cli.app import app
from dpo_video.core.errors import UserError
from dpo_video.core.report import Estimate
from dpo_video.evaluate.set_report import CategoryAccuracy, SetAccuracy, SetMetrics
from dpo_video.pages.clips import ClipLimits
from dpo_video.pages.report import write_report
from dpo_video.pages.why import blind_spots, category_rows, why_lines


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_shown_run(tmp_path_factory.mktemp("report"))
    add_evaluation(folder)
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert done.exit_code == 0, done.output
    assert str(folder / "report" / "report.html") in done.output
    return folder


def page_of(folder: Path) -> str:
    return (folder / "report" / "report.html").read_text()


def rows_of(folder: Path) -> dict[str, Any]:
    match = re.search(r'id="rows">(.*?)</script>', page_of(folder), re.DOTALL)
    assert match is not None
    rows: dict[str, Any] = json.loads(match[1])
    return rows


def clip_of(folder: Path, sample_id: str) -> dict[str, Any]:
    rows = rows_of(folder)
    clip: dict[str, Any] = rows["clips"][rows["questions"][f"train:{sample_id}"]["clip"]]
    return clip


def test_without_video_there_are_frames_only(tmp_path: Path) -> None:
    folder = make_shown_run(tmp_path, num_questions=2)
    write_report(folder, ClipLimits(with_video=False))
    clip = clip_of(folder, "s0")
    assert "video" not in clip and (folder / "report" / "clips" / clip["strip"]).is_file()


def test_nothing_is_loaded_from_elsewhere_and_no_text_becomes_markup(run_folder: Path) -> None:
    page = page_of(run_folder)
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert HOSTILE not in page and "window.broken = 1</script>" not in page


def test_pairs_carry_margin_doubt_and_tags(run_folder: Path) -> None:
    rows = rows_of(run_folder)
    assert len(rows["pairs"]) == NUM_QUESTIONS
    first, last = rows["pairs"][0], rows["pairs"][-1]
    assert first["margin"] == pytest.approx(0.4) and first["doubt"] == pytest.approx(0.45)
    assert first["doubt"] > last["doubt"]
    assert {"least margin", "judge least sure"} <= set(first["tags"])
    assert first["first"]["distribution"] == [["1", 0.45], ["5", 0.55]]
    question = rows["questions"][first["question"]]
    assert question["caption"].startswith("A dog runs") and question["category"] == "action"


def test_a_regression_is_tagged(run_folder: Path) -> None:
    answers = rows_of(run_folder)["answers"]
    worse = [row for row in answers if "regression" in row["tags"]]
    assert [row["question"] for row in worse] == ["heldout:h1"]
    assert "Of 4 questions 1 got a worse answer and 0 a better one" in page_of(run_folder)
    assert worse[0]["outcome"] == "right before, wrong after" and worse[0]["change"] == -4


def test_answers_carry_the_doubt_of_their_two_scores(run_folder: Path) -> None:
    """Scores of 1 to 5 without measured noise: a tenth of the range of 4 is the noise of each."""
    for row in rows_of(run_folder)["answers"]:
        scores = row["first"].get("score"), row["second"].get("score")
        if None in scores or row["first"]["text"] == row["second"]["text"]:
            assert row["doubt"] is None
            continue
        noise = 0.4 * 2**0.5
        chance = NormalDist(0, noise).cdf(-abs(scores[0] - scores[1]))
        assert row["doubt"] == pytest.approx(chance, abs=1e-4)
    assert any(row["doubt"] is not None for row in rows_of(run_folder)["answers"])


def test_categories_of_the_sets_stand_with_the_smallest_gain_first() -> None:
    def share(value: float, low: float, high: float) -> Estimate:
        return Estimate(value=value, interval=(low, high), n=40)

    accuracy = SetAccuracy(
        n=80,
        unparsed=0,
        accuracy=share(0.5, 0.4, 0.6),
        answer_length=share(9.0, 8.0, 10.0),
    )
    categories = {
        name: CategoryAccuracy(
            n=40,
            unparsed_before=0,
            unparsed_after=0,
            before=share(0.5, 0.4, 0.6),
            after=share(0.5 + change, 0.4, 0.7),
            change=share(change, change - 0.1, change + 0.1),
        )
        for name, change in (("colour", 0.3), ("order", -0.2), ("count", 0.05))
    }
    measured = SetMetrics(
        questions=80,
        clips=40,
        unanswered=0,
        measured_by=["letter"],
        parser="strict",
        before=accuracy,
        after=accuracy,
        change=accuracy,
        categories=categories,
    )
    rows = category_rows(SimpleNamespace(sets={"choices": measured}))  # type: ignore[arg-type]
    assert [(row.title, row.verdict) for row in rows] == [
        ("choices: order", "worse"),
        ("choices: count", "not distinguishable"),
        ("choices: colour", "better"),
    ]
    assert rows[0].change.startswith("-20.0 pts")
    unmeasured = SimpleNamespace(agreement={})
    assert why_lines(unmeasured, rows) == [  # type: ignore[arg-type]
        "Not better by category: choices: order -20.0 pts [-30.0, -10.0], "
        "choices: count +5.0 pts [-5.0, +15.0]."
    ]


def test_facts_whose_swap_the_judge_does_not_notice_are_named() -> None:
    measures = {
        "auc_colour": {"value": 0.9, "ci": [0.85, 0.93]},
        "auc_number": {"value": 0.53, "ci": [0.43, 0.65], "n": 9},
        "auc_order": {"value": 0.53, "ci": [0.48, 0.58], "n": 45},
        "auc_actor": {"value": None, "ci": None},
    }
    run: Any = SimpleNamespace(agreement={"measures": measures})
    assert blind_spots(run) == ["number (9 probes)", "order (45 probes)"]
    assert why_lines(run, []) == [
        "Not shown that the judge notices a swapped number (9 probes) or order (45 probes): its "
        "pairs may teach little about that."
    ]


def test_a_clip_that_cannot_be_read_says_why(run_folder: Path) -> None:
    assert "[not_a_video]" in clip_of(run_folder, "s10")["error"]
    small = clip_of(run_folder, "s0")
    folder = run_folder / "report" / "clips"
    assert all((folder / small[name]).is_file() for name in ("video", "poster", "strip"))
    assert small["seconds"] == pytest.approx(2.0) and small["fps"] == pytest.approx(12)


def test_a_falling_reward_of_chosen_answers_is_told(run_folder: Path) -> None:
    page = page_of(run_folder)
    assert "reward ends below zero" in page
    assert "chosen" in page and "rejected" in page


def test_warnings_of_the_stages_stand_in_their_sections(tmp_path: Path) -> None:
    folder = make_shown_run(tmp_path, num_questions=2)
    add_evaluation(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    stages = manifest["stages"]
    reward = {"highest": -0.25, "last": -0.5}
    stages["train"] = {"summary": {"chosen_reward": reward}, "seconds": 1.0}
    length = {"before": 10.0, "change": 5.0, "low": 4.0, "high": 6.0}
    stages["evaluate"] = {"summary": {"length_change": length}, "seconds": 1.0}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    write_report(folder, ClipLimits(most=0))
    page = page_of(folder)
    pairs, training = (
        re.search(rf'<section id="{name}">.*?</section>', page, re.DOTALL)
        for name in ("funnel", "training")
    )
    assert pairs is not None and "only 2 pairs from 2 questions" in pairs[0]
    assert training is not None and "rewards/chosen stayed below 0" in training[0]
    assert "train.loss=[sigmoid,sft]" in training[0]
    assert "longer by 5 characters" in page


def test_what_was_not_checked_is_listed(run_folder: Path) -> None:
    page = page_of(run_folder)
    for sentence in ("was not held against labels", "No person has voted", "was not evaluated on"):
        assert sentence in page


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no manifest\.json"):
        write_report(tmp_path, ClipLimits())


def test_a_run_whose_samples_are_gone_is_shown_without_captions(tmp_path: Path) -> None:
    folder = make_shown_run(tmp_path, num_questions=2)
    (tmp_path / "samples.jsonl").unlink()
    write_report(folder, ClipLimits(most=0))
    assert "samples.jsonl" in page_of(folder)
    assert "caption" not in next(iter(rows_of(folder)["questions"].values()))


def test_the_page_opens_filters_and_plays(run_folder: Path, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme="dark")
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto((run_folder / "report" / "report.html").as_uri())
    page.wait_for_selector("#pairs .card")
    assert page.evaluate("window.broken") is None
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.select_option("#pairs select", "")
    page.fill("#pairs input[type=search]", "clip 3?")
    assert "of 1 pairs" in page.inner_text("#pairs [role=status]")
    assert HOSTILE in page.inner_text("#pairs .card h3")
    turns = page.inner_text("#pairs .card .turns").splitlines()
    assert [line for line in turns if line] == [
        "Who is there?",
        "A dog.",
        f"Where? {HOSTILE}",
        f"On the grass. {HOSTILE}",
    ]
    video = page.locator("#pairs video")
    video.evaluate("element => element.play()")
    wait_until(page, "document.querySelector('#pairs video').currentTime > 0.1")
    assert page.inner_text("#pairs .clip p") == "2.0 s, no sound"
    page.fill("#pairs input[type=search]", "clip 0?")
    assert page.inner_text("#pairs .clip p") == "2.0 s, with sound"
    video.evaluate("element => element.play()")
    wait_until(page, "document.querySelector('#pairs video').webkitAudioDecodedByteCount > 0")
    assert video.evaluate("element => element.muted") is False
    page.fill("#pairs input[type=search]", "clip 11?")
    assert "cannot be shown" in page.inner_text("#pairs .no-clip")
    assert faults == []
    page.close()


def test_a_link_of_the_funnel_leads_to_examples(tmp_path: Path, browser: Any) -> None:
    folder = make_shown_run(tmp_path, num_questions=4)
    (folder / "drops.jsonl").write_text(
        '{"sample_id": "s1", "unit": "question", "reason": "below margin", "count": 1, '
        '"detail": "#0 2"}\n'
        '{"sample_id": "s2", "unit": "answer", "reason": "duplicate", "count": 1, "detail": "#1"}\n'
    )
    write_report(folder, ClipLimits(most=0))
    page = browser.new_page()
    address = (folder / "report" / "report.html").as_uri()
    page.goto(f"{address}#drops=pair%2Fquestion%2Fbelow%20margin")
    page.wait_for_selector("#drops .card")
    assert "1 to 1 of 1" in page.inner_text("#drops [role=status]")
    page.close()


def test_with_tracking_on_the_page_and_its_folder_go_to_the_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = make_shown_run(tmp_path, num_questions=2)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["recipe"]["tracking"]["to"] = "wandb"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    write_report(folder, ClipLimits(with_video=False))
    (logged,) = folder.glob("wandb/offline-run-*/files/media/html/report_*.html")
    assert "Report of shown" in logged.read_text() and "stored as an artifact" in logged.read_text()
