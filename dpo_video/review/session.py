"""What the review page asks for: the next pair, a vote, taking one back, how far it is."""

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, cast, get_args
from uuid import uuid4

from dpo_video.core.records import Judgment, Vote
from dpo_video.core.turns import turn_rows
from dpo_video.data.votes import VoteChoice, mutual_agreement, self_agreement, texts_hash
from dpo_video.pages.answer_rows import answer_row
from dpo_video.pages.clips import clip_name, clip_row, request_of
from dpo_video.pages.run_files import RunFiles
from dpo_video.review.queue import PairTurn, ReviewPair, ReviewQueue
from dpo_video.review.vote_file import VoteFile
from dpo_video.video import ClipRequest, FramePool
from dpo_video.video.jobs import SmallClipSettings


class Reason(NamedTuple):
    """A reason chip."""

    key: str
    """Of the keyboard."""
    text: str


REASONS = {
    "hallucinates": Reason("h", "says what is not there"),
    "misses": Reason("m", "misses something"),
    "wrong_order": Reason("o", "wrong order"),
    "too_long": Reason("l", "too long"),
    "caption_wrong": Reason("c", "the caption is wrong"),
}
"""By the name that stands in votes.jsonl."""
LONGEST_NAME = 40


class RefusedRequest(Exception):
    """A request of the page that cannot be answered, with why."""


