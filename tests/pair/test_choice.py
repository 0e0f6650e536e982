"""Which answers become a pair: near mean - 2 sigma, floors, margins from the judge's noise and the
policy, samplers.
"""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preferences import Row, records

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import from_dict, read_jsonl, to_json, write_jsonl
from dpo_video.core.records import Candidate, Pair, Reward
from dpo_video.pair.audit import audit
from dpo_video.pair.audit_measures import shares_of
from dpo_video.pair.audit_page import audit_verdict
from dpo_video.pair.build import Paired, build_pairs
from dpo_video.pair.stage import pair, read_rewards, with_noise
from dpo_video.pair.statistics import sampler_shares, uneven_samplers
from dpo_video.pipeline import do_stages
from dpo_video.recipe import PairSettings, Recipe
from dpo_video.recipe.affects import key_settings
from dpo_video.run import open_run

SIGMA = PairSettings(rule="best_vs_sigma", min_margin=0.5)
BEST_WORST = PairSettings(rule="best_worst", min_margin=0.5)


def build(questions: dict[str, Sequence[Row]], settings: PairSettings, **given: Any) -> Paired:
    return build_pairs(*records(questions), settings=settings, threshold=3.0, seed=0, **given)


def ids(paired: Paired) -> list[tuple[str, str]]:
    return [(row.chosen_id, row.rejected_id) for row in paired.pairs]


def scored(*scores: float, finish: dict[int, str] | None = None) -> list[Row]:
    return [
        (f"answer {number}", score, (finish or {}).get(number, "stop"))
        for number, score in enumerate(scores)
    ]


def test_best_vs_sigma_rejects_the_answer_nearest_to_two_sigma_below_the_mean() -> None:
    """Of 21 scores (18 x 4, 5, 2, 0) the mean is 79/21 and sigma 0.971, so 1.82 is sought: the 2,
    not the worst.
    """
    scores = [4.0] * 18 + [5.0, 2.0, 0.0]
    assert np.mean(scores) - 2 * np.std(scores) == pytest.approx(1.819, abs=1e-3)
    assert ids(build({"q": scored(*scores)}, SIGMA)) == [("q#18", "q#19")]
    assert ids(build({"q": scored(*scores)}, BEST_WORST)) == [("q#18", "q#20")]
    far = SIGMA.model_copy(update={"rejected_sigmas": 4.0})  # -0.12 is sought
    assert ids(build({"q": scored(*scores)}, far)) == [("q#18", "q#20")]


def test_best_vs_sigma_agrees_with_trying_every_answer() -> None:
    chance = random.Random(1)
    for _ in range(200):
        scores = [chance.choice([1.0, 2.0, 2.5, 3.0, 3.25, 5.0]) for _ in range(8)]
        finish = {number: chance.choice(["stop", "stop", "length"]) for number in range(8)}
        sigmas = chance.choice([0.5, 1.0, 2.0])
        paired = build(
            {"q": scored(*scores, finish=finish)},
            SIGMA.model_copy(update={"rejected_sigmas": sigmas}),
        )
        best = max(
            (score for number, score in enumerate(scores) if finish[number] == "stop"), default=-1
        )
        target = np.mean(scores) - sigmas * np.std(scores)
        least = min((abs(score - target) for score in scores if best - score >= 0.5), default=None)
        found = [(row.chosen_score, pytest.approx(least)) for row in paired.pairs]
        assert found == (
            [(best, abs(paired.pairs[0].rejected_score - target))] if least is not None else []
        )


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (scored(3, 3, 3), "tie"),
        (scored(3, 3.25, 3), "below margin"),
        (scored(5, 1, 1, finish={0: "length"}), "cut"),
        (scored(5, 1, finish={0: "length", 1: "length"}), "cut"),
    ],
)
def test_best_vs_sigma_says_why_a_question_gives_no_pair(rows: list[Row], reason: str) -> None:
    paired = build({"q": rows}, SIGMA)
    assert paired.pairs == [] and paired.summary["questions_dropped"] == {reason: 1}


@pytest.mark.parametrize("rule", ["hound", "best_worst", "best_vs_sigma", "all_pairs"])
def test_floors_on_the_rejected_answer_drop_the_pair_under_every_rule(rule: Any) -> None:
    rows: dict[str, Sequence[Row]] = {"q": [("the best of answers", 5.0), ("bad one", 1.0)]}
    plain = PairSettings(rule=rule)
    assert len(build(rows, plain).pairs) == 1
    for change, reason in (
        ({"min_rejected_score": 1.1}, "rejected scores too low"),
        ({"min_rejected_length": 8}, "rejected too short"),
    ):
        paired = build(rows, plain.model_copy(update=change))
        assert paired.pairs == []
        assert paired.summary["pairs_dropped"] == paired.summary["questions_dropped"] == {reason: 1}
    assert (
        len(
            build(
                rows, plain.model_copy(update={"min_rejected_score": 1.0, "min_rejected_length": 7})
            ).pairs
        )
        == 1
    )


