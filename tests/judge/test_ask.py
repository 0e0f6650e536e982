"""Keys, refusals and failures of asking, over real HTTP and a real store."""

import json
import threading
from collections import Counter

import pytest
from asked_server import PRICES, answer_with_usage, judge_counts, settings_of_one_try, user_message
from judge_runs import exported, write_run
from judge_server import completion, failure, judge_server, make_items, steady

from dpo_video.core.errors import UserError
from dpo_video.judge.ask import KIND, PAGE_SIZE, ask_missing, ask_prompts
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.prompt import render
from dpo_video.judge.reply_keys import key_maker
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.stage import judge_candidates
from dpo_video.judge.types import Judge, Reply
from dpo_video.pipeline import do_stages
from dpo_video.recipe.file import load_recipe
from dpo_video.run import open_run
from dpo_video.store import RunStore, row_key

HOUND = load_scorer("hound_quality")
SUPPORT = load_scorer("caption_support")


@pytest.mark.parametrize(
    ("scorer", "mode", "rest"),
    [
        (HOUND, "scorer", {"temperature": 0.5, "max_tokens": 512}),
        (
            SUPPORT,
            "scorer",
            {"labels": ["A", "B", "C"], "prefix": SUPPORT.reply_prefix, "max_tokens": 512},
        ),
        (SUPPORT, "verdict", {"temperature": 0.5, "max_tokens": 512}),
    ],
)
def test_a_key_is_the_hash_of_all_that_determines_the_reply(scorer, mode, rest):
    settings = settings_of_one_try("http://127.0.0.1:1/v1", temperature=0.5, score_from=mode)
    asked = Judge(name="m", identity={"model": "m", "z": "\u00e4"}, ask=lambda *_: None)
    messages = [
        {"role": "user", "content": '\u00e4 "quoted"\n{caption} \0messages'},
        {"role": "x", "content": ""},
    ]
    assert key_maker(settings, scorer, asked)(messages) == row_key(
        backend="openai", judge=asked.identity, messages=messages, **rest
    )


def test_one_text_is_asked_once_however_far_apart_it_comes(tmp_path):
    """The second p0 comes while the first is answered, the third from another look into the
    store.
    """
    prompts = ["p0", "p0", *(f"p{number}" for number in range(1, PAGE_SIZE + 5)), "p0"]
    with (
        judge_server() as server,
        RunStore(tmp_path) as store,
        open_judge(settings_of_one_try(server.url)) as opened,
    ):
        counts = ask_missing(
            settings_of_one_try(server.url),
            HOUND,
            ((row_key(text=text), user_message(text)) for text in prompts),
            store,
            judge=opened,
            total=len(prompts),
        )
        assert max(Counter(server.prompts).values()) == 1
        assert len(store.get(KIND, [row_key(text=text) for text in prompts])) == PAGE_SIZE + 5
    assert counts == {"asked": PAGE_SIZE + 5, "same_text": 1, "answered_before": 1}


def test_the_first_call_goes_out_before_the_rest_is_looked_at(tmp_path):
    taken = 0
    when_first_asked = []

    def prompts():
        nonlocal taken
        for number in range(5 * PAGE_SIZE):
            taken += 1
            yield row_key(number=number), user_message(f"p{number}")

    def answer(prompt, attempt):
        when_first_asked.append(taken)
        return steady(prompt, attempt)

    with (
        judge_server(answer) as server,
        RunStore(tmp_path) as store,
        open_judge(settings_of_one_try(server.url)) as opened,
    ):
        for number in set(range(5 * PAGE_SIZE)) - {7, 5 * PAGE_SIZE - 1}:
            store.put(KIND, row_key(number=number), {"status": "answered"})
        ask_missing(
            settings_of_one_try(server.url),
            HOUND,
            prompts(),
            store,
            judge=opened,
            total=5 * PAGE_SIZE,
        )
        assert server.prompts == ["p7", f"p{5 * PAGE_SIZE - 1}"]
    assert when_first_asked[0] == PAGE_SIZE


