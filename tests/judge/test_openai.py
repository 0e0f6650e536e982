"""The client against a server that fails in every way: retries, permanent failures, wrong key or
model, no logprobs.
"""

import email.utils
import math
import re
import threading
import time

import pytest
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
from dpo_video.client.endpoint import retry_after
from dpo_video.core.errors import UserError
from dpo_video.judge.backends.label_probabilities import label_log_probs
from dpo_video.judge.backends.openai import api_key, read_completion
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.stage import judge_candidates, summarise
from dpo_video.judge.types import Reply
from dpo_video.judge.verdict import read_reply
from dpo_video.recipe import JudgeSettings
from dpo_video.store import RunStore

HOUND = load_scorer("hound_quality")
SUPPORT = load_scorer("caption_support")
SCALE = load_scorer("caption_score")


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch):
    monkeypatch.setattr(scheduler, "BACKOFF_SECONDS", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def _settings(url, **changes):
    defaults = {"backend": "openai", "model": "m", "base_url": url, "retries": 3, "concurrency": 4}
    return JudgeSettings(**defaults | changes)


def _ask(url, prompts=("p0", "p1", "p2"), scorer=HOUND, **changes):
    replies = {}
    with open_judge(_settings(url, **changes)) as judge:
        judge.ask(
            scorer,
            [[{"role": "user", "content": prompt}] for prompt in prompts],
            replies.__setitem__,
        )
    return [replies[index] for index in range(len(prompts))]


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
        replies = _ask(server.url)
        assert len(server.requests) == 9
    assert [reply.text[-8:] for reply in replies] == [
        f"Score: {steady_score(prompt)}" for prompt in ("p0", "p1", "p2")
    ]


def test_a_lasting_fault_fails_the_prompt_after_all_attempts():
    with judge_server(
        lambda prompt, n: failure(500, "oops") if prompt == "p1" else steady(prompt, n)
    ) as server:
        replies = _ask(server.url)
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
        replies = _ask(server.url)
        assert server.prompts.count("p1") == 1
    assert (replies[1].status, replies[1].reason.split(":")[0]) == ("refused", reason)
    assert [replies[0].status, replies[2].status] == ["answered", "answered"]


@pytest.mark.parametrize("status", [405, 410, 424, 425, 499])
def test_a_status_that_says_nothing_about_the_prompt_is_no_refusal(status):
    """It fails, and the next run asks again."""
    with judge_server(
        lambda prompt, n: failure(status, "odd") if prompt == "p1" else steady(prompt, n)
    ) as server:
        replies = _ask(server.url)
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
            _ask(server.url, [f"p{n}" for n in range(50)])
        assert len(server.requests) <= 1 + 2 * 4
    assert server.url in str(caught.value)
    assert "\n" not in str(caught.value) and "sk-secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_named_in_one_line():
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(
        UserError, match=rf"cannot reach the judge at {url}/: connection error: .*judge\.base_url"
    ):
        _ask(url)


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
        replies = _ask(server.url, [f"p{n}" for n in range(6)], concurrency=1)
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
        replies = _ask(server.url, [f"p{n}" for n in range(1 + 4 * 5)], concurrency=4)
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
        _ask(server.url, [f"p{n}" for n in range(6)], concurrency=1)
        assert server.prompts[:3] == ["p0", "p1", "p2"]
        assert sorted(server.prompts) == ["p0", "p1", "p1", "p2", "p3", "p4", "p5"]


def test_a_reply_that_never_ends_is_given_up_after_the_timeout():
    gone = threading.Event()

    def stall(prompt: str, attempt: int) -> Answer:
        if prompt == "p1":
            gone.wait(timeout=240)
        return steady(prompt, attempt)

    with judge_server(stall) as server:
        replies = _ask(server.url, timeout=8, retries=0)
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
                _settings(server.url, api_key_env="MY_KEY", retries=0), HOUND, make_items(3), store
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
            api_key(_settings(url))
        assert api_key(_settings(url, api_key_env="none")) == "none"
    else:
        assert api_key(_settings(url)) == "none"


def test_what_is_sent_is_what_the_recipe_says():
    with judge_server() as server:
        _ask(server.url, ["p0"], temperature=0.3, max_tokens=77)
        assert server.requests == [
            {
                "model": "m",
                "messages": [{"role": "user", "content": "p0"}],
                "temperature": 0.3,
                "max_tokens": 77,
            }
        ]


def test_label_probabilities_are_read_where_the_label_is_written(tmp_path):
    """P(" A") + P("A") = 0.5 + 0.1, P(B) = 0.2, nothing for C: score (0.6 * 1 + 0.2 * 0) / 0.8."""
    top = {" A": math.log(0.5), "A": math.log(0.1), "B": math.log(0.2), "The": math.log(0.15)}
    with (
        judge_server(lambda *_: completion("Verdict: A", top=top)) as server,
        RunStore(tmp_path) as store,
    ):
        row = judge_candidates(_settings(server.url), SUPPORT, make_items(1), store).judgments[
            "s0#0"
        ]
        assert server.requests[0] | {"messages": 0} == {
            "model": "m",
            "messages": 0,
            "temperature": 0.0,
            "max_tokens": 512,
            "logprobs": True,
            "top_logprobs": 20,
        }
    assert row.score == pytest.approx(0.75)
    assert row.distribution == pytest.approx({"A": 0.75, "B": 0.25, "C": 0.0})


def test_the_label_of_the_last_verdict_line_counts_wherever_tokens_end():
    def token(text, **top):
        return text, list(top.items())

    tokens = [
        token("Score"),
        token(": "),
        token("1", **{"1": -0.1}),
        token("\n**"),
        token("Score:"),
        token("**"),
        token(" 4", **{" 4": -0.3, "3": -2.0}),
        token("\n"),
    ]
    assert label_log_probs(SCALE, tokens) == pytest.approx({"4": -0.3, "3": -2.0})
    assert label_log_probs(SCALE, [token("My Score: "), token("4", **{"4": -0.1})]) is None
    draft = [token("Score: "), token("1", **{"1": -0.1}), token("\n</"), token("think>\n")]
    assert label_log_probs(
        SCALE, [*draft, token("Score: "), token("4", **{"4": -0.2})]
    ) == pytest.approx({"4": -0.2})
    assert label_log_probs(SCALE, draft) is None
    assert (
        label_log_probs(
            SCALE, [*draft[:2], token("\n"), token("Score"), token(":4", **{":4": -0.1})]
        )
        is None
    )


@pytest.mark.parametrize(
    "texts",
    [
        ("- ", "Score:", " ", "4"),
        ("Score", ":", " [", "4", "]"),
        ("Score\uff1a", "4"),
        ("Score:", " \uff14"),
        ("Score:", "\n", "4"),
        ("Score: ", "4", "\u3002"),
        ("Score:", " 4", " /", " 5"),
        ("Score:", " 4", "<|im_end|>"),
        ("[THINK]", "Score: ", "2", "[/THINK]", "Score:", " 4"),
    ],
)
def test_harmless_forms_are_found_among_the_tokens_as_in_the_text(texts):
    label = max(index for index, text in enumerate(texts) if text.strip() in ("4", "\uff14"))
    tokens = [
        (text, [(text, -0.2), (" 3", -2.0)] if index == label else [(text, -0.1)])
        for index, text in enumerate(texts)
    ]
    log_probs = label_log_probs(SCALE, tokens)
    assert log_probs == pytest.approx({"4": -0.2, "3": -2.0})
    reply = Reply(status="answered", text="".join(texts), log_probs=log_probs)
    verdict, _ = read_reply(_settings("http://127.0.0.1:1/v1"), SCALE, reply)
    assert (verdict.label, verdict.contradicted_by) == ("4", None)


def _label_body(text, token, top, **usage):
    rows = [{"token": label, "logprob": value} for label, value in top.items()]
    content = [{"token": "Score:", "logprob": 0.0, "top_logprobs": []}]
    content.append({"token": token, "logprob": 0.0, "top_logprobs": rows})
    choice = {"finish_reason": "stop", "message": {"content": text}}
    choice["logprobs"] = {"content": content}
    return {"model": "m", "choices": [choice], "usage": usage}


@pytest.mark.parametrize(
    ("top", "why"),
    [
        ({"1": 0.01, "2": 0.01, "3": 0.01, "4": 0.01, "5": 0.96}, "0.96 is above 0"),
        ({" 4": 5000.0}, "5000 is above 0"),
        ({" 4": 10**400}, "1e+06 is above 0"),
        ({" 4": -0.01, " 5": -0.01, "the": -0.01}, "taken as such they sum to 2.97"),
        ({" 4": 0.0, "the": 0.0}, "taken as such they sum to 2"),
    ],
)
def test_numbers_that_are_no_log_probabilities_score_nothing_and_fail_the_first_prompt(top, why):
    settings = _settings("http://127.0.0.1:1/v1")
    body = _label_body("Score: 4", " 4", top)
    with pytest.raises(UserError, match=rf"no log probabilities \({re.escape(why)}"):
        read_completion(settings, SCALE, "labels", "http://u", body)
    reply = read_completion(settings, SCALE, "labels", "http://u", body, verified=True)
    verdict, shares = read_reply(settings, SCALE, reply)
    assert (verdict.score, shares) == (None, None)
    assert verdict.reason == f"no log probabilities: {why}"


def test_replies_that_were_stored_with_probabilities_in_their_place_lose_their_score():
    """An earlier version cut them at 0: each label had probability 1, and the score was 3."""
    reply = Reply(status="answered", text="Score: 5", log_probs=dict.fromkeys("12345", 0.0))
    verdict, _ = read_reply(_settings("http://127.0.0.1:1/v1"), SCALE, reply)
    assert (verdict.score, verdict.reason) == (
        None,
        "no log probabilities: taken as such they sum to 5",
    )


def test_log_probabilities_rounded_a_little_above_0_count():
    settings = _settings("http://127.0.0.1:1/v1")
    body = _label_body("Score: 4", " 4", {" 4": 1e-4, " 3": -9.0, " 2": -(10**400)})
    reply = read_completion(settings, SCALE, "labels", "http://u", body)
    assert read_reply(settings, SCALE, reply)[0].score == pytest.approx(4, abs=1e-3)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1_000_000, "completion_tokens": 3},
        {"prompt_tokens": 10, "completion_tokens": -3},
        {"prompt_tokens": 10**400, "completion_tokens": 3},
        {"prompt_tokens": True, "completion_tokens": 3},
        {"prompt_tokens": 1.5, "completion_tokens": 3},
        {"prompt_tokens": 10},
    ],
)
def test_token_counts_that_cannot_be_are_none_and_keep_no_cap(usage, tmp_path):
    (tmp_path / "prices.yaml").write_text("m: {input: 1, output: 1}\n")
    settings = _settings("http://127.0.0.1:1/v1")
    body = _label_body("Score: 4", " 4", {" 4": -0.1}, **usage)
    reply = read_completion(settings, SCALE, "labels", "http://u", body)
    assert None in (reply.prompt_tokens, reply.completion_tokens)
    capped = settings.model_copy(update={"max_cost": 1.0, "prices": str(tmp_path / "prices.yaml")})
    with pytest.raises(UserError, match=r"does not say how many tokens it used"):
        read_completion(capped, SCALE, "labels", "http://u", body)


