"""Which pair is shown to whom, and on which side."""

from dataclasses import replace

from dpo_video.core.records import Pair, Vote
from dpo_video.review.queue import AGAIN_AFTER, PairTurn, ReviewPair, ReviewQueue


def make_queue(num_pairs: int, *, overlap: float = 0.0, seed: int = 1) -> ReviewQueue:
    rows = []
    for number in range(num_pairs):
        pair = Pair(
            sample_id=f"s{number}",
            video="v.mp4",
            prompt="?",
            chosen="a",
            rejected="b",
            source="best_worst",
            chosen_id=f"s{number}#0",
            rejected_id=f"s{number}#1",
        )
        answers = ((pair.chosen_id, "a"), (pair.rejected_id, "b"))
        rows.append(
            ReviewPair(key=f"k{number}", pair=pair, answers=answers, doubt=None, category=None)
        )
    return ReviewQueue(rows, overlap=overlap, seed=seed)


def vote_on(turn: PairTurn, annotator: str, choice: str = "A") -> Vote:
    (left, _), (right, _) = turn.answers
    return Vote(
        id=f"{annotator} {turn.review_pair.key} {turn.repeat}",
        sample_id=turn.review_pair.pair.sample_id,
        left_id=left,
        right_id=right,
        texts="",
        choice=choice,  # type: ignore[arg-type]
        annotator=annotator,
        at="",
        repeat=turn.repeat,
    )


def test_sides_are_drawn_by_the_seed_and_stay() -> None:
    queue = make_queue(200)
    turns = [queue.turn(row, "ann", 0) for row in queue.pairs]
    assert turns == [queue.turn(row, "ann", 0) for row in make_queue(200).pairs]
    assert 70 < sum(turn.is_swapped for turn in turns) < 130
    other = make_queue(200, seed=2)
    assert [turn.is_swapped for turn in turns] != [
        other.turn(row, "ann", 0).is_swapped for row in other.pairs
    ]


def test_the_same_pair_is_shown_until_it_is_voted_on() -> None:
    queue = make_queue(3)
    first = queue.next_turn("ann", [])
    assert first is not None and first == queue.next_turn("ann", [])
    second = queue.next_turn("ann", [vote_on(first, "ann", "skip")])
    assert second is not None and second.review_pair.key == "k1"


def test_two_annotators_divide_the_pairs() -> None:
    queue = make_queue(3)
    ann, bob = queue.next_turn("ann", []), queue.next_turn("bob", [])
    assert ann is not None and bob is not None
    assert (ann.review_pair.key, bob.review_pair.key) == ("k0", "k1")
    votes = [vote_on(ann, "ann"), vote_on(bob, "bob")]
    third = queue.next_turn("ann", votes)
    assert third is not None and third.review_pair.key == "k2"
    assert queue.next_turn("bob", votes) is None


def test_shared_pairs_go_to_everybody_and_come_again_with_swapped_sides() -> None:
    queue = make_queue(2, overlap=1.0)
    votes: list[Vote] = []
    seen: list[tuple[str, int, bool]] = []
    while (turn := queue.next_turn("ann", votes)) is not None:
        votes.append(vote_on(turn, "ann"))
        seen.append((turn.review_pair.key, turn.repeat, turn.is_swapped))
    assert [(key, repeat) for key, repeat, _ in seen] == [
        ("k0", 0),
        ("k1", 0),
        ("k0", 1),
        ("k1", 1),
    ]
    assert seen[0][2] != seen[2][2] and seen[1][2] != seen[3][2]
    bob = queue.next_turn("bob", votes)
    assert bob is not None and bob.review_pair.key == "k0" and bob.repeat == 0


def test_a_pair_comes_again_only_once_it_may_be_forgotten() -> None:
    queue = make_queue(AGAIN_AFTER + 5)
    queue.shared = {"k0"}
    votes: list[Vote] = []
    keys = []
    for _ in range(AGAIN_AFTER + 3):
        turn = queue.next_turn("ann", votes)
        assert turn is not None
        keys.append((turn.review_pair.key, turn.repeat))
        votes.append(vote_on(turn, "ann"))
    assert keys.index(("k0", 1)) == AGAIN_AFTER + 1


def test_a_turned_pair_keeps_its_sides() -> None:
    queue = make_queue(1)
    row = queue.pairs[0]
    turned = replace(row, pair=replace(row.pair, chosen_id="s0#1", rejected_id="s0#0"))
    assert queue.turn(row, "ann", 0).answers == queue.turn(turned, "ann", 0).answers
