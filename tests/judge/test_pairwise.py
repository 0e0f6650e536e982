"""Pairwise judging: both orders, averaged before anything is decided; round robins; before against
after.
"""

import itertools
import math
import random

import numpy as np
import pytest
from judge_runs import summarise
from judge_server import (
    Answer,
    completion,
    failure,
    judge_server,
    make_items,
    pairwise_verdict,
    shown_answers,
)
from tiny_judge import write_scorer

from dpo_video.core.errors import UserError
from dpo_video.evaluate.metrics import Intervals, pairwise_win_rates
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.modes.pairwise import (
    Comparison,
    compare_pairs,
    matchups,
    pairwise_scorer,
    preferred,
    swap_summary,
    win_probabilities,
)
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.stage import judge_candidates
from dpo_video.recipe import EvaluateSettings, JudgeSettings
from dpo_video.store import RunStore

PAIRWISE = load_scorer("caption_pairwise")
QUALITY = {"it is a 0": 0.0, "it is a 1": 1.5, "it is a 2": -1.0, "it is a 3": 0.5}
"""Strength of each answer: P(A better) is the logistic of the difference, plus BIAS for the one
shown first.
"""
BIAS = 0.6


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def biased(prompt: str, attempt: int) -> Answer:
    first, second = (QUALITY[text] for text in shown_answers(prompt))
    return pairwise_verdict(sigmoid(first - second + BIAS))


def settings(url: str, **changes: object) -> JudgeSettings:
    return JudgeSettings(
        **{"backend": "openai", "model": "m", "base_url": url, "retries": 0} | changes
    )


def rounds(folder, url, items, **changes):
    with RunStore(folder) as store:
        return judge_candidates(settings(url, **changes), PAIRWISE, items, store).judgments


def compare_texts(folder, url, twos):
    sample = make_items(1)[0][0]
    with RunStore(folder) as store, open_judge(settings(url)) as judge:
        return compare_pairs(
            settings(url), PAIRWISE, [(sample, *two) for two in twos], store, judge=judge
        ).comparisons


def test_both_orders_are_asked_and_averaged_before_deciding(tmp_path):
    """The second answer is slightly better; shown first, either looks better: one order alone would
    decide wrongly.
    """
    with judge_server(biased) as server:
        result = compare_texts(tmp_path, server.url, [("it is a 0", "it is a 3")])[0]
        assert [shown_answers(prompt) for prompt in server.prompts] == [
            ["it is a 0", "it is a 3"],
            ["it is a 3", "it is a 0"],
        ]
    first, second = sigmoid(-0.5 + BIAS), 1 - sigmoid(0.5 + BIAS)
    assert first > 0.5 > second
    assert result.orders == pytest.approx((first, second), abs=1e-6)
    assert result.first_better == pytest.approx((first + second) / 2, abs=1e-6)
    assert result.first_better < 0.5
    assert result.swap_gap == pytest.approx(first - second, abs=1e-6)
    assert not result.consistent
    assert preferred(result) == 0.5


def test_a_tie_label_counts_half(tmp_path):
    with judge_server(lambda *_: pairwise_verdict(0.3, tie=0.6)) as server:
        result = compare_texts(tmp_path, server.url, [("a", "b")])[0]
    assert result.orders == pytest.approx((0.6, 0.4), abs=1e-6)


def test_equal_texts_are_equally_good_without_a_call_and_comparisons_are_stored(tmp_path):
    with judge_server(biased) as server:
        twos = [
            ("it is a 0", " it is  a 0 "),
            ("it is a 1", "it is a 2"),
            ("it is a 2", "it is a 1"),
        ]
        first = compare_texts(tmp_path, server.url, twos)
        assert len(server.requests) == 2, "the swapped pair is the same two prompts"
        assert compare_texts(tmp_path, server.url, twos) == first
        assert len(server.requests) == 2
    assert first[0].first_better == 0.5
    assert first[1].first_better == pytest.approx(1 - first[2].first_better)


