"""The client against a server that fails in every way: retries, permanent failures, wrong key or
model.
"""

import email.utils
import threading
import time

import pytest
from asked_server import HOUND, replies_of, server_settings
from judge_server import (
    Answer,
    completion,
    failure,
    free_port,
    judge_server,
    make_items,
    steady,
    steady_score,
)

from dpo_video.client import pool as scheduler
from dpo_video.client.http_errors import retry_after
from dpo_video.core.errors import UserError
from dpo_video.judge.backends.openai import api_key, read_completion
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.stage import judge_candidates
from dpo_video.judge.verdict import read_reply
from dpo_video.store import RunStore

SCALE = load_scorer("caption_score")

pytestmark = pytest.mark.usefixtures("short_backoff")


@pytest.mark.parametrize(
    "fault",
    [
        failure(429, "slow down"),
        failure(429, "slow down", headers={"retry-after": "0"}),
        failure(408, "timeout"),
        failure(500, "oops"),
        failure(503, "overloaded"),
        Answer(drop=True),
        Answer(body='{"choices": [{'),
        Answer(body="<html>", headers={"content-type": "text/html"}),
        Answer(body={"choices": []}),
        Answer(body="[]"),
        Answer(body={"choices": [{"text": "old"}]}),
        Answer(body={"choices": ["x"]}),
        Answer(body="null"),
    ],
    ids=[
        "429",
        "retry-after",
        "408",
        "500",
        "503",
        "dropped",
        "cut json",
        "html",
        "no choices",
        "list",
        "no message",
        "not a choice",
        "null",
    ],
)
def test_a_passing_fault_is_retried(fault):
    """Every prompt meets the fault on its first two attempts.

    NeMo Curator's client retries only where the message says "429", "rate" or "connection", Ray's
    HTTP stage no 500.
    """
    with judge_server(
        lambda prompt, attempt: fault if attempt <= 2 else steady(prompt, attempt)
    ) as server:
        replies = replies_of(server.url)
        assert len(server.requests) == 9
    assert [reply.text[-8:] for reply in replies] == [
        f"Score: {steady_score(prompt)}" for prompt in ("p0", "p1", "p2")
    ]


def test_a_lasting_fault_fails_the_prompt_after_all_attempts():
    with judge_server(
        lambda prompt, n: failure(500, "oops") if prompt == "p1" else steady(prompt, n)
    ) as server:
        replies = replies_of(server.url)
        assert server.prompts.count("p1") == 1 + 3
    assert [reply.status for reply in replies] == ["answered", "failed", "answered"]
    assert replies[1].reason == "HTTP 500: oops (4 attempts)"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (
            failure(400, "maximum context length is 4096 tokens", code="context_length_exceeded"),
            "context length",
        ),
        (failure(400, "filtered", code="content_filter"), "content filter"),
        (failure(400, "bad request"), "HTTP 400"),
        (failure(422, "unknown field"), "HTTP 422"),
        (failure(400, "error 429: the rate of your connection"), "HTTP 400"),
        (failure(413, "too many bytes"), "HTTP 413"),
        (
            failure(400, "the prompt is longer than the maximum model length of 4096"),
            "context length",
        ),
        (
            failure(429, "Request too large for m on tokens per min (TPM): Limit 10, Requested 20"),
            "too large",
        ),
        (completion("", finish="content_filter"), "content filter"),
    ],
)
def test_a_permanent_fault_refuses_its_prompt_at_once(fault, reason):
    """Arena-Hard asks 16 times after a 400. Status and code decide, not words: "429" in a 400's
    text is still a 400.
    """
    with judge_server(lambda prompt, n: fault if prompt == "p1" else steady(prompt, n)) as server:
        replies = replies_of(server.url)
        assert server.prompts.count("p1") == 1
    assert (replies[1].status, replies[1].reason.split(":")[0]) == ("refused", reason)
    assert [replies[0].status, replies[2].status] == ["answered", "answered"]


