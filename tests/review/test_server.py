"""The review page's server: only the page itself is answered, and no vote is lost."""

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from review_server import TOKEN, Served, review_process, serve_review
from shown_runs import BROKEN_CLIP, make_shown_run

from dpo_video.core.errors import UserError
from dpo_video.data.votes import read_votes
from dpo_video.pages.clips import clip_name
from dpo_video.review.command import ReviewOptions, open_session
from dpo_video.video import ClipRequest


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shown_run(tmp_path_factory.mktemp("review"), num_questions=12)


@pytest.fixture
def served(run_folder: Path) -> Iterator[Served]:
    (run_folder / "votes.jsonl").unlink(missing_ok=True)
    with serve_review(run_folder, ReviewOptions(order="doubt", overlap=0.0)) as page:
        yield page


class Reply:
    def __init__(self, status: int, body: bytes, headers: Any) -> None:
        self.status, self.body, self.headers = status, body, headers

    def json(self) -> Any:
        return json.loads(self.body)


def ask(address: str, content: Any = None, **headers: str) -> Reply:
    data = None if content is None else json.dumps(content).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if data is not None:
        named.setdefault("content-type", "application/json")
    request = urllib.request.Request(address, data=data, headers=named)
    try:
        with urllib.request.urlopen(request) as reply:
            return Reply(reply.status, reply.read(), reply.headers)
    except urllib.error.HTTPError as error:
        return Reply(error.code, error.read(), error.headers)


def vote(served: Served, choice: str = "A", annotator: str = "ann", **facts: Any) -> Reply:
    shown = ask(f"{served.address}next?annotator={annotator}").json()["pair"]
    content = {"pair": shown["pair"], "repeat": shown["repeat"], "choice": choice, **facts}
    return ask(f"{served.address}vote?annotator={annotator}", content)


def test_the_pair_of_which_the_judge_is_least_sure_comes_first_without_a_score(
    served: Served,
) -> None:
    reply = ask(f"{served.address}next")
    shown = reply.json()["pair"]
    assert shown["prompt"].startswith("What happens in clip 0?")
    text = reply.body.decode()
    for secret in ("score", "because", "doubt", "caption", "chosen", "runs over the grass 0"):
        assert secret not in text
    assert reply.json()["progress"]["pairs"] == 12


def test_a_vote_is_written_and_the_judge_revealed(served: Served, run_folder: Path) -> None:
    shown = ask(f"{served.address}next").json()["pair"]
    reply = vote(served, "B", reasons=["misses", "hallucinates"], seconds=3.5, watched=2.0)
    revealed = reply.json()["revealed"]
    assert revealed["caption"].startswith("A dog runs over the grass 0.")
    assert [answer["text"] for answer in revealed["answers"]] == shown["answers"]
    best = max(revealed["answers"], key=lambda answer: answer["score"])
    assert revealed["judge_prefers"] == "AB"[revealed["answers"].index(best)]
    (written,) = read_votes(run_folder / "votes.jsonl")
    assert written.choice == "B" and written.reasons == ["hallucinates", "misses"]
    assert written.seconds == 3.5 and written.watched == 2.0 and written.seed == 0
    texts = {"s0#0": "A dog runs over the grass."}
    assert (shown["answers"][0] == texts["s0#0"]) == (written.left_id == "s0#0")


def test_a_second_vote_on_the_same_pair_is_refused_and_an_undone_one_comes_again(
    served: Served, run_folder: Path
) -> None:
    shown = ask(f"{served.address}next").json()["pair"]
    content = {"pair": shown["pair"], "repeat": 0, "choice": "A"}
    assert ask(f"{served.address}vote", content).status == 200
    assert ask(f"{served.address}vote", content).status == 409
    undone = ask(f"{served.address}undo", {}).json()
    assert undone["pair"] == shown and undone["progress"]["yours"] == 0
    assert read_votes(run_folder / "votes.jsonl") == []
    assert ask(f"{served.address}undo", {}).status == 409


