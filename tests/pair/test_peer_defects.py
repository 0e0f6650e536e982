"""Defects of other tools' judge and pair code (notes of a survey), each with a test that shows it
is not ours.
"""

import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from judge_server import Answer, completion, judge_server
from preferences import Row, records

from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import Candidate, Judgment, Sample
from dpo_video.judge.prompt import render
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.stage import judge, judge_candidates
from dpo_video.judge.verdict import expected_score, parse_verdict
from dpo_video.pair.build import build_pairs
from dpo_video.recipe import JudgeSettings, PairSettings, Recipe
from dpo_video.run import open_run
from dpo_video.store import RunStore

HOUND = load_scorer("hound_quality")
RULES = ("hound", "best_worst", "best_vs_sigma", "all_pairs")
WORDS = " ".join(f"word{number}" for number in range(900))


def pairs_of(questions: dict[str, list[Row]], rule: Any, **settings: Any) -> list[tuple[str, str]]:
    paired = build_pairs(
        *records(questions), settings=PairSettings(rule=rule, **settings), threshold=3.0, seed=0
    )
    return [(row.chosen_id, row.rejected_id) for row in paired.pairs]


def ask(
    folder: Path, url: str, candidates: list[Candidate], **settings: Any
) -> dict[str, Judgment]:
    sample = Sample(id="q", video="q.mp4", prompt="What?", caption="A dog runs.", answer="a dog")
    with RunStore(folder) as store:
        chosen = JudgeSettings(
            model="m", base_url=url, **({"retries": 0, "max_failed_fraction": 1.0} | settings)
        )
        return judge_candidates(
            chosen, HOUND, [(sample, candidate) for candidate in candidates], store
        ).judgments


@pytest.mark.parametrize("rule", RULES)
def test_distilabel_takes_index_0_for_both_sides_of_a_tie(rule: str) -> None:
    """FormatTextGenerationDPO: arg-max and arg-min of equal ratings are the same answer."""
    assert pairs_of({"q": [("a", 4.0), ("b", 4.0), ("c", 4.0)]}, rule, min_margin=0) == []


@pytest.mark.parametrize("rule", RULES)
def test_distilabel_crashes_on_a_rating_of_none(rule: str) -> None:
    assert pairs_of({"q": [("a", None), ("b", 4.0), ("c", 1.0), ("d", None)]}, rule) == [
        ("q#1", "q#2")
    ]
    assert pairs_of({"q": [("a", None), ("b", None)]}, rule) == []


def test_open_instruct_pairs_later_prompts_with_the_next_rows_answers_after_a_bad_row() -> None:
    """parse_preferences: dropna and reset_index on one table, then a join by position with the
    other.
    """
    samples, candidates, judgments = records(
        {f"q{n}": [(f"good {n}", 5.0), (f"bad {n}", 1.0)] for n in range(6)}
    )
    judgments[2] = replace(judgments[2], score=None, status="unscored", reason="no verdict line")
    del judgments[7], candidates[9]  # an answer never judged, an answer never made
    judgments = [row for row in judgments if row.candidate_id != "q4#1"]
    random.Random(0).shuffle(judgments)
    paired = build_pairs(
        samples, candidates, judgments, settings=PairSettings(), threshold=3.0, seed=0
    )
    assert [row.sample_id for row in paired.pairs] == ["q0", "q2", "q5"]
    for row in paired.pairs:
        number = row.sample_id[1:]
        assert (row.prompt, row.chosen, row.rejected) == (
            f"What of q{number}?",
            f"good {number}",
            f"bad {number}",
        )


@pytest.mark.parametrize("rule", RULES)
def test_open_instruct_counts_an_unread_rating_as_minus_1(rule: str) -> None:
    """There #1 would be the worst answer, and the mean of the ratings would fall."""
    assert pairs_of({"q": [("a", 4.0), ("b", None), ("c", 2.0)]}, rule) == [("q#0", "q#2")]


