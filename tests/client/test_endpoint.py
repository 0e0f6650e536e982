"""What one server can do to a run: send it elsewhere, send it more than fits, send it nonsense."""

import asyncio
import gzip
import json

import pytest
from judge_server import Answer, completion, failure, judge_server

from dpo_video.client import bounded_http
from dpo_video.client.completion import read_choice
from dpo_video.client.endpoint import Service, open_endpoint
from dpo_video.client.http_errors import RequestRefused, TransientError, retry_after
from dpo_video.core.errors import UserError

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "p"}]}
SERVICE = Service(
    section="judge",
    urls=(None,),
    key="hunter2",
    key_variable="KEY",
    model="m",
    concurrency=1,
    timeout=60.0,
    retries=0,
)


def post(url: str | None) -> str:
    """Return the text of one completion."""

    async def ask() -> str:
        endpoint = open_endpoint(SERVICE, url)
        try:
            return read_choice(await endpoint.post(REQUEST))[1]
        finally:
            await endpoint.close()

    return asyncio.run(ask())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_no_prompt_reaches_the_other_host(status):
    with judge_server() as other:
        place = other.url.replace("http://", "http://user:secret@") + "/chat/completions?key=secret"
        answer = Answer(status=status, headers={"location": place})
        with (
            judge_server(lambda prompt, n: answer) as server,
            pytest.raises(UserError, match="which is not followed") as caught,
        ):
            post(server.url)
    assert other.requests == []
    assert other.url.removeprefix("http://") in str(caught.value)
    assert "judge.base_url" in str(caught.value) and "secret" not in str(caught.value)


def test_a_compressed_reply_is_read():
    answer = completion("Score: 4").body
    body = gzip.compress(json.dumps({"model": "m", **answer}).encode())
    reply = Answer(body=body, headers={"content-encoding": "gzip"})
    with judge_server(lambda prompt, n: reply) as server:
        assert post(server.url) == "Score: 4"


@pytest.mark.parametrize("status", [200, 500])
def test_a_reply_over_the_limit_is_garbled_however_small_it_is_compressed(monkeypatch, status):
    monkeypatch.setattr(bounded_http, "MAX_REPLY_BYTES", 1 << 20)
    body = gzip.compress(bytes(2 << 20))
    assert len(body) < 10_000
    reply = Answer(status=status, body=body, headers={"content-encoding": "gzip"})
    with (
        judge_server(lambda prompt, n: reply) as server,
        pytest.raises(TransientError, match="garbled reply: a reply of more than 1 MiB"),
    ):
        post(server.url)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_reply_that_is_not_compressed_as_it_says_is_a_failed_attempt(encoding):
    reply = Answer(body=b"as it is", headers={"content-encoding": encoding})
    with judge_server(lambda prompt, n: reply) as server, pytest.raises(TransientError):
        post(server.url)


NONSENSE = {
    "nested": "[" * 100_000,
    "nested and whole": '{"choices": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "number of 5,000 digits": '{"choices": [' + "9" * 5000 + "]}",
    "no choices": '{"choices": []}',
    "a list": "[]",
    "null": "null",
    "a choice that is text": '{"choices": "abc"}',
    "a choice that is null": '{"choices": [null]}',
    "a message that is null": '{"choices": [{"message": null}]}',
    "a number in place of words": '{"choices": [{"message": {"content": 5}}]}',
    "parts that are none": '{"choices": [{"message": {"content": [5]}}]}',
    "parts without words": '{"choices": [{"message": {"content": [{"type": "text"}]}}]}',
    "a part that holds a number": (
        '{"choices": [{"message": {"content": [{"type": "text", "text": 5}]}}]}'
    ),
    "a refusal that is no text": '{"choices": [{"message": {"refusal": {"a": 1}}}]}',
}


@pytest.mark.parametrize("name", NONSENSE)
def test_a_reply_that_makes_no_sense_is_garbled(name):
    with (
        judge_server(lambda prompt, n: Answer(body=NONSENSE[name])) as server,
        pytest.raises(TransientError, match="garbled reply"),
    ):
        post(server.url)


def test_the_parts_of_a_message_are_one_text():
    parts = [{"type": "text", "text": "Score"}, {"type": "image"}, {"text": ": 4"}]
    body = {"choices": [{"message": {"content": parts}}]}
    assert read_choice(body)[1] == "Score: 4"


def test_what_a_server_says_in_an_error_is_one_line_without_control_characters_or_the_key():
    answer = failure(400, "\x1b]0;pwned\x07\x1b[31mno\n such hunter2")
    with judge_server(lambda prompt, n: answer) as server, pytest.raises(RequestRefused) as caught:
        post(server.url)
    assert caught.value.reason == "HTTP 400: \\x1b]0;pwned\\x07\\x1b[31mno such ***"


def test_the_secret_in_an_address_from_the_environment_is_not_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://user:secret@127.0.0.1:9/v1?key=secret")
    endpoint = open_endpoint(SERVICE, None)
    assert endpoint.url.startswith("http://127.0.0.1:9/v1")
    assert "secret" not in endpoint.url


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2.5", 2.5),
        ("-5", 0.0),
        ("nan", 0.0),
        ("soon", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Mon, 01 Jan 0000 00:00:00 +9999", 0.0),
        ("1 Jan 0001 00:00:00 -2359", 0.0),
        ("Mon, 99 Foo 99999 99:99:99 GMT", 0.0),
    ],
)
def test_a_pause_that_cannot_be_understood_is_none(value, seconds):
    assert retry_after({"retry-after": value}) == seconds