@pytest.mark.parametrize("status", [405, 410, 424, 425, 499])
def test_a_status_that_says_nothing_about_the_prompt_is_no_refusal(status):
    """It fails, and the next run asks again."""
    with judge_server(
        lambda prompt, n: failure(status, "odd") if prompt == "p1" else steady(prompt, n)
    ) as server:
        replies = replies_of(server.url)
        assert server.prompts.count("p1") == 1 + 3
    assert [reply.status for reply in replies] == ["answered", "failed", "answered"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            failure(402, "Insufficient Balance", code="invalid_request_error"),
            r"the quota is used up: Insufficient Balance",
        ),
        (
            failure(400, "Your credit balance is too low to access the API"),
            r"the quota is used up: Your credit balance",
        ),
        (
            failure(403, "Sorry, your account balance is insufficient"),
            r"the quota is used up: Sorry.*top it up",
        ),
        (
            failure(401, "bad key sk-secret"),
            r"refuses the key in OPENAI_API_KEY \(HTTP 401\): bad key \*\*\*",
        ),
        (failure(403, "not yours"), r"refuses the key in OPENAI_API_KEY \(HTTP 403\): not yours"),
        (
            failure(404, "no such model"),
            r"knows no model 'm', or judge\.base_url is wrong \(HTTP 404\): no such model",
        ),
        (failure(429, "pay", code="insufficient_quota"), r"the quota is used up: pay"),
        (
            failure(429, "later", headers={"retry-after": "4000"}),
            r"asks to come back in 4000 s: HTTP 429: later",
        ),
        (
            failure(429, "later", headers={"retry-after": "1e300"}),
            r"asks to come back in 1e\+300 s: HTTP 429: later",
        ),
        (
            failure(400, "model 'm' is not loaded"),
            r"refused each of the first 3 requests \(HTTP 400\): model 'm' is not",
        ),
    ],
)
def test_a_fault_that_every_prompt_would_have_stops_the_run_with_one_line(
    monkeypatch, fault, message
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with judge_server(lambda *_: fault) as server:
        with pytest.raises(UserError, match=message) as caught:
            replies_of(server.url, [f"p{n}" for n in range(50)])
        assert len(server.requests) <= 1 + 2 * 4
    assert server.url in str(caught.value)
    assert "\n" not in str(caught.value) and "sk-secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_named_in_one_line():
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(
        UserError, match=rf"cannot reach the judge at {url}/: connection error: .*judge\.base_url"
    ):
        replies_of(url)


def test_retry_after_holds_back_every_request():
    """The first prompt is answered; the next request gets 429 with 1 s, and no request starts
    within that second.
    """
    times, limited = [], []

    def limit(prompt: str, attempt: int) -> Answer:
        times.append(time.monotonic())
        if prompt == "p1" and attempt == 1:
            limited.append(time.monotonic())
            return failure(429, "slow down", headers={"retry-after": "1"})
        return steady(prompt, attempt)

    with judge_server(limit) as server:
        replies = replies_of(server.url, [f"p{n}" for n in range(6)], concurrency=1)
    assert {reply.status for reply in replies} == {"answered"}
    assert min(at for at in times if at > limited[0]) >= limited[0] + 1.0


def test_retry_after_is_read_as_seconds_and_as_a_date():
    assert retry_after({"retry-after": "2.5"}) == 2.5
    soon = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert retry_after({"retry-after": soon}) == pytest.approx(100, abs=5)
    assert [retry_after({"retry-after": value}) for value in ("", "soon", "-3", "nan")] == [
        0,
        0,
        0,
        0,
    ]


def test_requests_run_together_up_to_the_limit():
    """After the first request, every answer waits until 4 are in flight: fewer would never be
    answered.
    """
    together = threading.Barrier(4)

    def wait(prompt: str, attempt: int) -> Answer:
        if prompt != "p0":
            together.wait(timeout=240)
        return steady(prompt, attempt)

    with judge_server(wait) as server:
        replies = replies_of(server.url, [f"p{n}" for n in range(1 + 4 * 5)], concurrency=4)
        assert server.most_in_flight == 4
    assert {reply.status for reply in replies} == {"answered"}


def test_a_sleeping_retry_leaves_its_slot_to_others(monkeypatch):
    """With one slot, p1 fails and sleeps: p2 is asked before p1 again. lmms-eval holds its
    semaphore while sleeping.
    """
    monkeypatch.setattr(scheduler, "BACKOFF_SECONDS", 3.0)
    monkeypatch.setattr(scheduler.random, "uniform", lambda low, high: high)
    with judge_server(
        lambda p, n: failure(500, "once") if (p, n) == ("p1", 1) else steady(p, n)
    ) as server:
        replies_of(server.url, [f"p{n}" for n in range(6)], concurrency=1)
        assert server.prompts[:3] == ["p0", "p1", "p2"]
        assert sorted(server.prompts) == ["p0", "p1", "p1", "p2", "p3", "p4", "p5"]


def test_a_reply_that_never_ends_is_given_up_after_the_timeout():
    gone = threading.Event()

    def stall(prompt: str, attempt: int) -> Answer:
        if prompt == "p1":
            gone.wait(timeout=240)
        return steady(prompt, attempt)

    with judge_server(stall) as server:
        replies = replies_of(server.url, timeout=8, retries=0)
        gone.set()
    assert replies[1].reason == "timeout: no reply in judge.timeout 8 s (1 attempts)"
    assert replies[2].status == "answered"


def test_the_key_comes_from_the_named_variable_and_is_not_stored(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    with judge_server(
        lambda p, n: failure(500, "key sk-very-secret failed") if n == 1 else steady(p, n)
    ) as server:
        with RunStore(tmp_path) as store:
            rows = judge_candidates(
                server_settings(server.url, api_key_env="MY_KEY", retries=0),
                HOUND,
                make_items(3),
                store,
            ).judgments
        assert server.keys == {"Bearer sk-very-secret"}
    assert {row.reason for row in rows.values()} == {"HTTP 500: key *** failed (1 attempts)"}
    assert all(
        b"very-secret" not in path.read_bytes() for path in tmp_path.iterdir() if path.is_file()
    )


@pytest.mark.parametrize(
    ("url", "needed"),
    [
        ("http://localhost:8000/v1", False),
        ("http://127.0.0.1:1/v1", False),
        ("http://[::1]:1/v1", False),
        ("http://10.1.2.3/v1", False),
        ("http://vllm:8000/v1", False),
        (None, True),
        ("https://judge.example.com/v1", True),
        ("https://8.8.8.8/v1", True),
    ],
)
def test_only_servers_of_others_need_a_key(url, needed):
    """One of your own under a public name says so."""
    if needed:
        with pytest.raises(UserError, match=r"OPENAI_API_KEY is not set.*judge\.api_key_env: none"):
            api_key(server_settings(url))
        assert api_key(server_settings(url, api_key_env="none")) == "none"
    else:
        assert api_key(server_settings(url)) == "none"


def test_what_is_sent_is_what_the_recipe_says():
    with judge_server() as server:
        replies_of(server.url, ["p0"], temperature=0.3, max_tokens=77)
        assert server.requests == [
            {
                "model": "m",
                "messages": [{"role": "user", "content": "p0"}],
                "temperature": 0.3,
                "max_tokens": 77,
            }
        ]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "empty reply: all its text stands in `{}`, as thinking"),
        ("length", "cut off: the reply reached judge.max_tokens while it was thinking (in `{}`)"),
    ],
)
def test_a_reply_that_stands_in_the_thinking_is_kept_and_named_and_no_verdict(
    field, finish, reason
):
    message = {"content": None, field: "It could be\nScore: 4"}
    body = {"model": "m", "choices": [{"finish_reason": finish, "message": message}]}
    settings = server_settings("http://127.0.0.1:1/v1")
    for mode, scorer in (("verdict", HOUND), ("labels", SCALE)):
        reply = read_completion(settings, scorer, mode, "http://u", body)
        assert (reply.status, reply.text) == ("answered", "It could be\nScore: 4")
        verdict, _ = read_reply(settings, scorer, reply)
        assert (verdict.score, verdict.reason) == (None, reason.format(field))
    message["content"] = "Score: 2"
    reply = read_completion(
        settings,
        HOUND,
        "verdict",
        "http://u",
        body | {"choices": [{"finish_reason": "stop", "message": message}]},
    )
    assert read_reply(settings, HOUND, reply)[0].score == 2


def test_what_a_server_always_says_is_not_asked_for_again(tmp_path):
    """The first prompts are tried again, in case the server recovers; then each is asked once."""
    garbled = completion("")
    garbled.body["choices"][0]["message"]["content"] = 5
    with judge_server(lambda prompt, attempt: garbled) as server, RunStore(tmp_path) as store:
        with pytest.raises(UserError, match=r"20 of 20 judgments failed.*garbled reply"):
            judge_candidates(
                server_settings(server.url, retries=2), HOUND, make_items(30, 1), store
            )
        assert len(server.requests) <= 22


def test_a_server_that_garbles_now_and_then_is_asked_again(tmp_path):
    def answer(prompt, attempt):
        good = completion("Score: 4")
        if attempt < 2:
            good.body["choices"][0]["message"]["content"] = 5
        return good

    with judge_server(answer) as server, RunStore(tmp_path) as store:
        settings = server_settings(server.url, concurrency=1)
        rows = judge_candidates(settings, HOUND, make_items(5), store).judgments
    assert {row.score for row in rows.values()} == {4.0}