@pytest.mark.parametrize("rule", RULES)
def test_open_instruct_makes_one_rated_answer_both_chosen_and_rejected(rule: str) -> None:
    assert pairs_of({"q": [("a", 4.0), ("b", None)], "r": [("a", 4.0)]}, rule, min_margin=0) == []


def test_open_instruct_draws_the_rejected_answer_unseeded() -> None:
    """RLAIF-V's sampling of pairs is unseeded, too: here the same seed gives the same pairs."""
    questions: dict[str, list[Row]] = {
        f"q{n}": [(f"t{k}", float(k)) for k in range(6)] for n in range(20)
    }
    assert pairs_of(questions, "hound") == pairs_of(questions, "hound")


@pytest.mark.parametrize(
    "answer",
    [
        "I saw 4 dogs, 4 cats and 1 bird",
        "step 1: count",
        "10",
        "",
        "Rating: 4",
        "4",
        "Score: about 4",
        "Score: 10",
        "Score: -1",
        "Score: 4.7",
    ],
)
def test_hound_and_lmms_eval_read_any_number_of_an_unreadable_reply(answer: str) -> None:
    """Hound votes over all numbers in the text and ends with 1; lmms-eval takes the first number,
    or the lowest.
    """
    verdict = parse_verdict(HOUND, answer)
    assert verdict.score is None and verdict.reason


def test_inspect_rule_the_last_verdict_line_counts_and_a_wrong_one_is_not_replaced() -> None:
    """An answer that quotes a verdict ("Score: 5") must not set it."""
    assert parse_verdict(HOUND, "The answer says\nScore: 5\nbut it is wrong.\nScore: 1").score == 1
    assert parse_verdict(HOUND, "Score: 5\nScore: none").score is None


def test_hound_shows_the_judge_256_words_of_an_answer_and_rlaif_v_300_of_a_prompt() -> None:
    """The judge must see a hallucination that comes late: all 900 words, the last one among
    them.
    """
    prompt = render(HOUND, caption=WORDS, question="What?", answer=WORDS, reference=WORDS)[0][
        "content"
    ]
    assert [
        len(re.findall(rf"\bword{number}\b", prompt)) for number in (0, 255, 256, 299, 300, 899)
    ] == [3] * 6


def test_rlaif_v_turns_a_probability_into_a_yes_or_no() -> None:
    """P(yes) of 0.51 and of 0.99 count the same there. A score is the mean under the probabilities:
    3.51 against 3.99 for labels of 3 and 4, so the margin between answers survives."""
    scorer = load_scorer("caption_score")
    labels = list(scorer.labels)
    low, high = scorer.labels[labels[0]], scorer.labels[labels[-1]]
    found = []
    for share in (0.51, 0.99):
        logs = {labels[-1]: math.log(share), labels[0]: math.log(1 - share)}
        found.append(expected_score(scorer, logs)[0].score)
    assert found == pytest.approx([low + share * (high - low) for share in (0.51, 0.99)])


def test_rlaif_v_scores_fall_with_the_number_of_claims_so_short_answers_win() -> None:
    """Its remedy is to balance lengths afterwards; ours drops the narrowest margins and reports
    what is left.
    """
    questions: dict[str, list[Row]] = {f"q{n}": [("c", 3.0 + n), ("r" * 9, 1.0)] for n in range(4)}
    questions["long"] = [("c" * 25, 3.0), ("r", 1.0)]
    paired = build_pairs(
        *records(questions), settings=PairSettings(balance_length=True), threshold=3.0, seed=0
    )
    assert [row.sample_id for row in paired.pairs] == [
        "q1",
        "q2",
        "q3",
        "long",
    ]  # q0 has the narrowest margin
    assert paired.summary["chosen_length"] == paired.summary["rejected_length"] == 7.0


def failing(reply: Answer, folder: Path) -> tuple[Judgment, int]:
    candidate = Candidate(id="q#0", sample_id="q", text="a dog", model="m", settings="s", seed=0)
    with judge_server(lambda prompt, attempt: reply) as server:
        return ask(folder, server.url, [candidate], retries=1)["q#0"], len(server.requests)


