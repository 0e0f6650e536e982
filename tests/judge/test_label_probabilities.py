"""Label probabilities of servers: where the label stands among the tokens, and numbers that are
none.
"""

import math
import re

import pytest
from asked_server import replies_of, server_settings
from judge_runs import summarise
from judge_server import (
    completion,
    judge_server,
    make_items,
)

from dpo_video.core.errors import UserError
from dpo_video.judge.backends.label_probabilities import (
    Token,
    label_alternatives,
    sum_of_labels,
)
from dpo_video.judge.backends.openai import read_completion
from dpo_video.judge.scorer import Scorer, load_scorer
from dpo_video.judge.stage import judge_candidates
from dpo_video.judge.types import Reply
from dpo_video.judge.verdict import read_reply
from dpo_video.store import RunStore

SUPPORT = load_scorer("caption_support")
SCALE = load_scorer("caption_score")

pytestmark = pytest.mark.usefixtures("short_backoff")


def label_log_probs(scorer: Scorer, tokens: list[Token]) -> dict[str, float] | None:
    """The log probability of each label where the last verdict line's was written."""
    alternatives = label_alternatives(scorer, tokens)
    return sum_of_labels(scorer, alternatives) if alternatives else None


def test_label_probabilities_are_read_where_the_label_is_written(tmp_path):
    """P(" A") + P("A") = 0.5 + 0.1, P(B) = 0.2, nothing for C: score (0.6 * 1 + 0.2 * 0) / 0.8."""
    top = {" A": math.log(0.5), "A": math.log(0.1), "B": math.log(0.2), "The": math.log(0.15)}
    with (
        judge_server(lambda *_: completion("Verdict: A", top=top)) as server,
        RunStore(tmp_path) as store,
    ):
        row = judge_candidates(
            server_settings(server.url), SUPPORT, make_items(1), store
        ).judgments["s0#0"]
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
    verdict, _ = read_reply(server_settings("http://127.0.0.1:1/v1"), SCALE, reply)
    assert (verdict.label, verdict.contradicted_by) == ("4", None)


def label_body(text, token, top, **usage):
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
    settings = server_settings("http://127.0.0.1:1/v1")
    body = label_body("Score: 4", " 4", top)
    with pytest.raises(UserError, match=rf"no log probabilities \({re.escape(why)}"):
        read_completion(settings, SCALE, "labels", "http://u", body)
    reply = read_completion(settings, SCALE, "labels", "http://u", body, verified=True)
    verdict, shares = read_reply(settings, SCALE, reply)
    assert (verdict.score, shares) == (None, None)
    assert verdict.reason == f"no log probabilities: {why}"


def test_replies_that_were_stored_with_probabilities_in_their_place_lose_their_score():
    """An earlier version cut them at 0: each label had probability 1, and the score was 3."""
    reply = Reply(status="answered", text="Score: 5", log_probs=dict.fromkeys("12345", 0.0))
    verdict, _ = read_reply(server_settings("http://127.0.0.1:1/v1"), SCALE, reply)
    assert (verdict.score, verdict.reason) == (
        None,
        "no log probabilities: taken as such they sum to 5",
    )


def test_log_probabilities_rounded_a_little_above_0_count():
    settings = server_settings("http://127.0.0.1:1/v1")
    body = label_body("Score: 4", " 4", {" 4": 1e-4, " 3": -9.0, " 2": -(10**400)})
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
    settings = server_settings("http://127.0.0.1:1/v1")
    body = label_body("Score: 4", " 4", {" 4": -0.1}, **usage)
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
        rows = judge_candidates(server_settings(server.url), SCALE, items, store).judgments
    assert [row.score for row in rows.values()] == [4.0, 4.0]
    assert all(row.reason.endswith("; the reply says 2") for row in rows.values())
    assert summarise(rows.values())["contradicted"] == 2
    tied = {"4": math.log(0.45), "2": math.log(0.45)}
    reply = Reply(status="answered", text="Score: 2", log_probs=tied)
    verdict, _ = read_reply(server_settings("http://127.0.0.1:1/v1"), SCALE, reply)
    assert (verdict.score, verdict.contradicted_by) == (3.0, None)


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
            replies_of(server.url, scorer=SUPPORT)
        assert len(server.requests) == 1
        with RunStore(tmp_path) as store:
            rows = judge_candidates(
                server_settings(server.url, score_from="verdict"), SUPPORT, make_items(2), store
            ).judgments
        assert "logprobs" not in server.requests[-1]
    assert [(row.score, row.distribution) for row in rows.values()] == [(0.0, None)] * 2


def test_labels_that_begin_alike_are_refused_for_a_server(tmp_path):
    text = SCALE.path.read_text().replace('"5": 5}', '"5": 5, "10": 10}')
    (tmp_path / "ten.yaml").write_text(text)
    with pytest.raises(UserError, match="the first token cannot tell label '1' from '10'"):
        replies_of("http://127.0.0.1:1/v1", scorer=load_scorer(str(tmp_path / "ten.yaml")))
