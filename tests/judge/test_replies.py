"""Odd replies: what a server may say among good ones, and that it costs its own score only."""

import json
from collections import Counter

import pytest
from judge_runs import exported, write_run
from judge_server import Answer, completion, failure, judge_server, make_items, steady

from dpo_video.core.errors import UserError
from dpo_video.judge.ask import KIND
from dpo_video.judge.backends.openai import identity
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.offline import judge_with_results, write_batches
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.stage import judge, judge_candidates
from dpo_video.recipe import JudgeSettings
from dpo_video.recipe.file import load_recipe
from dpo_video.run import open_run
from dpo_video.store import RunStore

HOUND = load_scorer("hound_quality")
SUPPORT = load_scorer("caption_support")
SCALE = load_scorer("caption_score")
HALF = "\ud83d"


def _settings(url, **changes):
    defaults = {"backend": "openai", "model": "m", "base_url": url, "retries": 0, "concurrency": 4}
    return JudgeSettings(**defaults | changes)


def _stage(recipe, *overrides):
    with open_run(load_recipe(str(recipe), list(overrides))) as run:
        return dict(judge(run).counts)


def test_half_a_surrogate_pair_in_an_answer_or_a_reply_stops_nothing(tmp_path):
    """JSON can say it, UTF-8 cannot: in a request, in the store, and in judgments.jsonl it is
    U+FFFD.
    """
    items = make_items(8, text="answer {s}")
    odd = items[5][0].prompt

    def answer(prompt, attempt):
        return (
            completion(f"The dog {HALF} is right.\nScore: 3")
            if odd in prompt
            else steady(prompt, attempt)
        )

    with judge_server(answer) as server:
        recipe = write_run(tmp_path, items, server.url)
        candidates = tmp_path / "runs" / "r" / "candidates.jsonl"
        candidates.write_text(
            candidates.read_text().replace("answer 2", "answer 2" + json.dumps(HALF)[1:-1])
        )
        summary = _stage(recipe)
        assert (summary["scored"], summary["asked"]) == (8, 8), summary["reasons"]
        assert sum("answer 2\ufffd" in prompt for prompt in server.prompts) == 1
        assert _stage(recipe)["asked"] == 0
    assert exported(recipe)[5].reply == "The dog \ufffd is right.\nScore: 3"
    with open_run(load_recipe(str(recipe), [])) as run:
        assert len(list(run.store.rows(KIND))) == 8


def test_half_a_surrogate_pair_in_a_prompt_is_sent(tmp_path):
    """A scorer file can hold one, too: no reader of records has seen it."""
    with (
        judge_server(lambda *_: completion("Score: 3")) as server,
        open_judge(_settings(server.url)) as opened,
    ):
        replies = []
        opened.ask(
            HOUND,
            [[{"role": "user", "content": HALF}]],
            lambda number, reply: replies.append(reply),
        )
        assert server.prompts == [HALF]
    assert replies[0].status == "answered"


def _written(*tokens, finish="stop"):
    """Return a completion of these tokens, each the only alternative to itself."""
    content = [
        {"token": text, "logprob": -0.1, "top_logprobs": [{"token": text, "logprob": -0.1}]}
        for text in tokens
    ]
    choice = {
        "index": 0,
        "finish_reason": finish,
        "message": {"content": "".join(tokens)},
        "logprobs": {"content": content},
    }
    return Answer(body={"object": "chat.completion", "choices": [choice]})


def _refusal():
    """Return a refusal as OpenAI words it: no token has probabilities."""
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"content": None, "refusal": "I cannot help."},
        "logprobs": {"content": None, "refusal": []},
    }
    return Answer(body={"object": "chat.completion", "choices": [choice]})


