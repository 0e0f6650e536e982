"""The rule `across`: chosen from one set of samplers, rejected from another, every drop counted."""

from dataclasses import replace

import pytest
from preferences import records
from pydantic import ValidationError

from dpo_video.pair.build import build_pairs
from dpo_video.recipe import PairSettings, Recipe
from dpo_video.recipe.file import load_recipe

SIDES = {"chosen_samplers": ["clean", "knowing"], "rejected_samplers": ["drop", "reverse"]}
ACROSS = PairSettings(rule="across", min_margin=0.5, max_pairs_per_sample=4, **SIDES)


def pair_across(*answers, settings=ACROSS, unsure=()):
    """Pair answers given as (sampler, text, score[, finish]), judged good from a score of 3."""
    samples, candidates, judgments = records({"q": [row[1:] for row in answers]})
    candidates = [
        replace(candidate, sampler=row[0])
        for candidate, row in zip(candidates, answers, strict=True)
    ]
    judgments = [
        replace(row, distribution={"A": 0.4, "B": 0.35, "C": 0.25} if place in unsure else {"A": 1})
        for place, row in enumerate(judgments)
    ]
    paired = build_pairs(samples, candidates, judgments, settings=settings, threshold=3.0, seed=0)
    pairs = [(row.chosen, row.rejected) for row in paired.pairs]
    drops = {row.reason: row.count for row in paired.drops if row.unit == "pair"}
    return pairs, drops, paired


def test_the_best_of_one_side_is_paired_with_each_of_the_other() -> None:
    pairs, drops, paired = pair_across(
        ("clean", "he pours oil", 4.0),
        ("knowing", "a man pours olive oil", 4.5),
        ("drop", "a man stands", 2.0),
        ("reverse", "oil flows into a bottle", 1.0),
        ("other", "the worst of all", 0.0),
    )
    assert pairs == [
        ("a man pours olive oil", "oil flows into a bottle"),
        ("a man pours olive oil", "a man stands"),
    ]
    assert drops == {}
    assert {row.source for row in paired.pairs} == {"across"}


@pytest.mark.parametrize(
    ("chosen", "rejected", "unsure", "reason"),
    [
        (("clean", "good answer", 4.0), ("drop", "as good", 4.0), (), "rejected not worse"),
        (("clean", "good answer", 4.0), ("drop", "better one", 4.5), (), "rejected not worse"),
        (("clean", "wrong one", 2.9), ("drop", "worse still", 1.0), (), "chosen is wrong"),
        (("clean", "perhaps so", 4.0), ("drop", "or not", 3.0), (0, 1), "both unsure"),
        (("clean", "red", 4.0), ("drop", "a Red, car", 1.0), (), "chosen inside rejected"),
        (("clean", "123456789", 4.0), ("drop", "abcd", 1.0), (), "lengths too unequal"),
        (("clean", "good answer", 4.0), ("drop", "nearly so", 3.7), (), "below margin"),
        (("clean", "half an", 4.0, "length"), ("drop", "bad", 1.0), (), "cut"),
        (("clean", "good answer", 4.0), ("clean", "bad", 1.0), (), "one side only"),
    ],
)
def test_what_the_judge_or_the_texts_speak_against_is_dropped_with_its_reason(
    chosen, rejected, unsure, reason
) -> None:
    settings = ACROSS.model_copy(update={"max_length_ratio": 2.0})
    pairs, drops, paired = pair_across(chosen, rejected, settings=settings, unsure=unsure)
    assert pairs == []
    assert drops == {reason: 1}
    assert paired.summary["questions_dropped"] == {reason: 1}


@pytest.mark.parametrize("first", [0, 1])
def test_a_text_that_both_sides_wrote_stands_on_both_whichever_was_drawn_first(first) -> None:
    """Of one side only it would leave the other without its right answer, or its wrong one."""
    rows = [
        ("knowing", "olive oil", 4.0),
        ("drop", "olive oil", 4.0),
        ("reverse", "milk", 1.0),
        ("clean", "Milk.", 1.0),
        ("clean", "Olive oil!", 4.0),
    ]
    pairs, drops, paired = pair_across(*(rows if first else reversed(rows)))
    assert [(chosen.strip("!").lower(), rejected) for chosen, rejected in pairs] == [
        ("olive oil", "milk")
    ]
    assert drops == {"rejected not worse": 1}
    assert paired.summary["answers_dropped"] == {"duplicate": 1}, "of the chosen side's three"


def test_where_frames_were_dropped_the_chosen_answer_must_be_the_longer_one() -> None:
    settings = ACROSS.model_copy(update={"max_length_ratio": 1.5, "chosen_longer_than": ["drop"]})
    for chosen, drop, reverse, reasons in (
        ("123456", "abcdef", "abcdefghi", {"chosen not longer": 1}),
        ("123456", "abcde", "abcdefghij", {"lengths too unequal": 1}),
        ("123456", "a", "abc", {"lengths too unequal": 1}),
        ("123456", "a", "abcd", {}),
    ):
        _, drops, _ = pair_across(
            ("clean", chosen, 4.0),
            ("drop", drop, 1.0),
            ("reverse", reverse, 1.0),
            settings=settings,
        )
        assert drops == reasons


def test_one_answer_that_the_judge_is_sure_of_is_enough() -> None:
    pairs, _, _ = pair_across(
        ("clean", "good answer", 4.0), ("drop", "unlike it", 1.0), unsure=(1,)
    )
    assert len(pairs) == 1


def test_pairs_over_the_cap_are_counted_and_the_widest_margins_stay() -> None:
    settings = ACROSS.model_copy(update={"max_pairs_per_sample": 1})
    pairs, drops, _ = pair_across(
        ("clean", "good answer", 4.0),
        ("drop", "somewhat bad", 2.0),
        ("reverse", "very bad", 1.0),
        settings=settings,
    )
    assert pairs == [("good answer", "very bad")]
    assert drops == {"over cap": 1}


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ({"rule": "across"}, "pair.chosen_samplers names no sampler: pairs need both sides"),
        ({"rule": "across", "chosen_samplers": ["clean"]}, "pair.rejected_samplers names no"),
        (
            {"rule": "across", "chosen_samplers": ["clean"], "rejected_samplers": ["drp"]},
            "pair.rejected_samplers: no sampler of generate.mix is called 'drp'. Did you mean",
        ),
        (
            {"rule": "across", "chosen_samplers": ["clean"], "rejected_samplers": ["clean"]},
            "both name 'clean'",
        ),
        ({"chosen_samplers": ["clean"]}, "belongs to `pair.rule: across`"),
        (
            {
                "rule": "across",
                "chosen_samplers": ["clean"],
                "rejected_samplers": ["drop"],
                "chosen_longer_than": ["clean"],
            },
            "pair.chosen_longer_than: 'clean' is not among pair.rejected_samplers (drop)",
        ),
    ],
)
def test_a_mix_that_gives_one_side_only_is_refused_before_anything_is_paid(pair, message) -> None:
    recipe = load_recipe("quickstart").model_dump()
    recipe["generate"]["mix"] = [
        {"name": "clean", "num_candidates": 2},
        {"name": "drop", "num_candidates": 2, "clip": "drop"},
    ]
    recipe["pair"] |= {"rule": "best_worst"} | pair
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(recipe)
    assert message in str(caught.value)
