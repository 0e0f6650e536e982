"""RUN/votes.jsonl: what people chose between two answers, and what the votes come to."""

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import from_dict, json_object
from dpo_video.core.records import Vote

log = logging.getLogger(__name__)

FILE = "votes.jsonl"
VoteChoice = Literal["A", "B", "tie", "both_bad", "skip"]
"""What a vote on two answers says, A being the left one."""
PairKey = frozenset[str]
"""The two candidates of a pair, in no order."""


class Decision(NamedTuple):
    """What the votes on a pair come to: the majority of the annotators."""

    outcome: Literal["prefers", "tie", "both_bad"]
    preferred_id: str | None = None
    """The candidate that they prefer."""


class SameChoices(NamedTuple):
    """How often two choices on the same pair are the same."""

    same: int
    of: int


def read_votes(path: Path) -> list[Vote]:
    """Return the votes of a file that stand: those taken back are left out, and of two on the same
    pair by one annotator, at the same repeat, the later one counts.

    A last line without its end is a vote that a killed process was writing, and is left out.
    UserError with file:line for any other line that is no vote.
    """
    return standing_votes(read_all_votes(path))


def read_all_votes(path: Path) -> list[Vote]:
    """Return every row of a votes file, undone ones and the undoing ones too."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from error
    lines = content.split(b"\n")
    votes = []
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            votes.append(from_dict(Vote, json_object(line, where), where))
        except UserError:
            if number < len(lines):
                raise
    return votes


def standing_votes(votes: Iterable[Vote]) -> list[Vote]:
    """Return the votes that were neither taken back nor replaced, in the order they were given."""
    rows = list(votes)
    undone = {vote.undoes for vote in rows if vote.choice == "undo"}
    latest: dict[tuple[PairKey, str, int], Vote] = {}
    for vote in rows:
        if vote.choice != "undo" and vote.id not in undone:
            key = (pair_key(vote.left_id, vote.right_id), vote.annotator, vote.repeat)
            latest.pop(key, None)
            latest[key] = vote
    return list(latest.values())


def pair_key(first_id: str, second_id: str) -> PairKey:
    """Return what a pair is known by, whichever answer stands first."""
    return frozenset((first_id, second_id))


def texts_hash(first: str, second: str) -> str:
    """Return twelve digits that two texts are known by, in no order."""
    joined = "\0".join(sorted((first, second)))
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def on_these_texts(votes: Iterable[Vote], text_of: Mapping[str, str]) -> list[Vote]:
    """Return the votes whose answers still say what was voted on, and tell how many do not.

    Args:
        text_of: the answers by candidate id.
    """
    rows = list(votes)
    current = []
    for vote in rows:
        left, right = text_of.get(vote.left_id), text_of.get(vote.right_id)
        if left is not None and right is not None and vote.texts == texts_hash(left, right):
            current.append(vote)
    if len(current) < len(rows):
        log.warning(
            "votes: %d of %d are on answers that are not there any more, and do not count",
            len(rows) - len(current),
            len(rows),
        )
    return current


def decisions(votes: Iterable[Vote]) -> dict[PairKey, Decision]:
    """Return what the majority of annotators says of each pair; a draw is a tie. Skipped pairs and
    second votes of the same annotator do not count.
    """
    by_pair: dict[PairKey, list[Vote]] = defaultdict(list)
    for vote in votes:
        if vote.choice != "skip" and not vote.repeat:
            by_pair[pair_key(vote.left_id, vote.right_id)].append(vote)
    return {key: _majority(of_pair) for key, of_pair in by_pair.items()}


def _majority(votes: Sequence[Vote]) -> Decision:
    counts = Counter(vote.preferred_id or vote.choice for vote in votes)
    (choice, num_votes), *fewer = counts.most_common()
    if choice == "tie" or (fewer and fewer[0][1] == num_votes):
        return Decision("tie")
    return Decision("both_bad") if choice == "both_bad" else Decision("prefers", choice)


def self_agreement(votes: Sequence[Vote]) -> SameChoices:
    """Return how often annotators, asked a second time, chose the same."""
    counted = [vote for vote in votes if _counts(vote)]
    choices = {_voter(vote): _meaning(vote) for vote in counted if not vote.repeat}
    repeats = {_voter(vote): _meaning(vote) for vote in counted if vote.repeat}
    voters = choices.keys() & repeats.keys()
    return SameChoices(sum(choices[voter] == repeats[voter] for voter in voters), len(voters))


def mutual_agreement(votes: Sequence[Vote]) -> SameChoices:
    """Return of all two annotators on a pair how often they chose the same."""
    by_pair: dict[PairKey, list[str]] = defaultdict(list)
    for vote in votes:
        if not vote.repeat and _counts(vote):
            by_pair[pair_key(vote.left_id, vote.right_id)].append(_meaning(vote))
    num_same = num_twos = 0
    for meanings in by_pair.values():
        for index, meaning in enumerate(meanings):
            num_twos += len(meanings) - index - 1
            num_same += meanings[index + 1 :].count(meaning)
    return SameChoices(num_same, num_twos)


def _counts(vote: Vote) -> bool:
    return vote.choice != "skip"


def _meaning(vote: Vote) -> str:
    """Return a choice whatever the sides were."""
    return vote.preferred_id or vote.choice


def _voter(vote: Vote) -> tuple[PairKey, str]:
    return pair_key(vote.left_id, vote.right_id), vote.annotator
