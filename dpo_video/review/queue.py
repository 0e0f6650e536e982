"""Which pair an annotator is shown next, and on which side its answers stand."""

import hashlib
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from dpo_video.core.records import Pair, Vote
from dpo_video.data.votes import PairKey, pair_key
from dpo_video.pages.doubt import judge_doubt
from dpo_video.pages.run_files import RunFiles

Order = Literal["doubt", "random", "stratified"]
LEASE_SECONDS = 600.0
"""How long a pair that one annotator was shown is not shown to another."""
AGAIN_AFTER = 10
"""Votes after which a pair is asked a second time; sooner it would be remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewPair:
    """A pair to be voted on."""

    key: str
    """What addresses name it by, whichever answer is the chosen one."""
    pair: Pair
    answers: tuple[tuple[str, str], tuple[str, str]]
    """Candidate id and text of each, by id: which one the judge prefers is not to be told by it."""
    doubt: float | None
    category: str | None

    @property
    def votes_key(self) -> PairKey:
        """What votes know it by."""
        return pair_key(self.pair.chosen_id, self.pair.rejected_id)


class PairTurn(NamedTuple):
    """A pair as it is shown to one annotator."""

    review_pair: ReviewPair
    repeat: int
    """1 where it is asked the second time."""
    is_swapped: bool
    """Whether the second of `answers` stands left."""

    @property
    def answers(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Candidate id and text of A and of B."""
        first, second = self.review_pair.answers
        return (second, first) if self.is_swapped else (first, second)


def review_pairs(run: RunFiles, order: Order, *, seed: int) -> list[ReviewPair]:
    """Return the pairs to vote on in order: those of two answers to one clip.

    `doubt`: those first of whose order the judge is least sure. `stratified`: categories in turn,
    or fifths of the doubt where samples have no category; random within each.
    """
    sigma = run.agreement.get("noise_sigma")
    rows = []
    for pair in run.pairs:
        if pair.chosen_id == pair.rejected_id or pair.chosen == pair.rejected:
            continue
        judged = [run.judgments.get(name) for name in (pair.chosen_id, pair.rejected_id)]
        sample = run.train.samples.get(pair.sample_id)
        rows.append(
            ReviewPair(
                key=_digest(*sorted((pair.chosen_id, pair.rejected_id))),
                pair=pair,
                answers=_by_id(pair),
                doubt=judge_doubt(judged[0], judged[1], run.scorer, noise_sigma=sigma),
                category=None if sample is None else sample.category,
            )
        )
    random.Random(seed).shuffle(rows)
    if order == "doubt":
        rows.sort(key=lambda row: -1.0 if row.doubt is None else -row.doubt)
    if order == "stratified":
        return _in_turn(rows)
    return rows


def _in_turn(rows: Sequence[ReviewPair]) -> list[ReviewPair]:
    """Return rows, one of each stratum in turn."""
    by_doubt = sorted(rows, key=lambda row: row.doubt or 0.0)
    fifth_of = {row.key: rank * 5 // len(rows) for rank, row in enumerate(by_doubt)}
    strata: dict[str, list[ReviewPair]] = {}
    for row in rows:
        strata.setdefault(row.category or f"fifth {fifth_of[row.key]}", []).append(row)
    ordered: list[ReviewPair] = []
    for index in range(max(map(len, strata.values()), default=0)):
        ordered += [stratum[index] for stratum in strata.values() if index < len(stratum)]
    return ordered


class ReviewQueue:
    """The pairs of a review, and who is shown which of them now."""

    def __init__(self, pairs: Sequence[ReviewPair], *, overlap: float, seed: int) -> None:
        """Take the pairs in order.

        Args:
            overlap: share of the pairs that every annotator is asked about, and asked twice.
            seed: draws the sides, and the pairs of the overlap.
        """
        self.pairs = list(pairs)
        self.by_key = {row.key: row for row in pairs}
        self.seed = seed
        self.shared = {row.key for row in pairs if self._draw("overlap", row.key) < overlap}
        self._leases: dict[str, tuple[str, float]] = {}
        """By pair: who is shown it, and until when."""

    def turn(self, row: ReviewPair, annotator: str, repeat: int) -> PairTurn:
        """Return a pair with its sides, which are the same each time, and swapped when asked
        again.
        """
        is_swapped = self._draw("side", row.key, annotator) < 0.5
        return PairTurn(row, repeat, is_swapped != bool(repeat))

    def next_turn(self, annotator: str, votes: Sequence[Vote]) -> PairTurn | None:
        """Return what to show an annotator now, the same until a vote on it; None where nothing is
        left.
        """
        first, again = _voted_by(annotator, votes)
        reserved = self._reserved(annotator, votes)
        for row in self.pairs:
            if row.votes_key not in first and (row.key in self.shared or row.key not in reserved):
                if row.key not in self.shared:
                    self._leases[row.key] = (annotator, time.monotonic() + LEASE_SECONDS)
                due = self._due(annotator, first, again, patient=True)
                return due or self.turn(row, annotator, 0)
        return self._due(annotator, first, again, patient=False)

    def _due(
        self,
        annotator: str,
        first: Mapping[PairKey, int],
        again: Mapping[PairKey, int],
        *,
        patient: bool,
    ) -> PairTurn | None:
        """Return a shared pair that is to be asked the second time; a patient one waits until it
        may be forgotten.
        """
        num_votes = len(first) + len(again)
        for row in self.pairs:
            vote_index = first.get(row.votes_key)
            if row.key not in self.shared or vote_index is None or row.votes_key in again:
                continue
            if not patient or num_votes - vote_index > AGAIN_AFTER:
                return self.turn(row, annotator, 1)
        return None

    def _reserved(self, annotator: str, votes: Sequence[Vote]) -> set[str]:
        """Return the pairs that others have voted on, or are shown now."""
        by_others = {
            pair_key(vote.left_id, vote.right_id)
            for vote in votes
            if vote.annotator != annotator and vote.choice != "skip"
        }
        now = time.monotonic()
        leased = {
            key for key, (who, until) in self._leases.items() if who != annotator and until > now
        }
        return leased | {row.key for row in self.pairs if row.votes_key in by_others}

    def _draw(self, *names: str) -> float:
        """Return a number from 0 to 1 that depends on the seed and the names alone."""
        text = "\0".join((str(self.seed), *names))
        return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12


def _voted_by(
    annotator: str, votes: Sequence[Vote]
) -> tuple[dict[PairKey, int], dict[PairKey, int]]:
    """Return the indices of an annotator's first and second votes among all his, by pair."""
    votes_of_annotator = [vote for vote in votes if vote.annotator == annotator]
    vote_indices: tuple[dict[PairKey, int], dict[PairKey, int]] = ({}, {})
    for index, vote in enumerate(votes_of_annotator):
        vote_indices[min(vote.repeat, 1)][pair_key(vote.left_id, vote.right_id)] = index
    return vote_indices


def _by_id(pair: Pair) -> tuple[tuple[str, str], tuple[str, str]]:
    chosen, rejected = (pair.chosen_id, pair.chosen), (pair.rejected_id, pair.rejected)
    return (chosen, rejected) if chosen < rejected else (rejected, chosen)


def _digest(*names: str) -> str:
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass")).hexdigest()[:16]
