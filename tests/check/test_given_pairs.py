"""The plan of a run whose pairs the data bring."""

import math
from pathlib import Path
from typing import Any

import pytest
from check_runs import recipe_for

from dpo_video.check.command import check
from dpo_video.check.plan import plan_text
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Pair
from dpo_video.recipe import Recipe


def pair_of(question: str, *, chosen: str, other: str | None) -> Pair:
    return Pair(
        sample_id=question,
        video="c0.mp4",
        prompt="what happens ?",
        chosen=chosen,
        rejected="a cat",
        rejected_video=other,
        source="written",
        chosen_id="a",
        rejected_id="b",
    )


def given_pairs(world: Path, **changes: dict[str, Any]) -> Recipe:
    """Return a recipe for six pairs about three questions, the last of which has its rejected
    answers go with a clip of their own; the judge lacks its key."""
    write_jsonl(
        world / "pairs.jsonl",
        [
            pair_of(
                str(question),
                chosen="a dog runs " * (number + 1),
                other="c1.mp4" if question == 2 else None,
            )
            for question in range(3)
            for number in range(2)
        ],
    )
    data = {
        "pairs": str(world / "pairs.jsonl"),
        "samples": "",
        "heldout": None,
        **changes.pop("data", {}),
    }
    judge = {"base_url": "https://api.example.com/v1", "api_key_env": "NO_SUCH_KEY"}
    return recipe_for(world, data=data, judge=judge, generate={"temperature": 0}, **changes)


def test_given_pairs_are_planned_for_as_they_are_and_nothing_is_judged_without_held_out_samples(
    world: Path,
) -> None:
    """Six pairs, and a negative for each question whose pairs do not tell clips apart; the longest
    answer is 22 characters, 6 tokens at 4 each."""
    plan = check(
        given_pairs(
            world,
            pair={"video_negatives": ["reverse"]},
            train={"batch_size": 1, "gradient_accumulation": 1},
        )
    )
    assert plan.problems == () and (plan.questions, plan.decoded) == (3, 2)
    assert (plan.pairs, plan.steps) == (6 + 2, 8)
    assert (
        plan.sequence.maximum - plan.video_tokens.maximum
        == math.ceil(len("what happens ?") / 4) + 32 + 6
    )
    assert set(plan.memory) == {"train"}
    text = plan_text(plan)
    assert "at most 8, given by data.pairs" in text
    assert (
        "judge the candidates" not in text
        and "temperature" not in text
        and "favours its own" not in text
    )


def test_given_pairs_with_held_out_samples_still_need_the_judge(world: Path) -> None:
    plan = check(given_pairs(world, data={"heldout": str(world / "heldout.jsonl")}))
    assert len(plan.problems) == 1 and "NO_SUCH_KEY is not set" in plan.problems[0]
    assert set(plan.memory) == {"evaluate", "train"} and plan.pairs == 6
    assert plan.evaluation_judge is not None and plan.evaluation_judge.calls > 0


@pytest.mark.parametrize("samples", [{}, {"samples": "data/train.jsonl"}])
def test_missing_pairs_are_an_error_whatever_the_samples(
    world: Path, samples: dict[str, str]
) -> None:
    with pytest.raises(UserError, match=r"no file at 'data/train.jsonl'"):
        check(given_pairs(world, data={"pairs": "data/train.jsonl", **samples}))


def test_a_missing_clip_of_a_rejected_answer_is_found(world: Path) -> None:
    recipe = given_pairs(world)
    write_jsonl(world / "pairs.jsonl", [pair_of("a", chosen="a dog", other="gone.mp4")])
    plan = check(recipe)
    (problem,) = plan.problems
    assert problem.startswith(f"1 of 2 clips are missing: {world / 'pairs.jsonl'}:1: no file at ")