@pytest.mark.parametrize(
    ("scorer", "tokens", "finish", "reason"),
    [
        (
            SUPPORT,
            ["Verdict", ":", " A", " statement", " contradicts", " the", " caption", "."],
            "stop",
            "malformed",
        ),
        (SCALE, ["Score", ":", " ", "1", "0"], "stop", "out of scale"),
        (SCALE, ["Score", ":", " ", "1", ".", "5"], "stop", "out of scale"),
        (
            SCALE,
            ["<think>", "\n", "Score", ":", " ", "1", "\n", "but"],
            "length",
            "no verdict line: <think> has no end",
        ),
        (
            SCALE,
            ["<think>", "\n", "Score", ":", " ", "1"],
            "stop",
            "no verdict line: <think> has no end",
        ),
        (SCALE, ["First", "\n", "Score", ":", " ", "1", "\n", "but", " wait"], "length", "cut off"),
        (
            SCALE,
            ["Score", ":", " 1", "\n", "</think>", "\n", "It", " is", " right"],
            "stop",
            "no verdict line",
        ),
        (SCALE, ["Score", ":", " 1"], "length", None),
        (SCALE, ["Score", ":", " 1", "\n", "The", " dog"], "length", None),
        (SCALE, ["A", " first", "\n", "**", "Score", ":", "**", " 1", "\n"], "length", None),
        (
            SCALE,
            ["<think>", "Score", ":", " 5", "</think>", "\n", "Score", ":", " 1"],
            "stop",
            None,
        ),
    ],
)
def test_label_probabilities_count_where_a_verdict_was_written(
    tmp_path, scorer, tokens, finish, reason
):
    with (
        judge_server(lambda *_: _written(*tokens, finish=finish)) as server,
        RunStore(tmp_path) as store,
    ):
        row = judge_candidates(_settings(server.url), scorer, make_items(1), store).judgments[
            "s0#0"
        ]
    if reason is None:
        assert (row.score, row.status) == (1.0, "scored"), row.reason
    else:
        assert (row.score, row.status) == (None, "unscored") and row.reason.startswith(reason), (
            row.reason
        )


def _with(change):
    """Return a good reply with one thing changed in its body."""
    given = _written("Score", ":", " 4")
    change(given.body["choices"][0]["logprobs"]["content"][2], given.body)
    return given


ODD_REPLIES = {
    "refusal": (_refusal(), "refused"),
    "no logprobs": (completion("Score: 4"), "unscored"),
    "logprobs as a list": (
        _with(lambda token, body: body["choices"][0].update(logprobs=[1])),
        "unscored",
    ),
    "no alternatives": (_with(lambda token, body: token.pop("top_logprobs")), "unscored"),
    "alternatives null": (_with(lambda token, body: token.update(top_logprobs=None)), "unscored"),
    "a logprob null": (
        _with(lambda token, body: token["top_logprobs"].append({"token": "5", "logprob": None})),
        "scored",
    ),
    "tokens null": (_with(lambda token, body: token.update(token=None)), "unscored"),
    "choices as an object": (_with(lambda token, body: body.update(choices={"0": 1})), "failed"),
    "content as a list": (
        _with(lambda token, body: body["choices"][0]["message"].update(content=[{"text": "x"}])),
        "unscored",
    ),
    "flagged": (failure(403, 'your input was flagged for "violence"'), "refused"),
    "blocked": (failure(403, "Request blocked"), "failed"),
}


@pytest.mark.parametrize("name", ODD_REPLIES)
def test_one_odd_reply_costs_its_own_score_only(tmp_path, name):
    odd, status = ODD_REPLIES[name]
    items = make_items(8, text="answer {s}")

    def answer(prompt, attempt):
        return odd if items[5][0].prompt in prompt else _written("Score", ":", " 4")

    with judge_server(answer) as server, RunStore(tmp_path) as store:
        rows = list(judge_candidates(_settings(server.url), SCALE, items, store).judgments.values())
    assert [row.status for row in rows] == ["scored"] * 5 + [status] + ["scored"] * 2, rows[
        5
    ].reason
    assert (rows[5].score is None) == (status != "scored") and (
        rows[5].reason or status == "scored"
    )