def test_nothing_is_loaded_where_nothing_is_missing(tmp_path):
    def never(*_):
        raise AssertionError("asked")

    asked = Judge(name="m", identity={"model": "m"}, ask=never)
    settings = settings_of_one_try(None)
    key = key_maker(settings, HOUND, asked)(user_message("p"))
    with RunStore(tmp_path) as store:
        store.put(
            KIND,
            key,
            {
                "status": "answered",
                "text": "old",
                "finish": "stop",
                "log_probs": None,
                "reason": "",
            },
        )
        replies = ask_prompts(settings, HOUND, [user_message("p")] * 2, store, judge=asked).replies
    assert replies == [Reply(status="answered", text="old")] * 2, "a row from before usage was kept"


def judge_output(recipe, capsys, *overrides):
    """Do the judge stage as the command does; return what it printed."""
    with open_run(load_recipe(str(recipe), list(overrides))) as run:
        do_stages(run, ["judge"])
    return capsys.readouterr().out


def test_a_refused_prompt_has_no_score_and_the_stage_is_finished_without_it(tmp_path, capsys):
    """Peers store such a prompt as -1 (FastChat), 0.5 (RewardBench) or 0 (lmms-eval), or ask 16
    times (Arena-Hard).
    """
    items = make_items(6)
    sample, candidate = items[2]
    refused = render(
        HOUND,
        caption=sample.caption,
        question=sample.prompt,
        answer=candidate.text,
        reference=sample.answer,
    )[0]["content"]
    too_long = threading.Event()
    too_long.set()

    def answer(prompt, attempt):
        if prompt == refused and too_long.is_set():
            return failure(
                400, "maximum context length is 64 tokens", code="context_length_exceeded"
            )
        return steady(prompt, attempt)

    with judge_server(answer) as server:
        recipe = write_run(tmp_path, items, server.url)
        told = judge_output(recipe, capsys)
        assert "scored 5, unscored 0, failed 0;" in told and "  refused 1, " in told
        assert "finished before, nothing to do" in judge_output(recipe, capsys)
        judge_counts(recipe)
        assert server.prompts.count(refused) == 1
        row = exported(recipe)[2]
        assert (row.status, row.score) == ("refused", None)
        assert row.reason.startswith("context length: maximum context length is 64")
        too_long.clear()
        assert "scored 6, unscored 0, failed 0;" in judge_output(
            recipe, capsys, "judge.ask_refused_again=true"
        )
        assert len(server.requests) == 6 + 1


def test_a_failed_prompt_keeps_the_stage_open_and_is_asked_by_the_next_run(tmp_path, capsys):
    items, down = make_items(6), threading.Event()
    down.set()
    broken = items[2][0].prompt

    def answer(prompt, attempt):
        return (
            failure(503, "overloaded")
            if broken in prompt and down.is_set()
            else steady(prompt, attempt)
        )

    with judge_server(answer) as server:
        recipe = write_run(tmp_path, items, server.url, retries=0)
        assert "scored 5, unscored 0, failed 1" in judge_output(recipe, capsys)
        assert (exported(recipe)[2].status, exported(recipe)[2].score) == ("failed", None)
        down.clear()
        assert "scored 6, unscored 0, failed 0" in judge_output(recipe, capsys)
        assert len(server.requests) == 6 + 1
        assert "finished before" in judge_output(recipe, capsys)


def _statuses(settings, store, prompts):
    with open_judge(settings) as opened:
        replies = ask_prompts(
            settings, HOUND, [user_message(text) for text in prompts], store, judge=opened
        ).replies
    return Counter(reply.status for reply in replies)


