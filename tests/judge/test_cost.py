"""Tokens and cost of replies, the price list and the cap."""

import pytest
from asked_server import (
    CALL,
    HOUND,
    PRICES,
    USAGE,
    answer_with_usage,
    judge_counts,
    settings_of_one_try,
    user_message,
)
from judge_runs import write_run
from judge_server import completion, failure, judge_server, make_items, steady

from dpo_video.core.errors import UserError
from dpo_video.judge.ask import ask_prompts
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.prices import load_prices
from dpo_video.judge.stage import judge_candidates
from dpo_video.judge.types import Price, Reply, Spending
from dpo_video.store import RunStore


def test_a_stored_reply_says_what_it_cost(tmp_path):
    """The second attempt succeeds; the details of `usage` may be missing or null, and then the
    count is None.
    """
    replies = {
        "p0": completion("Score: 1", usage=USAGE),
        "p1": completion("Score: 2"),
        "p2": completion(
            "Score: 3",
            usage={"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": None},
        ),
    }

    def answer(prompt, attempt):
        return failure(500, "once") if prompt == "p2" and attempt == 1 else replies[prompt]

    settings = None
    with judge_server(answer) as server, RunStore(tmp_path) as store:
        settings = settings_of_one_try(server.url, retries=1)
        with open_judge(settings) as opened:
            got = ask_prompts(
                settings, HOUND, [user_message(text) for text in replies], store, judge=opened
            ).replies
            assert (opened.spending.prompt_tokens, opened.spending.completion_tokens) == (1007, 102)
            assert (opened.spending.unreported, opened.spending.attempts) == (1, 4)
    assert [(r.prompt_tokens, r.completion_tokens, r.cached_tokens) for r in got] == [
        (1000, 100, 400),
        (None, None, None),
        (7, 2, None),
    ]
    assert [reply.attempts for reply in got] == [1, 1, 2]
    assert all(reply.seconds > 0 for reply in got)


def test_the_stage_sums_tokens_over_all_replies_each_once(tmp_path):
    """Two texts for eight candidates; the second run asks nothing and says the same."""
    items = make_items(2, 4, text="it is a dog {s}")
    (tmp_path / "prices.yaml").write_text(PRICES)
    with judge_server(answer_with_usage) as server:
        recipe = write_run(tmp_path, items, server.url, prices=str(tmp_path / "prices.yaml"))
        first, second = judge_counts(recipe), judge_counts(recipe)
        assert len(server.requests) == 2
    assert first["tokens"] == second["tokens"] == {"prompt": 2000, "completion": 200, "cached": 800}
    assert first["cached_share"] == pytest.approx(0.4)
    assert first["dollars"] == pytest.approx(2 * CALL) == second["dollars"]


def test_without_a_price_there_are_tokens_only(tmp_path):
    (tmp_path / "prices.yaml").write_text("other: {input: 1, output: 1}\n")
    with judge_server(answer_with_usage) as server:
        summary = judge_counts(
            write_run(tmp_path, make_items(2), server.url, prices=str(tmp_path / "prices.yaml"))
        )
    assert summary["tokens"] == {"prompt": 2000, "completion": 200, "cached": 800}
    assert "dollars" not in summary


def test_the_cost_cap_is_kept_and_what_was_paid_is_kept_too(tmp_path):
    """Ten calls fit into ten and a half; after the cap is raised only the other twenty are
    asked.
    """
    (tmp_path / "prices.yaml").write_text(PRICES)
    items = make_items(30)
    more = {"prices": str(tmp_path / "prices.yaml"), "retries": 0}
    with judge_server(answer_with_usage) as server:
        recipe = write_run(tmp_path, items, server.url, **more, max_cost=10.5 * CALL)
        with pytest.raises(
            UserError,
            match=r"judge\.max_cost is 0\.01155 US dollars: 0\.011 are spent on 10 replies",
        ):
            judge_counts(recipe)
        assert len(server.requests) == 10
        summary = judge_counts(write_run(tmp_path, items, server.url, **more, max_cost=1.0))
        assert len(server.requests) == 30
    assert (summary["asked"], summary["answered_before"]) == (20, 10)


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        (None, r"judge\.max_cost is 1 US dollars, and judge\.prices is not set"),
        ("other: {input: 1, output: 2}\n", r"prices\.yaml has no price of 'm'"),
        (
            "a: {input: 1, output: 2}\nm: {input: 1}\n",
            r"prices\.yaml:2: missing `m\.output`\. Reply tokens",
        ),
        (
            "m: {input: -1, output: 2}\n",
            r"prices\.yaml:1: `m\.input` must be greater than or equal to 0, got -1",
        ),
        (
            "m: {input: 1, output: 2, cashed: 1}\n",
            r"prices\.yaml:1: unknown key `m\.cashed`\. Did you mean 'cached'\?",
        ),
        ("m: 3\n", r"prices\.yaml:1: `m` must be a section of keys, got 3"),
        ("- m\n", r"prices\.yaml:1: a price list is a mapping"),
        ("m: {input: 1\n", r"prices\.yaml:\d: not YAML"),
    ],
)
def test_a_cap_needs_a_price_before_anything_is_asked(tmp_path, prices, message):
    if prices is not None:
        (tmp_path / "prices.yaml").write_text(prices)
    with judge_server(answer_with_usage) as server, RunStore(tmp_path / "run") as store:
        settings = settings_of_one_try(
            server.url, max_cost=1.0, prices=prices and str(tmp_path / "prices.yaml")
        )
        with pytest.raises(UserError, match=message):
            judge_candidates(settings, HOUND, make_items(3), store)
        assert server.requests == []


def test_a_cap_needs_a_server_that_counts_tokens(tmp_path):
    (tmp_path / "prices.yaml").write_text(PRICES)
    with judge_server(steady) as server, RunStore(tmp_path / "run") as store:
        settings = settings_of_one_try(
            server.url, max_cost=1.0, prices=str(tmp_path / "prices.yaml")
        )
        with pytest.raises(
            UserError,
            match=r"does not say how many tokens it used, so judge\.max_cost cannot be kept",
        ):
            judge_candidates(settings, HOUND, make_items(30), store)
        assert len(server.requests) == 1


def test_cached_tokens_cost_as_others_where_no_price_is_given(tmp_path):
    (tmp_path / "prices.yaml").write_text("m: {input: 2, output: 3}\n")
    spending = Spending(price=load_prices(tmp_path / "prices.yaml")["m"])
    spending.add(
        Reply(
            status="answered", prompt_tokens=1_000_000, cached_tokens=900_000, completion_tokens=10
        )
    )
    assert spending.dollars == pytest.approx(2 + 3e-5)
    assert Spending(price=Price(input=1, output=1)).dollars == 0
