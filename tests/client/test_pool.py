"""The scheduler over real HTTP: slots, pauses of one server, several servers, servers that die and
come back.
"""

import asyncio
import threading
from contextlib import contextmanager

import pytest
from judge_server import Answer, completion, failure, free_port, judge_server, steady, steady_score

from dpo_video.client import pool as scheduler
from dpo_video.client.endpoint import Service
from dpo_video.client.http_errors import RequestRefused, TransientError
from dpo_video.client.pool import Pool, RetriesExhausted
from dpo_video.core.errors import UserError
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.scorer import load_scorer
from dpo_video.recipe import JudgeSettings

HOUND = load_scorer("hound_quality")
SUPPORT = load_scorer("caption_support")
DROP = Answer(drop=True)


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch):
    monkeypatch.setattr(scheduler, "BACKOFF_SECONDS", 0.01)


def _ask(urls, prompts, scorer=HOUND, **changes):
    """Ask with all workers of the judge; return the replies in order."""
    settings = {
        "backend": "openai",
        "model": "m",
        "base_url": urls,
        "retries": 3,
        "concurrency": 4,
        **changes,
    }
    replies = {}
    with open_judge(JudgeSettings(**settings)) as judge:
        judge.ask(
            scorer,
            ([{"role": "user", "content": prompt}] for prompt in prompts),
            replies.__setitem__,
        )
    return [replies[index] for index in range(len(replies))]


def _names(count):
    return [f"p{number}" for number in range(count)]


@contextmanager
def two_servers(first, second):
    with judge_server(first) as one, judge_server(second) as other:
        yield one, other


def _service(*urls, **changes):
    return Service(
        **{
            "section": "judge",
            "urls": urls,
            "key": "none",
            "key_variable": "KEY",
            "model": "m",
            "concurrency": 10,
            "timeout": 60.0,
            "retries": 0,
            **changes,
        }
    )


def _request(prompt):
    return {"model": "m", "messages": [{"role": "user", "content": prompt}]}


def _text(endpoint, body):
    return body["choices"][0]["message"]["content"]


async def _outcome(pool, prompt):
    try:
        return (await pool.complete(_request(prompt), _text)).value
    except (RetriesExhausted, RequestRefused) as error:
        return error.reason.split(" (")[0]


def test_a_429_shrinks_its_server_and_a_500_does_not():
    """inspect_ai cuts on 429 alone too: a cut on 500 would slow a server that one prompt upsets."""
    faults = {
        "p1": failure(500, "oops"),
        "p2": DROP,
        "p3": failure(429, "slow"),
        "p4": failure(429, "slow"),
    }

    async def ask(url):
        async with Pool(_service(url), say=print) as pool:
            return [
                (await _outcome(pool, prompt), pool.endpoints[0].concurrency.allowed)
                for prompt in _names(6)
            ]

    with judge_server(
        lambda prompt, n: faults[prompt] if prompt in faults and n == 1 else steady(prompt, n)
    ) as server:
        outcomes = asyncio.run(ask(server.url))
    assert [allowed for _, allowed in outcomes] == [10, 10, 10, 8, 8, 8]
    assert [said.split(":")[0] for said, _ in outcomes][1:3] == ["HTTP 500", "connection error"]


def test_no_more_than_the_limit_are_in_flight_after_a_429():
    """p1 to p10 come together; p1 gets 429, so the limit falls to 8; of the rest never more than 8
    run at once.
    """
    together = threading.Barrier(10)
    most = 0

    def answer(prompt, attempt):
        nonlocal most
        if 1 <= int(prompt[1:]) <= 10 and attempt == 1:
            together.wait(timeout=240)
            return failure(429, "slow") if prompt == "p1" else steady(prompt, attempt)
        most = max(most, server._in_flight)
        return steady(prompt, attempt)

    async def ask(url):
        async with Pool(_service(url), say=print) as pool:
            await _outcome(pool, "p0")
            await asyncio.gather(*(_outcome(pool, prompt) for prompt in _names(11)[1:]))
            await asyncio.gather(*(_outcome(pool, f"p{number}") for number in range(11, 60)))

    with judge_server(answer) as server:
        asyncio.run(ask(server.url))
    assert 1 <= most <= 8


def test_a_429_is_no_attempt_of_the_prompt():
    """Every prompt meets more 429s than it has attempts, and one server error; a busy server fails
    none.
    """
    faults = [failure(429, "slow")] * 5 + [failure(500, "oops")]

    def busy(prompt, attempt):
        return faults[attempt - 1] if attempt <= len(faults) else steady(prompt, attempt)

    with judge_server(busy) as server:
        replies = _ask(server.url, _names(4), retries=1)
    assert [(reply.status, reply.attempts) for reply in replies] == [("answered", 7)] * 4


