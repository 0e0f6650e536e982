"""Statistics of pairs."""

from preferences import BEST_WORST, build

from dpo_video.pair.statistics import pair_statistics


def test_statistics_are_those_of_the_pairs() -> None:
    paired = build({"a": [("cccc", 5.0), ("r", 1.0)], "b": [("cc", 3.0), ("rrr", 2.0)]}, BEST_WORST)
    found = pair_statistics(paired.pairs)
    assert (found["chosen_length"], found["rejected_length"], found["chosen_longer"]) == (
        3.0,
        2.0,
        0.5,
    )
    assert (
        found["margin"]["min"] == 1
        and found["margin"]["median"] == 2.5
        and found["margin"]["max"] == 4
    )
    assert pair_statistics([])["margin"] == {} and pair_statistics([])["chosen_length"] is None
