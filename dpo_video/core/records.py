"""The records that stages pass on, and their JSONL form with errors that name file and line."""

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, with_config

from dpo_video.core.errors import UserError

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""How pydantic reads them: no other fields, no "3" for a number, no number that JSON lacks. Made by
our own code they are plain dataclasses, which are not checked again.
"""
AS_IT_STANDS = "ask_as_it_stands"
"""In a sample's `meta`: its prompt is asked without its `options`."""
BENCHMARK = "benchmark"
"""In a sample's `meta`: the published benchmark that it is of."""


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierTurn:
    """What was asked about a clip before the question of a record, and what was answered."""

    question: str
    answer: str


History = tuple[EarlierTurn, ...] | None
"""The turns before a question, the first one first."""


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question about one clip, with the caption that the judge reads as evidence.

    Example of a question of a benchmark: `{"id": "q1", "video": "a.mp4", "prompt": "What runs?",
    "options": ["a dog", "a cat"], "answer_kind": "letter", "answer": "A", "category": "action"}`.
    """

    id: str
    video: str | list[str]
    """A video file, a folder of frames, or a list of frame files; relative to `data.video_root`."""
    prompt: str
    history: History = None
    """Earlier turns about the clip, which the prompt goes on from; only its answer is judged."""
    caption: str | None = None
    """None where nothing is judged against it, as of the questions of a benchmark."""
    answer: str | None = None
    """The gold answer: a text, the letter of an option, or yes or no, as `answer_kind` says."""
    options: list[str] | None = None
    """What may be chosen, with its labels (`A. a dog`) or without them."""
    answer_kind: Literal["text", "letter", "yes_no"] = "text"
    """How an answer is compared with the gold answer."""
    group: str | None = None
    """Questions of one group count together: right only if all of them are."""
    category: str | None = None
    """Results are told for each category by itself, too."""
    start: float | None = None
    """Seconds into the file where the clip begins."""
    end: float | None = None
    """Seconds into the file where the clip ends."""
    meta: dict[str, Any] | None = None
    """What else the row says; it is kept and changes nothing."""


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One answer of the policy to one sample."""

    id: str
    """`<sample id>#<k>`, k counting from 0."""
    sample_id: str
    text: str
    model: str
    settings: str
    """Hash of all that determines the text: model, revision, prompt, frames, sampler."""
    seed: int
    finish: str = "stop"
    """`stop` when the answer ended by itself, `length` when it was cut at `max_new_tokens`."""
    sampler: str | None = None
    """Which of `generate.mix` drew it."""
    choice_logps: dict[str, float] | None = None
    """Log-prob of each choice in nats, where the likeliest one was taken for the answer."""
    privileged: bool | None = None
    """True where that sampler was shown the caption or the gold answer; else left out."""


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """What the judge made of one candidate: a score, or None with the reason."""

    candidate_id: str
    scorer: str
    """`<name>@<hash of the scorer file>`."""
    judge: str
    score: float | None
    status: str
    """`scored`, `unscored` (the judge answered, no valid verdict), `refused` (it never answers this
    prompt), `failed` (no answer; the next run asks again) or `dropped` (cleaning kept it from the
    judge).
    """
    reason: str
    """The judge's explanation, or why there is no score."""
    reply: str
    distribution: dict[str, float] | None = None
    """Probability of each label, where the score is read from label probabilities."""
    taken_from: str | None = None
    """The candidate that was judged in place of this one, whose text is the same or nearly."""
    claims: list[dict[str, Any]] | None = None
    """Each claim of the answer with its likeliest label, its worth and its label probabilities,
    under `claims`.
    """
    details: dict[str, Any] | None = None
    """What else the score rests on: precision and coverage, comparisons, the scores of a jury, an
    escalation.
    """


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """What a policy makes of one candidate by itself."""

    candidate_id: str
    reward: float
    """Beta times the answer's log-prob under the policy less that under the reference: DPO's
    implicit reward.
    """


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A chosen and a rejected answer to one sample: all that training needs, readable by people and
    TRL.
    """

    sample_id: str
    video: str | list[str]
    prompt: str
    history: History = None
    """Earlier turns about the clip; both answers go on from them."""
    chosen: str
    rejected: str
    chosen_score: float | None = None
    """The judge's; imported pairs may have none."""
    rejected_score: float | None = None
    source: str
    """The pair rule or the format that made it."""
    chosen_id: str
    rejected_id: str
    start: float | None = None
    end: float | None = None
    rejected_video: str | list[str] | None = None
    """The clip that the rejected answer goes with, where it is another one."""
    rejected_start: float | None = None
    """Seconds into the rejected answer's file where its clip begins, where that is another clip."""
    rejected_end: float | None = None
    """Seconds into that file where it ends."""
    rejected_corruption: str | None = None
    """What is done to the clip of the rejected answer, its own or `rejected_video`: `reverse`,
    `shuffle:N` or `drop:N`, N drawing the order of the frames, or those that stay, each also with a
    magnitude, `/M` (see video/corrupt.py).
    """
    extra: dict[str, Any] | None = None
    """Fields of an imported row that are kept as they are."""
    rejected_finish: str = "stop"
    """`length` where the rejected answer was cut: training then leaves its end-of-turn token out.
    """
    implicit_margin: float | None = None
    """How much higher the policy's implicit reward of the chosen answer is, where rewards were
    given.
    """

    @property
    def scores(self) -> tuple[float, float]:
        """The scores of chosen and rejected; UserError where an imported pair has none."""
        if self.chosen_score is None or self.rejected_score is None:
            raise UserError(
                f"the pair of sample {self.sample_id!r} has no scores: it was imported without. "
                f"Margins "
                "are known of judged pairs only"
            )
        return self.chosen_score, self.rejected_score


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One person's choice between two answers to one sample, or what takes such a choice back."""

    id: str
    sample_id: str
    left_id: str
    """The candidate that was shown as A."""
    right_id: str
    """The candidate that was shown as B."""
    choice: Literal["A", "B", "tie", "both_bad", "skip", "undo"]
    annotator: str
    at: str
    """When, in UTC, as ISO 8601; empty where an imported vote does not say."""
    texts: str
    """Hash of the two texts: a candidate that is made anew may keep its id and say something else.
    """
    seconds: float = 0.0
    """From when the answers were shown to the vote."""
    watched: float = 0.0
    """Seconds of the clip that were played meanwhile."""
    reasons: list[str] | None = None
    repeat: int = 0
    """1 where the annotator was asked a second time, to see whether he agrees with himself."""
    undoes: str | None = None
    """Id of the vote that an `undo` takes back."""
    seed: int = 0
    """What the sides were drawn by."""
    scorer: str | None = None
    """Whose scores the annotator did not see before voting."""
    judge: str | None = None

    @property
    def preferred_id(self) -> str | None:
        """The candidate that was chosen; None where neither was."""
        return {"A": self.left_id, "B": self.right_id}.get(self.choice)


Record = TypeVar("Record")
"""A record that is read from a file: one of the above, or one that a package declares for
itself.
"""
AnyRecord = Sample | Candidate | Judgment | Reward | Pair | Vote