def test_a_prompt_that_alone_meets_429s_is_given_up_and_a_server_that_answers_nobody_stops_the_run(
    monkeypatch, capsys
):
    """Two prompts too large for their quota come last: they fail. Where no other is answered
    between, a third stops.
    """
    monkeypatch.setattr(scheduler, "BUSY_SECONDS", 0.2)
    monkeypatch.setattr(scheduler, "REPORT_BUSY_SECONDS", 0.1)

    def limited(*free):
        return lambda prompt, n: (
            steady(prompt, n) if prompt in free else failure(429, "too many tokens")
        )

    with judge_server(limited("p0", "p1")) as server:
        replies = _ask(server.url, _names(4), retries=0, concurrency=1)
    assert [reply.status for reply in replies] == ["answered", "answered", "failed", "failed"]
    assert replies[2].reason.startswith("HTTP 429: too many tokens (")
    assert capsys.readouterr().err.count("has answered nothing but HTTP 429 for") == 1
    with (
        judge_server(limited("p0")) as server,
        pytest.raises(UserError, match=r"nothing but .*\. Replies so far are"),
    ):
        _ask(server.url, _names(9), retries=0)


def test_a_pause_of_one_server_leaves_the_others_at_work():
    """The first server answers once and then wants ten minutes: it gets that one request more, the
    other all others.
    """
    with two_servers(
        lambda p, n: (
            steady(p, n) if p == "p0" else failure(429, "busy", headers={"retry-after": "599"})
        ),
        steady,
    ) as (slow, quick):
        replies = _ask([slow.url, quick.url], _names(20), concurrency=1)
        assert len(slow.requests) == 2
        assert len(quick.requests) == 19
    assert [reply.text[-1] for reply in replies] == [
        str(steady_score(prompt)) for prompt in _names(20)
    ]


def test_a_request_goes_to_the_server_with_the_fewest_under_way():
    """Four requests, all held until all four are there: two at each of two servers, not four at the
    first.
    """
    together = threading.Barrier(4)

    def hold(prompt, attempt):
        if prompt.startswith("p"):
            together.wait(timeout=240)
        return steady(prompt, attempt)

    async def ask(*urls):
        async with Pool(_service(*urls), say=print) as pool:
            first = await asyncio.gather(_outcome(pool, "warm 0"), _outcome(pool, "warm 1"))
            assert all(endpoint.verified for endpoint in pool.endpoints), first
            await asyncio.gather(*(_outcome(pool, prompt) for prompt in _names(4)))

    with two_servers(hold, hold) as (one, other):
        asyncio.run(ask(one.url, other.url))
        assert (len(one.requests), len(other.requests)) == (3, 3)


def test_a_server_that_was_never_there_is_left_out_and_said_so_once(capsys):
    away = f"http://127.0.0.1:{free_port()}/v1"
    with judge_server() as server:
        replies = _ask([away, server.url], _names(30))
    assert {reply.status for reply in replies} == {"answered"}
    said = capsys.readouterr().err
    assert said.count("is away") == 1 and f"{away}/ is away (connection error" in said
    assert "1 of 2 servers are left" in said


def test_a_server_that_dies_is_ejected_and_used_again_when_it_is_back(capsys):
    """The first server drops connections until the second, which then waits for it, has answered
    ten requests.
    """
    back, answered = threading.Event(), threading.Semaphore(10)

    def dies(prompt, attempt):
        if prompt == "p0":
            return steady(prompt, attempt)
        if not answered.acquire(blocking=False):
            back.set()
            return steady(prompt, attempt)
        answered.release()
        return DROP

    def waits(prompt, attempt):
        if not answered.acquire(blocking=False):
            back.wait(timeout=240)
        return steady(prompt, attempt)

    with two_servers(dies, waits) as (one, other):
        replies = _ask([one.url, other.url], _names(60), retries=9)
        assert {reply.status for reply in replies} == {"answered"}
        assert len(other.requests) >= 10
    said = capsys.readouterr().err
    assert said.count(f"{one.url}/ is away") == said.count(f"{one.url}/ answers again") == 1