def test_a_round_robin_scores_each_answer_by_its_mean_chance_to_win(tmp_path):
    items = make_items(2, 4)
    with judge_server(biased) as server:
        rows = rounds(tmp_path, server.url, items)
        assert len(server.requests) == 2 * 12, "6 pairs a question, both orders"
    for sample, candidate in items:
        chances = [
            (
                sigmoid(QUALITY[candidate.text] - QUALITY[other.text] + BIAS)
                + 1
                - sigmoid(QUALITY[other.text] - QUALITY[candidate.text] + BIAS)
            )
            / 2
            for own, other in items
            if own.id == sample.id and other.text != candidate.text
        ]
        assert rows[candidate.id].score == pytest.approx(sum(chances) / 3, abs=1e-6)
        assert rows[candidate.id].details["comparisons"] == 3
    assert rows["s0#1"].details["swap_gap"] > 0


def test_answers_with_the_same_text_share_a_judgment_and_one_alone_has_none(tmp_path):
    items = make_items(1, 2) + make_items(1, 4)[2:3]
    items.append(
        (
            items[0][0],
            type(items[0][1])(
                id="s0#9", sample_id="s0", text=" it is a  0", model="m", settings="h", seed=9
            ),
        )
    )
    with judge_server(biased) as server:
        rows = rounds(tmp_path, server.url, items)
        assert len(server.requests) == 6
        alone = rounds(tmp_path / "alone", server.url, [items[0], items[3]])
    assert rows["s0#9"].score == rows["s0#0"].score
    assert {row.status for row in alone.values()} == {"unscored"}
    assert alone["s0#0"].reason.startswith("nothing to compare with")


def test_a_comparison_that_fails_is_asked_again_and_one_without_a_verdict_is_left_out(tmp_path):
    items = make_items(1, 3)
    odd = {"it is a 0", "it is a 1"}

    def silent(prompt: str, attempt: int) -> Answer:
        return (
            completion("Verdict: x", top={"x": 0.0})
            if set(shown_answers(prompt)) == odd
            else biased(prompt, attempt)
        )

    def broken(prompt: str, attempt: int) -> Answer:
        return (
            failure(500, "no memory")
            if set(shown_answers(prompt)) == odd
            else biased(prompt, attempt)
        )

    with judge_server(silent) as server:
        rows = rounds(tmp_path, server.url, items)
    assert [row.details["left_out"] for row in rows.values()] == [1, 1, 0]
    assert rows["s0#1"].score > rows["s0#0"].score > rows["s0#2"].score, (
        "what is not compared follows from what is"
    )
    with judge_server(broken) as server:
        rows = rounds(tmp_path / "broken", server.url, items)
        assert [row.status for row in rows.values()] == ["failed", "failed", "scored"]
        assert rows["s0#0"].reason.startswith("HTTP 500")
        before = len(server.requests)
        server.answer = biased
        rows = rounds(tmp_path / "broken", server.url, items)
        assert len(server.requests) == before + 2
    assert {row.status for row in rows.values()} == {"scored"}


def test_a_judge_that_never_gives_a_verdict_leaves_every_answer_without_a_score(tmp_path):
    with judge_server(lambda *_: completion("Verdict: x", top={"x": 0.0})) as server:
        rows = rounds(tmp_path, server.url, make_items(1, 3))
    assert {(row.score, row.status) for row in rows.values()} == {(None, "unscored")}


@pytest.mark.parametrize(
    ("size", "opponents"), [(2, None), (5, None), (6, 2), (7, 3), (8, 4), (3, 9), (9, 1)]
)
def test_a_schedule_is_fair_and_connected(size, opponents):
    games = matchups(size, opponents)
    assert len(set(games)) == len(games)
    met = [sum(k in game for game in games) for k in range(size)]
    assert len(set(met)) == 1
    assert met[0] == (
        size - 1 if opponents is None or opponents >= size - 1 else 2 * math.ceil(opponents / 2)
    )
    reached = {0}
    for _ in range(size):
        reached |= {k for game in games for k in game if set(game) & reached}
    assert reached == set(range(size))