def test_fastchat_rewardbench_and_lmms_eval_turn_a_failed_call_into_a_score(tmp_path: Path) -> None:
    """-1, a tie of 0.5, the lowest score: here it is a row without a score that says so."""
    row, _ = failing(Answer(status=500, body={"error": {"message": "down"}}), tmp_path)
    assert (row.status, row.score) == ("failed", None) and "500" in row.reason


def test_arena_hard_asks_16_times_what_can_never_be_answered(tmp_path: Path) -> None:
    row, calls = failing(Answer(status=400, body={"error": {"message": "too long"}}), tmp_path)
    assert (row.status, row.score, calls) == ("refused", None, 1)


@pytest.mark.parametrize("status", [500, 408, 429])
def test_nemo_curator_and_ray_give_up_on_errors_that_pass(tmp_path: Path, status: int) -> None:
    """NeMo retries only where the words hold 429 or "rate", Ray never a 500."""
    with judge_server(
        lambda prompt, attempt: (
            completion("Score: 4")
            if attempt > 1
            else Answer(status=status, body={"error": {"message": "busy"}})
        )
    ) as server:
        candidate = Candidate(
            id="q#0", sample_id="q", text="a dog", model="m", settings="s", seed=0
        )
        assert ask(tmp_path, server.url, [candidate], retries=2)["q#0"].score == 4


def test_hound_reuses_replies_by_id_and_fastchat_none_at_all(tmp_path: Path) -> None:
    """Hound skips an id that was judged under another prompt; FastChat judges all again. Here the
    prompt is the key.
    """
    one = Candidate(id="q#0", sample_id="q", text="a dog", model="m", settings="s", seed=0)
    with judge_server(
        lambda prompt, attempt: completion(f"Score: {5 if 'dog' in prompt.split('>')[-1] else 1}")
    ) as server:
        assert ask(tmp_path, server.url, [one])["q#0"].score == 5
        assert ask(tmp_path, server.url, [one])["q#0"].score == 5 and len(server.requests) == 1
        assert ask(tmp_path, server.url, [replace(one, text="a cat")])["q#0"].score == 1
        assert len(server.requests) == 2


def test_hound_deletes_paid_replies_before_they_are_stored_elsewhere(tmp_path: Path) -> None:
    """It removes its file per reply at every start. A stage that dies here after its calls pays for
    none again.
    """
    samples, candidates, _ = records({"q": [("a dog", None), ("a cat", None)]})
    write_jsonl(tmp_path / "samples.jsonl", samples)
    with judge_server(lambda prompt, attempt: completion("Score: 4")) as server:
        recipe = Recipe.model_validate(
            {
                "name": "r",
                "runs_folder": str(tmp_path),
                "model": {"name": "m"},
                "tracking": {"to": "none"},
                "data": {"samples": str(tmp_path / "samples.jsonl")},
                "judge": {"model": "m", "scorer": "hound_quality", "base_url": server.url},
            }
        )
        with open_run(recipe) as run:
            write_jsonl(run.folder / "candidates.jsonl", candidates)
            judge(run)
            (run.folder / "judgments.jsonl").unlink()  # as if killed before the file was written
        with open_run(recipe) as run:
            judge(run)
            scores = [row.score for row in read_jsonl(run.folder / "judgments.jsonl", Judgment)]
        assert scores == [4, 4] and len(server.requests) == 2


def test_a_file_of_pairs_holds_the_scores_behind_them(tmp_path: Path) -> None:
    """Hound's and distilabel's pairs carry texts alone: nobody can ask for a wider margin later."""
    paired = build_pairs(
        *records({"q": [("a", 4.0), ("b", 1.5)]}), settings=PairSettings(), threshold=3.0, seed=0
    )
    write_jsonl(tmp_path / "pairs.jsonl", paired.pairs)
    row = json.loads((tmp_path / "pairs.jsonl").read_text())
    assert (row["chosen_score"], row["rejected_score"]) == (4.0, 1.5)
    assert (row["chosen_id"], row["rejected_id"]) == ("q#0", "q#1")
