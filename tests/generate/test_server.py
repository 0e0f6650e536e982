"""Candidates from an OpenAI-compatible server: a real HTTP server on loopback that answers from
what it was sent.
"""

import base64
import io
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from clips import read_number
from generation_runs import QUESTIONS, make_recipe, run_generate, write_data
from PIL import Image

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import Candidate, Sample


class Server(ThreadingHTTPServer):
    """Answers `<served model> <seed>`; keeps the requests, counts how many run at once, fails as it
    is told.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict] = []
        self.fail: dict[int, list[int]] = {}
        """Status codes to answer a seed with, in order, before it succeeds."""
        self.fail_all: int | None = None
        self.thinking_field: str | None = None
        """Where the reply's text stands in place of `content`."""
        self.ending = ""
        """What stands behind every answer."""
        self.garbled: bytes | None = None
        """What every request is answered with."""
        self.lock = threading.Lock()
        self.at_once = self.most_at_once = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_args: object) -> None:
        """Print nothing."""

    def message(self, text: str) -> dict[str, str | None]:
        field = self.server.thinking_field
        if field is None:
            return {"role": "assistant", "content": text}
        return {"role": "assistant", "content": None, field: text}

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
            planned = self.server.fail.get(body["seed"], [])
            status = self.server.fail_all or (planned.pop(0) if planned else 200)
        finish = "length" if body["seed"] % 2 else "stop"
        reply = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": finish,
                    "message": self.message(f"{body['model']} {body['seed']}{self.server.ending}"),
                }
            ],
        }
        content = json.dumps(
            reply if status == 200 else {"error": {"message": f"planned {status}"}}
        ).encode()
        content = content if self.server.garbled is None else self.server.garbled
        with self.server.lock:
            self.server.at_once -= 1
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def server():
    running = Server()
    yield running
    running.shutdown()
    running.server_close()


def server_recipe(runs, source, server, /, **settings):
    return make_recipe(
        runs,
        source,
        generate={
            "engine": "openai",
            "base_url": server.url,
            "served_model": "served",
            "retries": 2,
            "timeout": 60,
            **settings.pop("generate", {}),
        },
        **settings,
    )


def test_every_candidate_is_a_seeded_request_with_the_policys_frames(data, tmp_path, server):
    counts, candidates = run_generate(server_recipe(tmp_path, data, server, generate={"top_k": 7}))
    assert [candidate.text for candidate in candidates] == [
        f"served {candidate.seed}" for candidate in candidates
    ]
    assert [candidate.finish for candidate in candidates] == [
        "length" if candidate.seed % 2 else "stop" for candidate in candidates
    ]
    assert Counter(request["seed"] for request in server.requests) == Counter(
        c.seed for c in candidates
    )
    assert counts["candidates"] == 12 and "failed" not in counts
    samples = {sample.id: sample for sample in read_jsonl(data / "samples.jsonl", Sample)}
    by_seed = {candidate.seed: samples[candidate.sample_id] for candidate in candidates}
    for request in server.requests:
        sample = by_seed[request["seed"]]
        assert (
            request["model"],
            request["temperature"],
            request["top_p"],
            request["max_tokens"],
        ) == ("served", 1.0, 0.95, 6)
        assert (request["top_k"], request["repetition_penalty"]) == (7, 1.0)
        *images, text = request["messages"][0]["content"]
        assert text == {"type": "text", "text": sample.prompt}
        frames = 10 * int(sample.video[0])
        wanted = np.linspace(0, frames - 1, 4).round().astype(int).tolist()
        assert [frame_number(image) for image in images] == wanted


