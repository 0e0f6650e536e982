"""Two models on one set: tests and sentences on counts made by hand, against scipy and by
simulation.
"""

import random
from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest

from dpo_video.benchmarks.paired import (
    PairedQuestion,
    PairedResult,
    compare_questions,
    detectable_change,
    fewest_changes,
    holm,
    mcnemar,
    outcome,
    verdict_line,
)
from dpo_video.core.report import Estimate


def answered(before: list[bool], after: list[bool], *, group_size: int = 1) -> list[PairedQuestion]:
    """A question a clip, right or wrong; every `group_size` of them count together."""
    return [
        PairedQuestion(
            clip=f"{index // group_size}.mp4",
            group=str(index // group_size) if group_size > 1 else None,
            before=float(was_right),
            after=float(is_right),
        )
        for index, (was_right, is_right) in enumerate(zip(before, after, strict=True))
    ]


def result(
    *, change: tuple[float, float, float], gained: int = 5, lost: int = 1, n: int = 400
) -> PairedResult:
    value, low, high = change
    return PairedResult(
        before=0.6,
        after=0.6 + value,
        change=Estimate(value=value, interval=(low, high), n=n),
        gained=gained,
        lost=lost,
        p_value=mcnemar(gained, lost),
    )


@pytest.mark.parametrize(
    ("gained", "lost"), [(0, 0), (1, 0), (3, 3), (12, 40), (40, 12), (0, 9), (700, 760)]
)
def test_mcnemar_is_the_exact_binomial_test_of_what_changed(gained: int, lost: int) -> None:
    expected = 1.0 if gained + lost == 0 else binomtest(gained, gained + lost).pvalue
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("gained", "lost"), [(0, 3), (2, 2), (1, 7), (9, 3)])
def test_mcnemar_counts_the_outcomes_that_are_no_likelier(gained: int, lost: int) -> None:
    """Every way in which the changed units could have gone, each as likely: how many of them are as
    lopsided as this one.
    """
    changed = gained + lost
    ways = [sum(way) for way in product((0, 1), repeat=changed)]
    lopsided = sum(abs(2 * up - changed) >= abs(gained - lost) for up in ways)
    assert mcnemar(gained, lost) == pytest.approx(lopsided / len(ways))


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    """4 x 0.01, 3 x 0.02, then 2 x 0.03 = 0.06 and 1 x 0.04, which may not be below 0.06."""
    adjusted = holm({"c": 0.03, "a": 0.01, "d": 0.04, "b": 0.02})
    assert adjusted == pytest.approx({"c": 0.06, "a": 0.04, "d": 0.06, "b": 0.06})
    assert list(adjusted) == ["c", "a", "d", "b"]
    assert holm({"x": 0.6, "y": 0.9}) == {"x": 1.0, "y": 1.0} and holm({}) == {}


def test_holm_finds_nothing_in_sets_where_nothing_changed() -> None:
    """Of 300 families of eight sets without a change, at most about 5 % have one below 0.05."""
    chance = random.Random(0)
    found = 0
    for _ in range(300):
        family = {}
        for name in "abcdefgh":
            gained = sum(chance.random() < 0.5 for _ in range(40))
            family[name] = mcnemar(gained, 40 - gained)
        found += min(holm(family).values()) < 0.05
    assert found <= 0.07 * 300


def test_units_gained_and_lost_are_counted_on_the_same_questions() -> None:
    """Of six, the second and third are gained, the fifth is lost."""
    before = [True, False, False, False, True, True]
    after = [True, True, True, False, False, True]
    paired = compare_questions(answered(before, after), resamples=200, seed=0)
    assert (paired.gained, paired.lost) == (2, 1)
    assert (paired.before, paired.after) == (0.5, pytest.approx(4 / 6))
    assert paired.change.value == pytest.approx(1 / 6) and paired.change.n == 6
    assert paired.p_value == 1.0


def test_a_group_is_one_unit() -> None:
    """Pairs: wrong to right, right to right, right to wrong, wrong to wrong: a half was right."""
    before = [True, False, True, True, True, True, False, False]
    after = [True, True, True, True, True, False, True, False]
    questions = answered(before, after, group_size=2)
    paired = compare_questions(questions, resamples=200, seed=0)
    assert (paired.gained, paired.lost, paired.change.n) == (1, 1, 4)
    assert (paired.before, paired.after, paired.change.value) == (0.5, 0.5, 0.0)


def paired(*worth: tuple[str, str | None, float, float]) -> list[PairedQuestion]:
    return [
        PairedQuestion(clip=clip, group=group, before=before, after=after)
        for clip, group, before, after in worth
    ]


def test_the_interval_is_that_of_all_ways_to_draw_the_clips() -> None:
    """Five clips of one to three questions: 3,125 ways to draw five, each with its mean change."""
    changes = {"a": [1, 1, 0], "b": [-1], "c": [0, 1], "d": [1], "e": [-1, 0, 1]}
    questions = [
        PairedQuestion(clip=clip, before=max(0, -change), after=max(0, change))
        for clip, values in changes.items()
        for change in values
    ]
    means = []
    for drawn in product(changes, repeat=len(changes)):
        values = [value for clip in drawn for value in changes[clip]]
        means.append(sum(values) / len(values))
    low, high = np.quantile(means, [0.025, 0.975])
    interval = compare_questions(questions, resamples=40_000, seed=3).change.interval
    assert interval == pytest.approx((low, high), abs=0.02)


