"""Tie-breaks: a question within the judge's noise gets one pair, where both orders of a comparison
agree.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from judge_server import Answer, failure, judge_server, pairwise_verdict, shown_answers
from preferences import records

from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import Pair
from dpo_video.judge.modes.pairwise import AnswerPair, Comparison
from dpo_video.pair.build import Paired, build_pairs
from dpo_video.pair.stage import pair
from dpo_video.pipeline import do_stages
from dpo_video.recipe import PairSettings, Recipe
from dpo_video.run import Run, open_run

BEST_WORST = PairSettings(rule="best_worst", min_margin=0.5)
FIRST, SECOND = Comparison(orders=(0.9, 0.8)), Comparison(orders=(0.2, 0.4))
DISAGREE, MUTE = (
    Comparison(orders=(0.9, 0.3)),
    Comparison(reason="no verdict line", status="unscored"),
)
BROKEN = Comparison(reason="HTTP 500: oops", status="failed")
CLOSE = [("high", 3.2), ("mid", 3.1), ("low", 3.0)]
RECORDS = records({"q": CLOSE, "p": [("good", 5.0), ("bad", 1.0)]})


def build(
    questions, result: Comparison | None, rule: PairSettings = BEST_WORST
) -> tuple[Paired, list[AnswerPair]]:
    asked: list[AnswerPair] = []

    def compare(twos, /):
        asked.extend(twos)
        return [result] * len(twos)

    paired = build_pairs(
        *records(questions),
        settings=rule,
        threshold=3.0,
        seed=0,
        compare=None if result is None else compare,
    )
    return paired, asked


def dropped(paired: Paired) -> dict[tuple[str, str], int]:
    counts: Counter[tuple[str, str]] = Counter()
    for drop in paired.drops:
        counts[drop.unit, drop.reason] += drop.count
    return dict(counts)


@pytest.mark.parametrize("rule", ["best_worst", "all_pairs"])
def test_answers_within_the_noise_are_compared_and_the_better_one_is_chosen(rule: str) -> None:
    settings = PairSettings(rule=rule, min_margin=0.5)
    paired, asked = build({"q": CLOSE}, FIRST, settings)
    assert [two[1:] for two in asked] == [("high", "low")]
    assert [(row.chosen, row.rejected, row.source) for row in paired.pairs] == [
        ("high", "low", "tie_break")
    ]
    turned, _ = build({"q": CLOSE}, SECOND, settings)
    row = turned.pairs[0]
    assert (row.chosen, row.rejected) == ("low", "high")
    assert (row.chosen_score, row.rejected_score) == (3.0, 3.2), (
        "the judge's scores stay what they are"
    )


def test_without_a_scorer_for_it_such_questions_are_dropped() -> None:
    paired, _ = build({"q": CLOSE}, None)
    assert paired.pairs == []
    assert dropped(paired) == {("pair", "below margin"): 1, ("question", "below margin"): 1}


def test_equal_scores_give_two_different_answers_never_chosen_as_rejected() -> None:
    """distilabel pairs index 0 with itself on a tie."""
    paired, asked = build({"q": [("a", 4.0), ("b", 4.0), ("c", 4.0)]}, FIRST)
    assert len({asked[0][1], asked[0][2]}) == 2
    assert paired.pairs[0].chosen_id != paired.pairs[0].rejected_id


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (DISAGREE, "orders disagree"),
        (MUTE, "no tie break"),
        (BROKEN, "failed"),
        (Comparison(orders=(0.5, 0.5)), "orders disagree"),
    ],
)
def test_what_the_comparison_does_not_decide_is_dropped_with_the_reason(
    result: Comparison, reason: str
) -> None:
    paired, _ = build({"q": CLOSE}, result)
    assert paired.pairs == []
    assert dropped(paired) == {("pair", reason): 1, ("question", reason): 1}


def test_a_cut_answer_that_wins_is_not_chosen() -> None:
    cut = [("high", 3.2), ("low", 3.0, "length")]
    assert build({"q": cut}, FIRST)[0].pairs[0].chosen == "high"
    assert dropped(build({"q": cut}, SECOND)[0]) == {("pair", "cut"): 1, ("question", "cut"): 1}


def test_a_question_with_a_pair_is_not_asked_about_and_pairs_stay_in_sample_order() -> None:
    wide = [("good", 5.0), ("bad", 1.0)]
    paired, asked = build({"a": CLOSE, "b": wide, "c": CLOSE}, FIRST)
    assert [two[0].id for two in asked] == ["a", "c"]
    assert [(row.sample_id, row.source) for row in paired.pairs] == [
        ("a", "tie_break"),
        ("b", "best_worst"),
        ("c", "tie_break"),
    ]
    assert paired.summary["questions"] == {"in": 3, "out": 3}
    assert dropped(paired) == {}


def write_recipe(folder: Path, url: str) -> Recipe:
    """Write the samples and the recipe of a run whose ties a server breaks."""
    write_jsonl(folder / "samples.jsonl", RECORDS[0])
    return Recipe.model_validate(
        {
            "name": "r",
            "runs_folder": str(folder),
            "model": {"name": "m"},
            "tracking": {"to": "none"},
            "data": {"samples": str(folder / "samples.jsonl")},
            "pair": {"tie_break": "caption_pairwise"},
            "judge": {
                "backend": "openai",
                "model": "j",
                "base_url": url,
                "scorer": "caption_score",
                "retries": 0,
            },
        }
    )


@contextmanager
def judged_run(recipe: Recipe) -> Iterator[Run]:
    with open_run(recipe) as run:
        write_jsonl(run.folder / "candidates.jsonl", RECORDS[1])
        write_jsonl(run.folder / "judgments.jsonl", RECORDS[2])
        yield run


def test_the_stage_asks_the_judge_in_both_orders_and_stores_its_replies(tmp_path: Path) -> None:
    with judge_server(
        lambda prompt, _: pairwise_verdict(0.9 if shown_answers(prompt)[0] == "low" else 0.3)
    ) as server:
        with judged_run(write_recipe(tmp_path, server.url)) as run:
            for _ in range(2):
                assert pair(run).counts["pairs"] == 2
            rows = {row.sample_id: row for row in read_jsonl(run.folder / "pairs.jsonl", Pair)}
        assert [shown_answers(prompt) for prompt in server.prompts] == [
            ["high", "low"],
            ["low", "high"],
        ]
    assert (rows["q"].chosen, rows["q"].source, rows["p"].source) == (
        "low",
        "tie_break",
        "best_worst",
    )


def test_a_comparison_that_failed_keeps_the_stage_open_and_is_asked_by_the_next_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its second order meets a server error once; no other call is made again."""

    def answer(prompt: str, attempt: int) -> Answer:
        if shown_answers(prompt)[0] == "low" and attempt == 1:
            return failure(500, "oops")
        return pairwise_verdict(0.9 if shown_answers(prompt)[0] == "low" else 0.3)

    with judge_server(answer) as server:
        recipe = write_recipe(tmp_path, server.url)
        for said in (
            "pairs 1, failed 1, ",
            "pairs 2",
            "finished before, nothing to do",
        ):
            with judged_run(recipe) as run:
                do_stages(run, ["pair"])
            assert said in capsys.readouterr().out
        assert [shown_answers(prompt)[0] for prompt in server.prompts] == ["high", "low", "low"]