def test_a_written_verdict_that_contradicts_its_label_tokens_is_counted(tmp_path):
    """A gateway that rewrites the text, say: the score is that of the tokens, and it is told."""
    with (
        judge_server(lambda prompt, attempt: completion("Score: 2", top={" 4": -0.1})) as server,
        RunStore(tmp_path) as store,
    ):
        items = make_items(1, 2)
        rows = judge_candidates(_settings(server.url), SCALE, items, store).judgments
    assert [row.score for row in rows.values()] == [4.0, 4.0]
    assert all(row.reason.endswith("; the reply says 2") for row in rows.values())
    assert summarise(rows.values())["contradicted"] == 2
    tied = {"4": math.log(0.45), "2": math.log(0.45)}
    reply = Reply(status="answered", text="Score: 2", log_probs=tied)
    verdict, _ = read_reply(_settings("http://127.0.0.1:1/v1"), SCALE, reply)
    assert (verdict.score, verdict.contradicted_by) == (3.0, None)


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
    settings = _settings("http://127.0.0.1:1/v1")
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
            judge_candidates(_settings(server.url, retries=2), HOUND, make_items(30, 1), store)
        assert len(server.requests) <= 22


def test_a_server_that_garbles_now_and_then_is_asked_again(tmp_path):
    def answer(prompt, attempt):
        good = completion("Score: 4")
        if attempt < 2:
            good.body["choices"][0]["message"]["content"] = 5
        return good

    with judge_server(answer) as server, RunStore(tmp_path) as store:
        settings = _settings(server.url, concurrency=1)
        rows = judge_candidates(settings, HOUND, make_items(5), store).judgments
    assert {row.score for row in rows.values()} == {4.0}