@dataclass(kw_only=True)
class ReviewSession:
    """An open review. Its methods may be called from any thread; one vote is written at a time."""

    run: RunFiles
    queue: ReviewQueue
    file: VoteFile
    pool: FramePool
    clips_folder: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _clip_rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def _requests(self) -> dict[str, ClipRequest | str]:
        """The clips of the pairs by the names that addresses have, or why one cannot be read."""
        return {self._clip_name(row): self._request(row) for row in self.queue.pairs}

    def _request(self, row: ReviewPair) -> ClipRequest | str:
        return request_of(row.pair, self.run.train.root)

    def _clip_name(self, row: ReviewPair) -> str:
        request = self._request(row)
        return f"no-file-{row.key}" if isinstance(request, str) else clip_name(request)

    def next_pair(self, annotator: str) -> dict[str, Any]:
        """Return what the page shows next, without a score; `pair` is None where all is done."""
        with self._lock:
            turn = self.queue.next_turn(annotator, self.file.standing())
            return {"pair": self._blind(turn), "progress": self._progress(annotator)}

    def vote(self, annotator: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Write a vote, and return what the judge says of the pair."""
        with self._lock:
            turn = self._turn(annotator, content)
            choice = content.get("choice")
            if choice not in get_args(VoteChoice):
                raise RefusedRequest(f"no such choice: {choice!r}")
            reasons = content.get("reasons") or []
            if not isinstance(reasons, list) or not set(reasons) <= REASONS.keys():
                raise RefusedRequest("no such reasons")
            vote = self._record(
                turn,
                annotator,
                choice=cast(VoteChoice, choice),
                reasons=sorted(reasons) or None,
                seconds=_seconds(content.get("seconds")),
                watched=_seconds(content.get("watched")),
            )
            self.file.append(vote)
            return {"revealed": self._revealed(turn), "progress": self._progress(annotator)}

    def undo(self, annotator: str) -> dict[str, Any]:
        """Take an annotator's last standing vote back, and return its pair to be shown again."""
        with self._lock:
            votes_of_annotator = [
                vote for vote in self.file.standing() if vote.annotator == annotator
            ]
            if not votes_of_annotator:
                raise RefusedRequest("there is no vote of yours to take back")
            last = max(votes_of_annotator, key=self.file.votes.index)
            self.file.append(
                Vote(
                    id=uuid4().hex,
                    sample_id=last.sample_id,
                    left_id=last.left_id,
                    right_id=last.right_id,
                    texts=last.texts,
                    choice="undo",
                    undoes=last.id,
                    annotator=annotator,
                    at=_now(),
                )
            )
            row = next((row for row in self.queue.pairs if row.votes_key == _key(last)), None)
            turn = None
            if row is not None:
                turn = self.queue.turn(row, annotator, last.repeat)
            return {"pair": self._blind(turn), "progress": self._progress(annotator)}

    def clip(self, stem: str) -> dict[str, Any] | None:
        """Return the row of a clip, made small when it is first asked for; None for no clip of this
        review.
        """
        with self._lock:
            if stem in self._clip_rows:
                return self._clip_rows[stem]
        request = self._requests.get(stem)
        if request is None:
            return None
        if isinstance(request, str):
            row: dict[str, Any] = {"error": request}
        else:
            settings = SmallClipSettings(timeout=self.run.recipe.video.timeout)
            reply = self.pool.make_small(request, self.clips_folder / stem, settings)
            row = clip_row(stem, reply, self.clips_folder)
        with self._lock:
            self._clip_rows[stem] = row
        return row

    def _turn(self, annotator: str, content: Mapping[str, Any]) -> PairTurn:
        """Return the pair that a vote is on; refuse one that the annotator has voted on already,
        which a second tab, or a key pressed twice, would do.
        """
        row = self.queue.by_key.get(str(content.get("pair")))
        repeat = content.get("repeat")
        if row is None or repeat not in (0, 1):
            raise RefusedRequest("no such pair")
        for vote in self.file.standing():
            is_same = _key(vote) == row.votes_key and vote.repeat == repeat
            if is_same and vote.annotator == annotator:
                raise RefusedRequest(
                    "you have voted on this pair already: take that vote back first"
                )
        return self.queue.turn(row, annotator, int(repeat))

    def _record(self, turn: PairTurn, annotator: str, **facts: Any) -> Vote:
        pair = turn.review_pair.pair
        (left_id, left_text), (right_id, right_text) = turn.answers
        judgment = self.run.judgments.get(left_id)
        return Vote(
            id=uuid4().hex,
            sample_id=pair.sample_id,
            left_id=left_id,
            right_id=right_id,
            texts=texts_hash(left_text, right_text),
            annotator=annotator,
            at=_now(),
            repeat=turn.repeat,
            seed=self.queue.seed,
            scorer=None if judgment is None else judgment.scorer,
            judge=None if judgment is None else judgment.judge,
            **facts,
        )

    def _blind(self, turn: PairTurn | None) -> dict[str, Any] | None:
        """Return a pair without anything that the judge said."""
        if turn is None:
            return None
        pair = turn.review_pair.pair
        return {
            "pair": turn.review_pair.key,
            "repeat": turn.repeat,
            "prompt": pair.prompt,
            "before": turn_rows(pair.history),
            "answers": [text for _, text in turn.answers],
            "clip": self._clip_name(turn.review_pair),
        }

    def _revealed(self, turn: PairTurn) -> dict[str, Any]:
        """Return what the judge says of a pair, the answers as they stood, and the caption."""
        pair = turn.review_pair.pair
        sample = self.run.train.samples.get(pair.sample_id)
        answers = [self._judged(name, text) for name, text in turn.answers]
        score_a, score_b = (answer.get("score") for answer in answers)
        prefers = None
        if score_a is not None and score_b is not None and score_a != score_b:
            prefers = "A" if score_a > score_b else "B"
        return {
            "answers": answers,
            "judge_prefers": prefers,
            "doubt": turn.review_pair.doubt,
            "caption": None if sample is None else sample.caption,
            "gold": None if sample is None else sample.answer,
            "sample": pair.sample_id,
        }

    def _judged(self, candidate_id: str, text: str) -> dict[str, Any]:
        judgment: Judgment | None = self.run.judgments.get(candidate_id)
        return answer_row(text, judgment, self.run.scorer)

    def _progress(self, annotator: str) -> dict[str, Any]:
        """Return how many votes there are, of how many pairs, how long one takes, and how far
        annotators agree.
        """
        votes = self.file.standing()
        votes_of_annotator = [vote for vote in votes if vote.annotator == annotator]
        counted = {_key(vote) for vote in votes if vote.choice != "skip"}
        seconds = [vote.seconds for vote in votes_of_annotator if vote.seconds]
        return {
            "yours": len(votes_of_annotator),
            "voted": len(counted & {row.votes_key for row in self.queue.pairs}),
            "pairs": len(self.queue.pairs),
            "minutes": round(median(seconds) / 60, 2) if seconds else None,
            "self": self_agreement(votes_of_annotator)._asdict(),
            "mutual": mutual_agreement(votes)._asdict(),
        }


def annotator_name(name: str) -> str:
    """Return a name as it stands in votes; RefusedRequest for none, or for what is no name."""
    tidy = " ".join(name.split())
    if not tidy or len(tidy) > LONGEST_NAME or not tidy.isprintable():
        raise RefusedRequest(f"a name of 1 to {LONGEST_NAME} characters is needed")
    return tidy


def _key(vote: Vote) -> frozenset[str]:
    return frozenset((vote.left_id, vote.right_id))


def _seconds(value: Any) -> float:
    """Return a time that a page measured; 0 where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0.0
    return round(min(max(float(value), 0.0), 86_400.0), 2)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