def test_clips_that_a_group_asks_about_together_are_drawn_together() -> None:
    """Of groups a-b, b-c and d-e only two things can be drawn: all or nothing of a, b and c."""
    linked = paired(
        ("a", "1", 0, 1), ("b", "1", 1, 1), ("b", "2", 0, 1), ("c", "2", 1, 1), ("d", "3", 1, 1),
        ("e", "3", 1, 1),
    )  # fmt: skip
    apart = paired(
        ("a", None, 0, 1), ("a", None, 0, 1), ("d", None, 1, 1)
    )  # the same units about two clips
    for questions in (linked, apart):
        change = compare_questions(questions, resamples=500, seed=0).change
        assert change.value == pytest.approx(2 / 3) and change.interval == (0.0, 1.0)


def test_scores_that_differ_by_less_than_a_tie_are_neither_gained_nor_lost() -> None:
    questions = paired(("a", None, 3, 5), ("b", None, 4, 4.2), ("c", None, 5, 3), ("d", None, 2, 2))
    scored = compare_questions(questions, resamples=100, seed=0, is_share=False, tie_margin=0.5)
    assert (scored.gained, scored.lost, scored.p_value) == (1, 1, 1.0)
    assert scored.change.value == pytest.approx(0.05)
    assert verdict_line("captions", scored, 1.0, measure="judged score").startswith(
        "captions: not distinguishable, judged score 3.50 to 3.55: +0.05 ["
    )


def test_a_change_counts_where_both_the_test_and_the_interval_say_so() -> None:
    better, worse = result(change=(0.05, 0.02, 0.08)), result(change=(-0.05, -0.08, -0.02))
    assert (outcome(better, 0.01), outcome(worse, 0.01)) == ("better", "worse")
    assert outcome(better, 0.2) == "not distinguishable"
    assert outcome(result(change=(0.05, -0.01, 0.11)), 0.001) == "not distinguishable"


def test_the_detectable_change_is_found_four_times_in_five() -> None:
    """Differences of mean m and standard deviation 0.5 over 400 clips: SE 0.025, m = 2.8 SE."""
    half_width = 1.959964 * 0.025
    size = detectable_change(result(change=(0.0, -half_width, half_width)))
    assert size == pytest.approx(2.801585 * 0.025, rel=1e-5)
    chance = random.Random(1)
    hits = 0
    for _ in range(1000):
        mean = sum(chance.gauss(size, 0.5) for _ in range(400)) / 400
        hits += mean - half_width > 0
    assert 0.76 < hits / 1000 < 0.84


@pytest.mark.parametrize(("level", "fewest"), [(0.05, 6), (0.05 / 4, 8), (0.05 / 10, 9)])
def test_so_many_units_must_change_alike(level: float, fewest: int) -> None:
    """2 x 2^-6 = 0.031 where 2 x 2^-5 = 0.062."""
    assert fewest_changes(level) == fewest
    assert binomtest(0, fewest).pvalue < level <= binomtest(0, fewest - 1).pvalue


def test_where_nothing_changed_the_detectable_change_is_that_of_the_exact_test() -> None:
    """100 units, all lost ones alike: at the size named, 6 or more are lost 4 times in 5."""
    size = detectable_change(result(change=(0.0, 0.0, 0.0), gained=0, lost=0, n=100))
    assert size is not None
    assert 1 - binomtest(5, 100, size, alternative="less").pvalue == pytest.approx(0.8, abs=1e-6)
    assert detectable_change(result(change=(0, 0, 0), n=5)) is None
    line = verdict_line("few", result(change=(0.2, 0.0, 0.6), gained=1, lost=0, n=5), 1.0)
    assert line.endswith("of 5, p 1; 5 are too few to show any change")


def test_of_several_sets_a_change_must_be_larger_to_be_found() -> None:
    sized = result(change=(0.0, -0.05, 0.05))
    alone, among_four = detectable_change(sized), detectable_change(sized, num_sets=4)
    normal = 2.497705 + 0.841621  # z of 1 - 0.05 / 8, and of 80 %
    assert alone is not None and among_four is not None and alone < among_four
    assert among_four == pytest.approx(normal * 0.05 / 1.959964, rel=1e-5)


def test_a_sentence_says_what_changed_or_what_could_have_been_found() -> None:
    assert verdict_line(
        "temporal", result(change=(-0.055, -0.081, -0.029), gained=12, lost=40), 3e-4
    ) == (
        "temporal: worse, 60.0 % to 54.5 %: -5.5 pts [-8.1, -2.9], 12 gained, 40 lost of 400, "
        "p 0.0003"
    )
    line = verdict_line("temporal", result(change=(0.01, -0.02, 0.04)), 0.5)
    assert line == (
        "temporal: not distinguishable, 60.0 % to 61.0 %: +1.0 pts [-2.0, +4.0], 5 gained, 1 lost "
        "of 400, p 0.5; a change of 4.3 pts would have been found 4 times in 5"
    )