def test_a_first_prompt_that_is_refused_does_not_stop_the_run(tmp_path):
    """It proves nothing either: the second prompt is the probe, and it is what says that there are
    no probabilities.
    """
    odd = {"p0": failure(403, "flagged by moderation"), "p1": _refusal()}
    replies = {}
    with judge_server(lambda prompt, n: odd.get(prompt) or completion("Score: 4")) as server:
        with (
            open_judge(_settings(server.url)) as opened,
            pytest.raises(UserError, match="without label probabilities"),
        ):
            opened.ask(
                SCALE,
                ([{"role": "user", "content": f"p{n}"}] for n in range(9)),
                replies.__setitem__,
            )
        assert server.prompts == ["p0", "p1", "p2"]
    assert {number: (reply.status, reply.reason) for number, reply in replies.items()} == {
        0: ("refused", "content filter: flagged by moderation"),
        1: ("refused", "refusal: I cannot help."),
    }


def test_one_result_of_a_batch_without_probabilities_costs_its_own_score_only(tmp_path):
    recipe = write_run(tmp_path, make_items(3), "http://127.0.0.1:1/v1", scorer="caption_score")
    with open_run(load_recipe(str(recipe), [])) as run:
        [asked] = write_batches(run, tmp_path / "ask.jsonl")
        keys = [json.loads(line)["custom_id"] for line in asked.read_text().splitlines()]
        bodies = [
            given.body
            for given in (
                _written("Score: ", "4"),
                completion("Score: 4"),
                _written("Score: ", "2"),
            )
        ]
        answers = tmp_path / "answers.jsonl"
        answers.write_text(
            "".join(
                json.dumps({"custom_id": key, "response": {"status_code": 200, "body": body}})
                + "\n"
                for key, body in zip(keys, bodies, strict=True)
            )
        )
        summary = judge_with_results(run, [answers]).counts
    assert (summary["scored"], summary["unscored"]) == (2, 1)
    assert [row.score for row in exported(recipe)] == [4.0, None, 2.0]


def _by(model, **more):
    return lambda prompt, attempt: completion("Score: 4", model=model, **more)


def test_which_model_answered_is_stored_and_two_are_named_in_one_line(tmp_path, capsys):
    """A run goes on after the vendor has moved the name to another snapshot; `org/m` is m."""
    with judge_server(_by("m-2025-01-01", system_fingerprint="fp_1")) as server:
        recipe = write_run(tmp_path, make_items(3), server.url)
        _stage(recipe)
        assert "warning" not in capsys.readouterr().err
        server.answer = _by("org/m-2025-01-01")
        write_run(tmp_path, make_items(4), server.url)
        _stage(recipe)
        assert "warning" not in capsys.readouterr().err
        write_run(tmp_path, make_items(6), server.url)
        server.answer = _by("m-2026-09-01")
        _stage(recipe)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert (
        len(said) == 1
        and "'m' come from 2 models" in said[0]
        and "m-2026-09-01, org/m-2025-01-01" in said[0]
    )
    with open_run(load_recipe(str(recipe), [])) as run:
        stored = Counter(
            (row["model"], row["system_fingerprint"]) for _, row in run.store.rows(KIND)
        )
    assert stored == {
        ("m-2025-01-01", "fp_1"): 3,
        ("org/m-2025-01-01", None): 1,
        ("m-2026-09-01", None): 2,
    }


def test_modes_that_take_several_replies_name_two_models_too(tmp_path, capsys):
    def answer(prompt, attempt):
        return completion(
            "Verdict: A", top={"A": -0.5, "B": -1.0}, model=f"m-202{len(server.requests) % 2}"
        )

    with judge_server(answer) as server, RunStore(tmp_path) as store:
        judge_candidates(
            _settings(server.url), load_scorer("caption_pairwise"), make_items(1, 3), store
        )
    assert capsys.readouterr().err.count("come from 2 models") == 1


def test_a_revision_of_a_server_asks_again_and_without_one_keys_are_as_before():
    assert identity(_settings("http://127.0.0.1:1/v1")) == {"model": "m"}
    assert identity(_settings("http://127.0.0.1:1/v1", revision="may")) == {
        "model": "m",
        "revision": "may",
    }
    here = JudgeSettings(
        backend="local",
        model="here",
        revision="abc",
        jury=[{}, {"backend": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}],
    )
    assert here.overridden(here.jury[0]).revision == "abc"
    assert identity(here.overridden(here.jury[1])) == {"model": "m"}