def test_what_always_fails_blocks_no_later_run_and_what_newly_fails_stops_it(tmp_path):
    """22 of 120 always fail: the second run asks them alone and ends. Of 25 new prompts that fail,
    20 are enough.
    """
    old, new = [f"p{number}" for number in range(120)], [f"new{number}" for number in range(25)]
    broken = {*old[98:], *new}

    def answer(prompt, attempt):
        return failure(500, "oops") if prompt in broken else steady(prompt, attempt)

    with judge_server(answer) as server, RunStore(tmp_path) as store:
        for requests in (120, 142):
            assert _statuses(settings_of_one_try(server.url), store, old) == {
                "answered": 98,
                "failed": 22,
            }
            assert len(server.requests) == requests
        with pytest.raises(UserError, match="20 of 20 judgments failed"):
            _statuses(settings_of_one_try(server.url), store, old + new)


def test_refused_prompts_that_are_asked_again_may_be_refused_again(tmp_path):
    """Asked alone, they are the first requests to the server, and more than may be refused of a
    server never seen.
    """
    prompts = [f"p{number}" for number in range(40)]
    with judge_server(
        lambda p, n: failure(400, "no") if p in prompts[10:] else steady(p, n)
    ) as server:
        with RunStore(tmp_path) as store:
            for more in ({"max_failed_fraction": 0.9}, {"ask_refused_again": True}):
                assert _statuses(settings_of_one_try(server.url, **more), store, prompts) == {
                    "answered": 10,
                    "refused": 30,
                }
        assert len(server.requests) == 40 + 30


def test_more_servers_and_other_speed_settings_ask_nothing_again(tmp_path, capsys):
    (tmp_path / "prices.yaml").write_text(PRICES)
    with judge_server(answer_with_usage) as server, judge_server(answer_with_usage) as other:
        recipe = write_run(tmp_path, make_items(4), server.url)
        judge_output(recipe, capsys)
        urls = json.dumps([server.url, other.url])
        for override in (
            f"judge.base_url={urls}",
            "judge.answers_as=m",
            "judge.max_failed_fraction=0.5",
            f"judge.prices={tmp_path / 'prices.yaml'}",
        ):
            assert "finished before" in judge_output(recipe, capsys, override)
        assert len(server.requests) == 4 and other.requests == []


@pytest.mark.parametrize(
    ("reply", "changes", "message"),
    [
        (completion("I like it."), {}, r"'I like it.'.*Scorer 'hound_quality' reads a last line"),
        (
            completion("Score: 4", finish="length"),
            {},
            r"cut off.*Raise judge.max_tokens \(it is 512",
        ),
        (
            completion("Score: 4", top={"x": -0.1}),
            {"scorer": "caption_score"},
            r"little weight on the labels.*Set judge.score_from=verdict",
        ),
    ],
)
def test_replies_that_never_give_a_score_stop_the_run_after_20(tmp_path, reply, changes, message):
    """385 of 385 were paid before it was told."""
    with judge_server(lambda *_: reply) as server, RunStore(tmp_path) as store:
        settings = settings_of_one_try(server.url, concurrency=1, **changes)
        scorer = load_scorer(settings.scorer)
        with pytest.raises(
            UserError, match=rf"20 of 20 replies of judge 'm' give no score: .*{message}"
        ):
            judge_candidates(settings, scorer, make_items(40), store)
        assert 20 <= len(server.requests) <= 22
        asked = len(server.requests)
        wanted = settings.model_copy(update={"max_unscored_fraction": 1.0})
        rows = judge_candidates(wanted, scorer, make_items(40), store).judgments
        assert {row.status for row in rows.values()} == {"unscored"} and len(rows) == 40
        assert len(server.requests) == 40 >= asked


def test_a_weak_judge_is_not_stopped(tmp_path):
    """Every fourth reply is a verdict: nothing says that a setting is wrong."""

    def answer(prompt, attempt):
        number = int(prompt.split("it is a ")[1].split()[0])
        return completion("Score: 4" if number % 4 == 0 else "I like it.")

    with judge_server(answer) as server, RunStore(tmp_path) as store:
        rows = judge_candidates(
            settings_of_one_try(server.url), HOUND, make_items(10, 8), store
        ).judgments
    assert Counter(row.status for row in rows.values()) == {"scored": 20, "unscored": 60}