def test_many_connections_lost_in_one_moment_stop_no_run(capsys):
    """Eight requests in flight are dropped together, more than there may be trials; the server goes
    on answering.
    """
    together = threading.Barrier(8)

    def answer(prompt, attempt):
        if 1 <= int(prompt[1:]) <= 8 and attempt == 1:
            together.wait(timeout=240)
            return DROP
        return steady(prompt, attempt)

    with judge_server(answer) as server:
        replies = _ask(server.url, _names(20), concurrency=8)
    assert {reply.status for reply in replies} == {"answered"}
    said = capsys.readouterr().err
    assert said.count("is away") == said.count("answers again") == 1


def test_trying_a_dead_server_costs_a_prompt_no_attempt():
    """After three lost connections the rest of the tries find out whether the server is back; p1 is
    answered by it.
    """
    with judge_server(lambda p, n: DROP if p == "p1" and n <= 6 else steady(p, n)) as server:
        replies = _ask(server.url, ["p0", "p1"], retries=4)
        assert server.prompts.count("p1") == 7
    assert replies[1].status == "answered"


def test_the_run_stops_when_every_server_stays_away():
    with two_servers(lambda p, n: steady(p, n) if p == "p0" else DROP, lambda *_: DROP) as (
        one,
        other,
    ):
        with pytest.raises(
            UserError,
            match=r"cannot reach the judge at .*, .*: connection error: .*\. Replies so far "
            r"are stored\. Are the servers running",
        ) as caught:
            _ask([one.url, other.url], _names(100))
        assert len(one.requests) + len(other.requests) < 100
    assert "\n" not in str(caught.value)


def test_a_second_server_is_tried_with_one_prompt_before_it_gets_more():
    """It ignores logprobs, as `transformers serve` does: one request, and a line that names it and
    not the first.
    """
    good = completion("Verdict: A", top={" A": -0.1})
    with two_servers(lambda *_: good, lambda *_: completion("Verdict: A")) as (one, other):
        with pytest.raises(UserError, match=r"answers without label probabilities") as caught:
            _ask([one.url, other.url], _names(50), scorer=SUPPORT)
        assert len(other.requests) == 1
    assert str(caught.value).startswith(other.url)


@pytest.mark.parametrize("answered", ["m", "M", "m-2025-08-07", "m@main", "vendor/m", None])
def test_the_model_asked_for_may_answer_under_its_dated_or_longer_name(answered):
    with judge_server(lambda *_: completion("Score: 3", model=answered)) as server:
        assert _ask(server.url, ["p0"])[0].text == "Score: 3"


@pytest.mark.parametrize("answered", ["tinyj", "m2", "m-mini", "mm"])
def test_another_model_is_refused_after_one_request_unless_it_is_named(answered):
    """llama.cpp serves any name it is asked for; a deployment's name differs on purpose."""
    with judge_server(lambda *_: completion("Score: 3", model=answered)) as server:
        with pytest.raises(
            UserError, match=rf"answers as model '{answered}', not 'm'\. .*judge\.answers_as"
        ):
            _ask(server.url, _names(20))
        assert len(server.requests) == 1
        assert {reply.text for reply in _ask(server.url, _names(3), answers_as=answered)} == {
            "Score: 3"
        }


def test_prompts_are_taken_as_they_are_needed():
    """Never more than twice the concurrency are taken and unanswered: a million prompts are no
    million tasks.
    """
    taken, kept, most = 0, 0, 0

    def prompts():
        nonlocal taken, most
        for number in range(300):
            taken += 1
            most = max(most, taken - kept)
            yield [{"role": "user", "content": f"p{number}"}]

    def keep(number, reply):
        nonlocal kept
        kept += 1

    with judge_server() as server:
        settings = JudgeSettings(backend="openai", model="m", base_url=server.url, concurrency=3)
        with open_judge(settings) as judge:
            judge.ask(HOUND, prompts(), keep)
    assert (taken, kept) == (300, 300)
    assert most <= 2 * 3


def test_a_server_named_twice_is_an_error():
    with pytest.raises(UserError, match=r"judge\.base_url names a server twice"):
        _ask(["http://127.0.0.1:1/v1"] * 2, ["p0"])


def test_a_reader_may_ask_for_another_attempt():
    def read(endpoint, body):
        if _text(endpoint, body) == "first":
            raise TransientError("garbled")
        return _text(endpoint, body)

    async def ask(url):
        async with Pool(_service(url, retries=1), say=print) as pool:
            return await pool.complete(_request("p"), read)

    with judge_server(lambda p, n: completion("first" if n == 1 else "second")) as server:
        done = asyncio.run(ask(server.url))
    assert (done.value, done.attempts) == ("second", 2)
