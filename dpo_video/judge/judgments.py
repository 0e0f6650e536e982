"""What replies say about candidates, as judgments, and the counts over them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dpo_video.core.records import Candidate, Judgment
from dpo_video.data.answer_filters import AnswerPlan
from dpo_video.judge.scorer import Scorer
from dpo_video.judge.types import Judge, Reply, Spending
from dpo_video.judge.verdict import Verdict, num_contradicted, read_reply
from dpo_video.recipe import JudgeSettings


@dataclass(kw_only=True)
class Tally:
    """Counts over judgments as they pass."""

    status: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    score: float = 0.0
    contradicted: int = 0
    """Judgments with a reply that says another label than its label probabilities."""
    spending: Spending = field(default_factory=Spending)
    """What the replies behind the judgments have cost."""

    def watch(self, rows: Iterable[tuple[Judgment, Reply | None]]) -> Iterator[Judgment]:
        """Yield the judgments, counted, each with the reply that is to be counted with it."""
        for judgment, reply in rows:
            if reply is not None:
                self.spending.add(reply)
            self.status[judgment.status] += 1
            self.contradicted += num_contradicted(judgment) > 0
            if judgment.score is None:
                self.reasons[judgment.reason.split(":")[0]] += 1
            else:
                self.score += judgment.score
            yield judgment

    def summary(self) -> dict[str, Any]:
        """Return candidates, scored, unscored, failed, those refused, dropped and contradicted, the
        reasons, the mean score.
        """
        scored = self.status["scored"]
        rare = {name: self.status[name] for name in ("refused", "dropped") if self.status[name]}
        if self.contradicted:
            rare["contradicted"] = self.contradicted
        return {
            "candidates": self.status.total(),
            "scored": scored,
            "unscored": self.status["unscored"],
            "failed": self.status["failed"],
            **rare,
            "reasons": dict(self.reasons.most_common()),
            "mean_score": self.score / scored if scored else None,
        }


def dropped_judgment(
    candidate: Candidate, plan: AnswerPlan, number: int, *, scorer: Scorer, judge: str
) -> Judgment:
    """Return the judgment of a candidate that cleaning left out."""
    return Judgment(
        candidate_id=candidate.id,
        scorer=scorer.version,
        judge=judge,
        score=None,
        status="dropped",
        reason=plan.dropped[number],
        reply="",
    )


def reply_judgment(
    settings: JudgeSettings, scorer: Scorer, candidate: Candidate, judge: Judge, reply: Reply | None
) -> Judgment:
    """Return what a reply says about a candidate; no reply means that there was nothing to compare
    with.
    """
    distribution, details = None, None
    if reply is None:
        verdict, status = (
            Verdict(score=None, reason="no gold answer: the sample has none to compare with"),
            "unscored",
        )
    elif reply.status != "answered":
        verdict, status = Verdict(score=None, reason=reply.reason), reply.status
    else:
        verdict, distribution = read_reply(settings, scorer, reply)
        status = "unscored" if verdict.score is None else "scored"
        if verdict.contradicted_by is not None:
            details = {"contradicted_by": verdict.contradicted_by}
    return Judgment(
        candidate_id=candidate.id,
        scorer=scorer.version,
        judge=judge.name,
        score=verdict.score,
        status=status,
        reason=verdict.reason,
        reply=reply.text if reply else "",
        distribution=distribution,
        details=details,
    )