def test_a_partial_round_robin_recovers_bradley_terry_strengths():
    """Games drawn from known strengths: the chances of games not played come out too, up to the
    small prior.
    """
    rng = random.Random(0)
    power = [rng.uniform(-1.5, 1.5) for _ in range(9)]
    won = {(a, b): sigmoid(power[a] - power[b]) for a, b in matchups(9, 4)}
    wanted = [np.mean([sigmoid(power[a] - power[b]) for b in range(9) if b != a]) for a in range(9)]
    assert win_probabilities(9, won) == pytest.approx(wanted, abs=0.02)
    whole = {(a, b): sigmoid(power[a] - power[b]) for a, b in itertools.combinations(range(9), 2)}
    assert win_probabilities(9, whole) == pytest.approx(wanted, abs=1e-12)


def test_strengths_stay_finite_when_one_answer_wins_everything():
    scores = win_probabilities(4, {(0, 1): 1.0, (1, 2): 1.0, (2, 3): 1.0})
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)


def test_a_partial_round_robin_asks_less(tmp_path):
    items = make_items(1, 4)
    with judge_server(biased) as server:
        rows = rounds(tmp_path, server.url, items, opponents=2)
        assert len(server.requests) == 8
    order = sorted(rows.values(), key=lambda row: row.score)
    assert [row.candidate_id for row in order] == ["s0#2", "s0#0", "s0#3", "s0#1"]


def test_before_and_after_are_compared_in_both_orders():
    """A win must survive the swap; the rate is over the scored questions, with its
    bounds.
    """
    results = [
        Comparison(orders=(0.9, 0.7)),
        Comparison(orders=(0.6, 0.45)),
        Comparison(orders=(0.2, 0.1)),
        Comparison(reason="x", status="unscored"),
        Comparison(orders=(0.5, 0.5), reason="the same answer"),
    ]
    rates = pairwise_win_rates(
        results,
        ["a", "a", "b", "b", "c"],
        Intervals(EvaluateSettings(bootstrap=200), 0),
        scorer="p@1",
    )
    assert (rates.n, rates.win, rates.tie, rates.loss, rates.unscored) == (5, 1, 2, 1, 1)
    assert rates.win_rate.value == pytest.approx((1 + 2 * 0.5) / 4)
    assert rates.win_rate.bounds == (pytest.approx(2 / 5), pytest.approx(3 / 5))
    assert rates.better_probability.value == pytest.approx((0.8 + 0.525 + 0.15 + 0.5) / 4)
    assert rates.better_probability.n == 4
    summary = swap_summary(results)
    assert summary == {
        "compared": 3,
        "swap_inconsistent": pytest.approx(1 / 3),
        "first_position_gain": pytest.approx((0.2 + 0.15 + 0.1) / 3),
    }
    assert swap_summary([]) == {
        "compared": 0,
        "swap_inconsistent": None,
        "first_position_gain": None,
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  {answer_b}\n", "", r"`prompt`: needs \{answer_b\}"),
        ("  {answer_b}\n", "  {answer}\n", r"unknown placeholder \{answer\}"),
        ('"A": 1.0, "B": 0.0', '"A": 1.0, "B": 0.2', "A better 1, B better 0, a tie between"),
    ],
)
def test_a_wrong_pairwise_scorer_is_refused(tmp_path, old, new, message):
    text = PAIRWISE.path.read_text()
    assert old in text
    with pytest.raises(UserError, match=message):
        load_scorer(str(write_scorer(tmp_path, text.replace(old, new, 1))))


def test_a_scorer_of_another_mode_cannot_compare():
    with pytest.raises(
        UserError,
        match=r"pair\.tie_break 'caption_score' has `mode: labels`; answers are compared by",
    ):
        pairwise_scorer("caption_score", "pair.tie_break")


def test_written_verdicts_that_contradict_their_label_tokens_are_counted_for_comparisons(tmp_path):
    """The tokens prefer the first answer shown, and the text the second; in both orders."""

    def rewritten(prompt: str, attempt: int) -> Answer:
        return completion("Verdict: B", top={" A": math.log(0.9), " B": math.log(0.1)})

    with judge_server(rewritten) as server:
        rows = list(rounds(tmp_path, server.url, make_items(1, 2)).values())
    assert [row.details["contradicted"] for row in rows] == [2, 2]
    assert summarise(rows)["contradicted"] == 2