def frame_number(part: dict) -> int | None:
    head, _, content = part["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    return read_number(np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))))


def test_max_pixels_shrinks_the_images_that_are_sent(data, tmp_path, server):
    """8 patches of 28 x 28 at most: 160 x 64 becomes 112 x 28."""
    run_generate(
        server_recipe(tmp_path, data, server, video={"max_pixels": 8 * 784, "min_pixels": 784})
    )
    url = server.requests[0]["messages"][0]["content"][0]["image_url"]["url"]
    width, height = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size
    assert width % 28 == height % 28 == 0 and width * height <= 8 * 784


def test_a_server_can_get_the_file_itself(data, tmp_path, server):
    run_generate(server_recipe(tmp_path, data, server, generate={"video_as": "video_url"}))
    first, text = server.requests[0]["messages"][0]["content"]
    head, _, content = first["video_url"]["url"].partition(",")
    assert (head, text["type"]) == ("data:video/mp4;base64", "text")
    assert base64.b64decode(content) in {path.read_bytes() for path in data.glob("*.mp4")}


def test_a_part_of_a_file_cannot_be_sent_as_a_file(data, tmp_path, server):
    write_jsonl(
        tmp_path / "samples.jsonl",
        [Sample(id="a", video="1.mp4", prompt="?", caption="a film", start=0.0, end=0.2)],
    )
    with pytest.raises(UserError, match=r"is frames or a part of a file.*use images"):
        run_generate(
            server_recipe(
                tmp_path,
                tmp_path,
                server,
                generate={"video_as": "video_url"},
                data={"video_root": str(data)},
            )
        )


def test_a_second_run_asks_for_nothing_and_the_address_is_not_part_of_the_key(
    data, tmp_path, server
):
    _, candidates = run_generate(server_recipe(tmp_path, data, server))
    asked = len(server.requests)
    other = Server()
    try:
        counts, same = run_generate(server_recipe(tmp_path, data, other))
    finally:
        other.shutdown()
        other.server_close()
    assert (counts["reused"], len(server.requests), other.requests) == (12, asked, [])
    assert same == candidates


def test_busy_answers_are_retried_and_a_request_that_keeps_failing_is_counted_and_asked_again(
    data, tmp_path, server
):
    recipe = server_recipe(tmp_path, data, server)
    _, candidates = run_generate(server_recipe(tmp_path / "plan", data, server))
    server.requests.clear()
    passing, lasting = candidates[3], candidates[8]
    server.fail = {passing.seed: [429, 503], lasting.seed: [500, 500, 500]}
    counts, made = run_generate(recipe)
    tries = Counter(request["seed"] for request in server.requests)
    assert (tries[passing.seed], tries[lasting.seed], sum(tries.values())) == (3, 3, 10 + 3 + 3)
    assert counts["failed"] == 1
    assert made == [candidate for candidate in candidates if candidate.id != lasting.id]
    counts, made = run_generate(recipe)
    assert (counts["reused"], made) == (11, candidates)
    assert "failed" not in counts


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"refuses the key in OPENAI_API_KEY \(HTTP 401\): planned 401"),
        (404, r"knows no model 'served', or generate\.base_url is wrong \(HTTP 404\)"),
        (400, r"refused each of the first 3 requests \(HTTP 400\): planned 400"),
    ],
)
def test_a_server_that_refuses_everything_stops_the_run(data, tmp_path, server, status, message):
    server.fail_all = status
    with pytest.raises(UserError, match=message):
        run_generate(server_recipe(tmp_path, data, server))


def test_no_server_at_the_address_stops_the_run(data, tmp_path, server):
    server.shutdown()
    server.server_close()
    with pytest.raises(
        UserError, match=r"cannot reach the server at .*generate\.base_url its address"
    ):
        run_generate(server_recipe(tmp_path, data, server, generate={"retries": 0}))


def test_an_address_is_needed(data, tmp_path):
    with pytest.raises(UserError, match=r"generate.base_url is not set"):
        run_generate(make_recipe(tmp_path, data, generate={"engine": "openai"}))


def test_no_more_requests_run_at_once_than_the_recipe_allows(data, tmp_path, server):
    _, candidates = run_generate(server_recipe(tmp_path, data, server, generate={"concurrency": 2}))
    assert server.most_at_once <= 2
    assert all(isinstance(candidate, Candidate) for candidate in candidates)


def test_a_mix_asks_each_model_its_own_question_and_a_schedule_is_refused(tmp_path):
    data = write_data(tmp_path)
    server = Server()
    mix = [
        {"name": "own", "num_candidates": 1, "min_p": 0.2},
        {
            "name": "other",
            "num_candidates": 1,
            "model": {"name": "other/model"},
            "instruction": "Briefly: {prompt}",
        },
    ]
    address = {"engine": "openai", "base_url": server.url}
    _, candidates = run_generate(
        make_recipe(tmp_path, data, generate={**address, "mix": mix, "served_model": "m"})
    )
    assert {(one.sampler, one.text.split()[0]) for one in candidates} == {
        ("own", "m"),
        ("other", "other/model"),
    }
    asked = {
        (body["model"], body["min_p"], body["messages"][0]["content"][-1]["text"])
        for body in server.requests
    }
    assert asked == {("m", 0.2, question) for question in QUESTIONS} | {
        ("other/model", 0.0, f"Briefly: {question}") for question in QUESTIONS
    }
    with pytest.raises(UserError, match="servers take one temperature a request"):
        run_generate(
            make_recipe(tmp_path / "x", data, generate={**address, "first_temperature": 2.0})
        )