@pytest.mark.parametrize(
    "content",
    [
        {"choice": "A"},
        {"pair": "no such", "repeat": 0, "choice": "A"},
        {"repeat": 0, "choice": "C"},
        {"repeat": 0, "choice": "undo"},
        {"repeat": 0, "choice": "A", "reasons": ["no such"]},
        {"repeat": 2, "choice": "A"},
        [],
    ],
)
def test_what_is_no_vote_is_refused(served: Served, run_folder: Path, content: Any) -> None:
    if isinstance(content, dict) and "repeat" in content and "pair" not in content:
        content = content | {"pair": ask(f"{served.address}next").json()["pair"]["pair"]}
    assert ask(f"{served.address}vote", content).status == 409
    assert (run_folder / "votes.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:80"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_requests_from_elsewhere_are_refused(served: Served, headers: dict[str, str]) -> None:
    assert ask(f"{served.address}next", **headers).status == 403
    assert ask(f"{served.address}vote", {"choice": "A"}, **headers).status == 403


def test_a_form_of_another_page_cannot_vote(served: Served, run_folder: Path) -> None:
    assert ask(f"{served.address}undo", {}, content_type="text/plain").status == 409
    assert (run_folder / "votes.jsonl").read_bytes() == b""


def test_another_token_is_refused_and_the_headers_bind_the_page(served: Served) -> None:
    root = served.address.removesuffix(f"{TOKEN}/")
    for path in ("", "next", "another/next", f"{TOKEN[:-1]}/next"):
        assert ask(root + path).status == 403
    page = ask(served.address)
    assert page.status == 200 and b"<script src=" in page.body
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers.get("access-control-allow-origin") is None


def test_clips_come_in_ranges_and_no_path_leads_out(served: Served, run_folder: Path) -> None:
    clips = f"{served.address}clips/"
    stem = clip_name(ClipRequest(key="", video=run_folder.parent / "clip0.mp4"))
    facts = ask(f"{clips}{stem}.json").json()
    assert facts["video"] == f"{stem}.mp4" and facts["fps"] == pytest.approx(12)
    whole = ask(f"{clips}{stem}.mp4")
    part = ask(f"{clips}{stem}.mp4", range="bytes=10-19")
    assert part.status == 206 and part.body == whole.body[10:20]
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.body)}"
    for name in ("../votes.jsonl", "..%2f..%2fvotes.jsonl", "%2fetc%2fpasswd", f"{stem}.exe", "x"):
        assert ask(clips + name).status == 404
    broken_name = clip_name(ClipRequest(key="", video=run_folder.parent / BROKEN_CLIP))
    broken = ask(f"{clips}{broken_name}.json").json()
    assert "not_a_video" in broken["error"]


def test_a_killed_review_loses_no_vote_that_was_answered(tmp_path: Path) -> None:
    folder = make_shown_run(tmp_path, num_questions=4)
    with review_process(folder, "--overlap", "0") as (address, process):
        shown = ask(f"{address}next?annotator=ann").json()["pair"]
        content = {"pair": shown["pair"], "repeat": 0, "choice": "A"}
        assert ask(f"{address}vote?annotator=ann", content).status == 200
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert [row.choice for row in read_votes(folder / "votes.jsonl")] == ["A"]
    with review_process(folder, "--overlap", "0") as (address, process):
        again = ask(f"{address}next?annotator=ann").json()
        assert again["progress"]["yours"] == 1 and again["pair"]["pair"] != shown["pair"]
        token = address.split("/")[3]
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[0]
    assert token not in rest and "votes: 1 (A 1)" in rest and "dpo-video agree" in rest


def test_a_run_without_pairs_is_refused(tmp_path: Path) -> None:
    folder = make_shown_run(tmp_path, num_questions=1)
    (folder / "pairs.jsonl").write_text("")
    with pytest.raises(UserError, match="no pairs of two answers"):
        open_session(folder, ReviewOptions()).__enter__()
