"""The review page in a real browser: by keys, on a phone, in the dark, with hostile texts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import wait_until
from review_server import Served, serve_review
from shown_runs import HOSTILE, make_shown_run

from dpo_video.data.votes import read_votes
from dpo_video.review.command import ReviewOptions


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shown_run(tmp_path_factory.mktemp("review"), num_questions=12)


@pytest.fixture
def served(run_folder: Path, browser: Any) -> Iterator[Served]:
    (run_folder / "votes.jsonl").unlink(missing_ok=True)
    with serve_review(run_folder, ReviewOptions(order="doubt", overlap=0.0)) as page:
        yield page


def open_page(served: Served, browser: Any, annotator: str = "ann", **options: Any) -> Any:
    page = browser.new_page(**options)
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(f"{served.address}?annotator={annotator}")
    page.wait_for_selector("[data-state=voting]")
    return page


def press(page: Any, key: str, state: str) -> None:
    """Press a key, and wait until the server has answered."""
    page.keyboard.press(key)
    wait_until(page, f"document.body.dataset.state === '{state}'")


def question(page: Any) -> str:
    return str(page.inner_text("#question"))


def choices(run_folder: Path) -> list[str]:
    return [vote.choice for vote in read_votes(run_folder / "votes.jsonl")]


def test_votes_by_keys_undo_and_a_reload_midway(
    served: Served, browser: Any, run_folder: Path
) -> None:
    page = open_page(served, browser)
    assert question(page).startswith("What happens in clip 0?")
    assert page.inner_text("#before").splitlines()[0] == "Who is there?"
    assert f"On the grass. {HOSTILE}" in page.inner_text("#before")
    assert page.evaluate("window.broken") is None
    for key, choice in (("1", "A"), ("2", "B"), ("3", "tie"), ("0", "both_bad")):
        page.keyboard.press("h")
        press(page, key, "revealed")
        assert "score" in page.inner_text("#answers")
        assert choices(run_folder)[-1] == choice
        press(page, "Enter", "voting")
        assert "score" not in page.inner_text("#answers")
    assert page.inner_text("#before") == "", "that question goes on from nothing"
    fifth = question(page)
    page.reload()
    page.wait_for_selector("[data-state=voting]")
    assert question(page) == fifth and "4 votes of yours" in page.inner_text("#progress")
    press(page, "s", "voting")
    assert question(page) != fifth and "5 votes of yours" in page.inner_text("#progress")
    press(page, "u", "voting")
    assert question(page) == fifth and "4 votes of yours" in page.inner_text("#progress")
    assert choices(run_folder) == ["A", "B", "tie", "both_bad"]
    assert read_votes(run_folder / "votes.jsonl")[0].reasons == ["hallucinates"]
    assert page.faults == []
    page.close()


def test_hostile_texts_stay_texts(served: Served, browser: Any) -> None:
    page = open_page(served, browser)
    assert HOSTILE in page.inner_text("#answers")
    press(page, "1", "revealed")
    assert HOSTILE in page.inner_text("#caption") and HOSTILE in page.inner_text("#answers")
    assert page.evaluate("window.broken") is None
    assert page.locator("main script, #answers img, #caption img").count() == 0
    page.close()


def test_two_annotators_at_once_vote_on_different_pairs(
    served: Served, browser: Any, run_folder: Path
) -> None:
    ann, bob = open_page(served, browser, "ann"), open_page(served, browser, "bob")
    assert question(ann) != question(bob)
    for page in (ann, bob):
        press(page, "1", "revealed")
    votes = read_votes(run_folder / "votes.jsonl")
    assert [vote.annotator for vote in votes] == ["ann", "bob"]
    assert len({vote.sample_id for vote in votes}) == 2
    ann.close()
    bob.close()


def test_a_phone_in_the_dark_shows_all_of_it_and_the_clip_steps_and_seeks(
    served: Served, browser: Any
) -> None:
    page = open_page(served, browser, viewport={"width": 400, "height": 800}, color_scheme="dark")
    page.wait_for_selector("#clip video")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in background[4:-1].split(",")[:3]) < 60
    video = "document.querySelector('#clip video')"
    wait_until(page, f"{video}.readyState >= 2")
    page.evaluate(f"{video}.pause()")
    page.evaluate(f"{video}.currentTime = 1.0")
    wait_until(page, f"!{video}.seeking && {video}.currentTime === 1")
    page.keyboard.press(".")
    wait_until(page, f"Math.abs({video}.currentTime - 1 - 1 / 12) < 0.001 && {video}.paused")
    page.keyboard.press("-")
    assert page.evaluate(f"{video}.playbackRate") == 0.5
    assert page.evaluate(f"{video}.loop") is True
    page.close()


def test_a_clip_is_heard_and_a_key_turns_its_sound_off_and_on(served: Served, browser: Any) -> None:
    """The first question's clip has sound; it plays once a key is pressed, and is then heard."""
    page = open_page(served, browser)
    video = "document.querySelector('#clip video')"
    wait_until(page, f"{video}?.readyState >= 2")
    if page.evaluate(f"{video}.paused"):
        page.keyboard.press(" ")
    wait_until(page, f"!{video}.paused && {video}.currentTime > 0.2")
    assert page.evaluate(f"{video}.muted") is False
    assert page.evaluate(f"{video}.webkitAudioDecodedByteCount") > 0
    assert page.inner_text("#time").endswith("with sound")
    page.keyboard.press("v")
    assert page.evaluate(f"{video}.muted") is True
    page.keyboard.press("v")
    assert page.evaluate(f"{video}.muted") is False
    assert page.locator("#sound").is_visible()
    for number in (1, 2):  # past the two questions about that clip
        page.keyboard.press("s")
        asked = "document.querySelector('#question').innerText"
        wait_until(page, f"{asked}.startsWith('What happens in clip {number}?')")
    wait_until(page, "document.querySelector('#time').innerText.endsWith('no sound')")
    assert not page.locator("#sound").is_visible()
    page.keyboard.press("v")
    assert page.locator("#sound").is_checked(), "no key changes what is not there"
    assert page.faults == []
    page.close()


def test_a_clip_that_cannot_play_says_so_and_can_be_skipped(
    served: Served, browser: Any, run_folder: Path
) -> None:
    served.session.queue.pairs.reverse()  # the last question's clip is no video
    page = open_page(served, browser)
    page.wait_for_selector("#clip .no-clip")
    assert "cannot be shown" in page.inner_text("#clip")
    press(page, "s", "voting")
    assert choices(run_folder) == ["skip"]
    page.close()