def test_a_corrupted_clip_is_sent_as_images_in_its_order_and_never_as_a_file(
    data, tmp_path, server
):
    mix = [
        {"name": "plain", "num_candidates": 1},
        {"name": "reverse", "num_candidates": 1, "clip": "reverse"},
        {"name": "drop", "num_candidates": 1, "clip": "drop", "magnitude": 4},
    ]
    run_generate(server_recipe(tmp_path, data, server, generate={"mix": mix}))
    sent = []
    for request in server.requests:
        *images, _ = request["messages"][0]["content"]
        urls = [part["image_url"]["url"].partition(",")[2] for part in images]
        pictures = [Image.open(io.BytesIO(base64.b64decode(url))) for url in urls]
        sent.append(tuple(read_number(np.asarray(picture)) for picture in pictures))
    shown = Counter(sent)
    for numbers, count in list(shown.items()):
        if list(numbers) == sorted(set(numbers)):
            assert shown[numbers[::-1]] == count, "each clip is sent backwards as often"
    assert sum(len(set(numbers)) == 1 for numbers in sent) == 6, "one of four frames stays"
    with pytest.raises(UserError, match="video_as=video_url sends whole files"):
        recipe = {"mix": mix, "video_as": "video_url"}
        run_generate(server_recipe(tmp_path / "file", data, server, generate=recipe))


def test_a_clip_with_something_to_know_is_counted_and_told(data, tmp_path, server, capsys):
    (tmp_path / "frames").mkdir()
    for number in range(3):
        Image.new("RGB", (64, 64)).save(tmp_path / "frames" / f"{number}.png")
    (tmp_path / "frames" / "notes.txt").touch()
    sample = Sample(id="a", video="frames", prompt="what happens ?", caption="a film")
    write_jsonl(tmp_path / "samples.jsonl", [sample])
    for engine in ("openai", "local"):
        recipe = server_recipe(tmp_path / engine, tmp_path, server)
        if engine == "local":
            recipe = make_recipe(tmp_path / engine, tmp_path)
        counts, _ = run_generate(recipe)
        assert counts["clips_with_note"] == 1
        assert (
            "generate: 1 clips have a note, which `dpo-video frames CLIP` shows; the first is "
            "'frames': 1 entries of the folder are not frames"
        ) in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"choices": [' + b"9" * 5000 + b"]}",
        b'{"choices": [{"message": {"content": 5}}]}',
        b'{"choices": [{"message": null, "finish_reason": {}}]}',
    ],
    ids=["nested", "endless number", "no words", "no message"],
)
def test_replies_that_make_no_sense_are_failed_requests_and_no_traceback(
    data, tmp_path, server, body
):
    server.garbled = body
    recipe = server_recipe(tmp_path, data, server, generate={"retries": 0})
    with pytest.raises(UserError, match=r"none of the 6 samples got an answer .*'failed': 12"):
        run_generate(recipe)
    server.garbled = None
    counts, _ = run_generate(recipe)
    assert counts["candidates"] == 12


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_answers_that_are_thinking_alone_are_empty_and_told(data, tmp_path, server, capsys, field):
    server.thinking_field = field
    counts, candidates = run_generate(server_recipe(tmp_path, data, server))
    assert counts["only_thinking"] == 12
    assert {candidate.text for candidate in candidates} == {""}
    assert f"12 replies hold thinking in `{field}` and no answer" in capsys.readouterr().err


def test_an_end_token_that_the_server_left_in_the_text_is_taken_away_and_counted(
    data, tmp_path, server
):
    server.ending = "<|im_end|>"
    counts, candidates = run_generate(server_recipe(tmp_path, data, server))
    assert [candidate.text for candidate in candidates] == [
        f"served {candidate.seed}" for candidate in candidates
    ]
    assert counts["lost_end_token"] == 12