def test_all_pairs_keeps_the_other_pairs_of_a_question_whose_worst_answer_is_under_the_floor() -> (
    None
):
    settings = PairSettings(rule="all_pairs", max_pairs_per_sample=9, min_rejected_score=2.0)
    assert ids(build({"q": scored(5, 3, 1)}, settings)) == [("q#0", "q#1")]


def test_the_margin_floor_is_the_larger_of_the_setting_and_of_times_the_judges_noise(
    tmp_path: Path,
) -> None:
    (tmp_path / "agreement.json").write_text(json.dumps({"noise_sigma": 0.4, "pairs": 3}))
    for times, floor in ((None, 0.5), (1.0, 0.5), (2.0, 0.8)):
        settings = PairSettings(noise_margins=times)
        assert with_noise(settings, tmp_path) == settings.model_copy(update={"min_margin": floor})


def test_the_noise_may_be_that_of_another_run(tmp_path: Path) -> None:
    other = tmp_path / "first" / "agreement.json"
    other.parent.mkdir()
    settings = PairSettings(noise_margins=2.0, noise_from=str(other))
    with pytest.raises(UserError, match=re.escape(f"dpo-video agree {other.parent}; or leave")):
        with_noise(settings, tmp_path)
    other.write_text(json.dumps({"noise_sigma": 0.4}))
    assert with_noise(settings, tmp_path).min_margin == pytest.approx(0.8)
    assert key_settings(settings) == key_settings(PairSettings(noise_margins=2.0)), (
        "the number counts, not where it stands"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "which is not there. Measure it first: dpo-video agree "),
        ("{", "which is no JSON object"),
        ("[1]", "which is no JSON object"),
        ("{}", "whose `noise_sigma` is None, not a number of at least 0"),
        ('{"noise_sigma": NaN}', "NaN is no number of JSON"),
        ('{"noise_sigma": true}', "whose `noise_sigma` is True"),
    ],
)
def test_noise_that_was_not_measured_is_an_error_not_a_guess(
    tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "agreement.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        with_noise(PairSettings(noise_margins=2.0), tmp_path)


def recipe(folder: Path, **pairing: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "r",
            "runs_folder": str(folder),
            "model": {"name": "m"},
            "tracking": {"to": "none"},
            "pair": pairing,
            "data": {"samples": str(folder / "samples.jsonl")},
            "judge": {"model": "j", "scorer": "caption_score"},
        }
    )


def write_run(folder: Path, questions: dict[str, Sequence[Row]]) -> list[Candidate]:
    samples, candidates, judgments = records(questions)
    write_jsonl(folder / "samples.jsonl", samples)
    write_jsonl(folder / "r" / "candidates.jsonl", candidates)
    write_jsonl(folder / "r" / "judgments.jsonl", judgments)
    return candidates


def test_another_noise_or_other_rewards_make_the_pairs_again(tmp_path: Path) -> None:
    """Margins of 1 and 3: a noise of 0.5 x 4 lets the wider one stand; without a change nothing is
    done.
    """
    candidates = write_run(tmp_path, {"a": scored(2, 1), "b": scored(4, 1)})
    noise, rewards = tmp_path / "r" / "agreement.json", tmp_path / "rewards.jsonl"
    write_jsonl(
        rewards, [Reward(candidate_id=candidate.id, reward=0.0) for candidate in candidates]
    )
    settings = recipe(tmp_path, noise_margins=4.0, implicit_rewards=str(rewards))

    def made() -> list[str] | None:
        with open_run(settings) as run:
            done = do_stages(run, ["pair"])
        return (
            [row.sample_id for row in read_jsonl(tmp_path / "r" / "pairs.jsonl", Pair)]
            if done
            else None
        )

    noise.write_text('{"noise_sigma": 0.5}')
    assert made() == ["b"] and made() is None
    noise.write_text('{"noise_sigma": 0.1}')
    assert made() == ["a", "b"] and made() is None
    write_jsonl(
        rewards, [Reward(candidate_id=candidate.id, reward=1.0) for candidate in candidates]
    )
    assert made() == ["a", "b"] and made() is None


def test_the_hardest_share_of_pairs_by_the_policys_own_margin_stays() -> None:
    """Implicit margins 2, -1, 0.5 and 0.1 of 4 pairs: half of them are the two smallest, -1 and
    0.1.
    """
    questions = {name: scored(4, 1) for name in "abcd"}
    rewards = {
        f"{name}#0": margin for name, margin in zip("abcd", (2.0, -1.0, 0.5, 0.1), strict=True)
    }
    rewards |= {f"{name}#1": 0.0 for name in "abcd"}
    paired = build(questions, BEST_WORST.model_copy(update={"keep_hardest": 0.5}), rewards=rewards)
    assert [(row.sample_id, row.implicit_margin) for row in paired.pairs] == [
        ("b", -1.0),
        ("d", 0.1),
    ]
    assert paired.summary["pairs_dropped"] == paired.summary["questions_dropped"] == {"easy": 2}
    every = build(questions, BEST_WORST, rewards=rewards)
    assert [row.implicit_margin for row in every.pairs] == [2.0, -1.0, 0.5, 0.1]
    assert all(row.implicit_margin is None for row in build(questions, BEST_WORST).pairs)


