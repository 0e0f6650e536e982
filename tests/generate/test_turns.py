"""Candidates behind earlier turns: what a server is sent, and that answers are kept under keys that
hold the turns.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from generation_runs import make_recipe, run_generate, write_data
from policies import policy
from policy_server import policy_server

from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import EarlierTurn, Sample
from dpo_video.stale import sample_row

HISTORY = (EarlierTurn(question="what happens ?", answer="a red square"),)


def test_a_server_is_sent_the_turns_as_messages_with_the_clip_in_the_first(tmp_path: Path) -> None:
    data = write_data(tmp_path)
    alone = next(read_jsonl(data / "samples.jsonl", Sample))
    behind = replace(alone, id="behind", history=HISTORY)
    write_jsonl(data / "samples.jsonl", [alone, behind])
    with policy_server(policy("qwen2_5_vl"), text="yes") as server:
        settings: dict[str, Any] = {
            "generate": {
                "engine": "openai",
                "base_url": server.url,
                "served_model": "tuned",
                "video_as": "video_url",
                "num_candidates": 1,
            }
        }
        _, candidates = run_generate(make_recipe(tmp_path, data, **settings))
        asked = sorted((row["messages"] for row in server.requests), key=len)
    plain, turns = asked
    *clip, question = turns[0]["content"]
    assert clip == plain[0]["content"][:-1]
    assert question == {"type": "text", "text": "what happens ?"}
    assert turns[1:] == [
        {"role": "assistant", "content": "a red square"},
        {"role": "user", "content": alone.prompt},
    ]
    assert [part["role"] for part in plain] == ["user"]
    assert len({candidate.settings for candidate in candidates}) == 2


def test_answers_written_here_go_on_from_the_turns_and_are_kept_under_them(tmp_path: Path) -> None:
    data = write_data(tmp_path)
    first = next(read_jsonl(data / "samples.jsonl", Sample))
    histories = [None, HISTORY, (replace(HISTORY[0], answer="yes"),)]
    texts, keys = [], []
    for history in histories:
        write_jsonl(data / "samples.jsonl", [replace(first, history=history)])
        _, (one, two) = run_generate(make_recipe(tmp_path, data))
        texts.append((one.text, two.text))
        keys.append(one.settings)
    assert len(set(keys)) == len(set(texts)) == 3
    write_jsonl(data / "samples.jsonl", [replace(first, history=HISTORY)])
    counts, again = run_generate(make_recipe(tmp_path, data))
    assert counts["reused"] == 2
    assert (again[0].text, again[1].text) == texts[1]


def test_what_determines_a_stage_is_as_before_where_there_are_no_turns() -> None:
    sample = Sample(id="s", video="v.mp4", prompt="p", caption="c")
    row = {
        "id": "s",
        "video": "v.mp4",
        "prompt": "p",
        "caption": "c",
        "answer": None,
        "start": None,
        "end": None,
    }
    assert sample_row(sample, with_choice=False) == row
    assert sample_row(replace(sample, history=()), with_choice=False) == row
    assert sample_row(replace(sample, history=HISTORY), with_choice=False) == {
        **row,
        "history": [{"question": "what happens ?", "answer": "a red square"}],
    }