def test_a_letter_in_the_other_case_is_no_label_and_a_word_is():
    """ " a" begins "a statement"; "Yes" is "yes"."""
    alternatives = [(" A", math.log(0.5)), (" a", math.log(0.25)), ("B", math.log(0.125))]
    read = label_log_probs(SUPPORT, [("Verdict:", []), (" A", alternatives)])
    assert read == pytest.approx({"A": math.log(0.5), "B": math.log(0.125)})
    words = SUPPORT.model_copy(update={"labels": {"yes": 1.0, "no": 0.0}})
    read = label_log_probs(
        words, [("Verdict:", []), (" Yes", [(" Yes", math.log(0.5)), ("yes", math.log(0.25))])]
    )
    assert read == pytest.approx({"yes": math.log(0.75)})


def test_a_server_without_logprobs_is_refused_for_a_label_scorer_and_works_in_writing(tmp_path):
    with judge_server(lambda *_: completion("Verdict: B")) as server:
        with pytest.raises(
            UserError, match=r"answers without label probabilities.*Set judge\.score_from=verdict"
        ):
            _ask(server.url, scorer=SUPPORT)
        assert len(server.requests) == 1
        with RunStore(tmp_path) as store:
            rows = judge_candidates(
                _settings(server.url, score_from="verdict"), SUPPORT, make_items(2), store
            ).judgments
        assert "logprobs" not in server.requests[-1]
    assert [(row.score, row.distribution) for row in rows.values()] == [(0.0, None)] * 2


def test_labels_that_begin_alike_are_refused_for_a_server(tmp_path):
    text = SCALE.path.read_text().replace('"5": 5}', '"5": 5, "10": 10}')
    (tmp_path / "ten.yaml").write_text(text)
    with pytest.raises(UserError, match="the first token cannot tell label '1' from '10'"):
        _ask("http://127.0.0.1:1/v1", scorer=load_scorer(str(tmp_path / "ten.yaml")))