def test_rewards_that_are_missing_double_or_no_number_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rewards.jsonl"
    settings = PairSettings(implicit_rewards=str(file))
    with pytest.raises(
        UserError, match=r"keep_hardest 0.5 chooses by implicit margins: set pair.implicit_rewards"
    ):
        read_rewards(PairSettings(keep_hardest=0.5))
    for text, message in (
        ("0.5", "has two rewards"),
        ("1e999", "`reward` must be a finite number, got inf"),
        ("NaN", "no number of JSON"),
    ):
        file.write_text(f'{{"candidate_id": "q#0", "reward": {text}}}\n' * 2)
        with pytest.raises(UserError, match=message):
            read_rewards(settings)
    with pytest.raises(
        UserError,
        match=r"1 of the paired candidates have no reward in .*rewards.jsonl', first 'q#1'",
    ):
        build({"q": scored(4, 1)}, settings, rewards={"q#0": 1.0})


def test_a_cut_rejected_answer_is_marked_and_only_then(tmp_path: Path) -> None:
    whole, cut = build(
        {"a": scored(4, 1), "b": scored(4, 1, finish={1: "length"})}, BEST_WORST
    ).pairs
    assert (whole.rejected_finish, cut.rejected_finish) == ("stop", "length")
    assert "rejected_finish" not in to_json(whole) and '"rejected_finish": "length"' in to_json(cut)
    for row in (whole, cut):
        assert from_dict(Pair, json.loads(to_json(row)), "here") == row


def test_a_sampler_whose_answers_are_mostly_chosen_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 20 pairs sampler `b` wins 13 and loses 7: 65 % of its answers are chosen, as many of `a`
    rejected.
    """
    questions: dict[str, Sequence[Row]] = {
        f"q{number}": scored(1, 4) if number < 13 else scored(4, 1) for number in range(20)
    }
    candidates = write_run(tmp_path, questions)
    mixed = [
        replace(row, sampler="b") if row.id.endswith("#1") else replace(row, model="a")
        for row in candidates
    ]
    write_jsonl(tmp_path / "r" / "candidates.jsonl", mixed)
    with open_run(recipe(tmp_path)) as run:
        summary = pair(run).counts
    assert summary["samplers"] == {
        "a": {"chosen": 7, "rejected": 13},
        "b": {"chosen": 13, "rejected": 7},
    }
    assert (
        len(summary["warnings"]) == 2
        and "13 of the 20 paired answers of 'b' are chosen (65%)" in caplog.text
    )


def test_sides_that_a_rule_gives_to_samplers_are_no_warning(tmp_path: Path) -> None:
    """All 20 answers of each sampler are on one side."""
    rows: dict[str, Sequence[Row]] = {
        f"q{number}": [("a dog runs", 4.0), ("a cat sits", 1.0)] for number in range(20)
    }
    candidates = write_run(tmp_path, rows)
    named = [replace(row, sampler="ab"[int(row.id[-1])]) for row in candidates]
    write_jsonl(tmp_path / "r" / "candidates.jsonl", named)
    settings = recipe(tmp_path).model_dump(exclude_unset=True)
    settings["generate"] = {"mix": [{"name": name, "num_candidates": 1} for name in "ab"]}
    settings["pair"] = {"rule": "across", "chosen_samplers": ["a"], "rejected_samplers": ["b"]}
    with open_run(Recipe.model_validate(settings)) as run:
        do_stages(run, ["pair"])
    stages = json.loads((tmp_path / "r" / "manifest.json").read_text())["stages"]
    summary = stages["pair"]["summary"]
    shares = {"a": {"chosen": 20, "rejected": 0}, "b": {"chosen": 0, "rejected": 20}}
    assert summary["samplers"] == shares and summary["warnings"] == []
    report = audit(tmp_path / "r")
    assert not any("paired answers" in warning for warning in report.warnings)
    assert shares_of(report.samplers) == shares
    told = audit_verdict(replace(report, warnings=[])).text
    assert "samplers stand on the sides that pair.rule gives them" in told


def test_a_share_of_sixty_percent_and_few_answers_give_no_warning() -> None:
    assert (
        uneven_samplers({"a": {"chosen": 12, "rejected": 8}, "b": {"chosen": 19, "rejected": 0}})
        == []
    )
    assert (
        len(
            uneven_samplers(
                {"a": {"chosen": 13, "rejected": 8}, "b": {"chosen": 0, "rejected": 20}}
            )
        )
        == 2
    )
    assert sampler_shares([], {"q#0": "m"}) == {"m": {"chosen": 0, "rejected": 0}}
