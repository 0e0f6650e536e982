"""Replies that give no score: noticed early, with the setting that may mend it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from dpo_video.core.errors import UserError
from dpo_video.core.text import one_line
from dpo_video.judge.scorer import Scorer
from dpo_video.judge.types import Reply
from dpo_video.judge.verdict import read_reply
from dpo_video.recipe import JudgeSettings

STOPS_FROM = 20
"""Replies without a score for one reason after which `judge.max_unscored_fraction` can stop the
run.
"""
READ_REPLIES = 200
"""Replies that are read for it: reading all of a million twice would cost as much as the rest."""

ReadReply = Callable[[Reply], str | None]
"""Returns why an answered reply gives no score, or None."""

HINTS = {
    "cut off": "Raise judge.max_tokens (it is {max_tokens})",
    "empty reply": "If the judge thinks, start its server without a reasoning parser or raise "
    "judge.max_tokens (it is {max_tokens})",
    "little weight on the labels": "Set judge.score_from=verdict to have the verdict written, or "
    "choose another judge.model",
    "no label probabilities": "Set judge.score_from=verdict to read the written verdict",
    "no log probabilities": "Set judge.score_from=verdict to read the written verdict",
}
"""What mends an unscored reply, by the beginning of the reason."""
NO_VERDICT = (
    "Scorer {scorer!r} reads a last line {verdict!r}: choose a judge.model that writes it, or "
    "another judge.scorer"
)


@dataclass(kw_only=True)
class UnscoredGuard:
    """Counts the first replies of a run that give no score, and stops it where nearly all do."""

    settings: JudgeSettings
    scorer: Scorer
    read: ReadReply | None = None
    """By default, whether the reply is a verdict of the scorer."""
    num_read: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def watch(self, reply: Reply) -> None:
        """Read an answered reply; raise UserError where too many give no score for one reason."""
        if self.num_read >= READ_REPLIES:
            return
        self.num_read += 1
        reason = self.read(reply) if self.read else self._unscored(reply)
        if reason is None:
            return
        kind = reason.partition(":")[0]
        self.reasons[kind] += 1
        times, share = self.reasons[kind], self.settings.max_unscored_fraction
        if times >= STOPS_FROM and times > share * self.num_read:
            raise UserError(
                f"{times} of {self.num_read} replies of judge {self.settings.model!r} give no "
                f"score: {reason}. The last one reads {one_line(reply.text)[:200]!r}. "
                f"{self._hint(kind)}. Replies are stored, and judge.max_unscored_fraction=1 goes "
                "on all the same"
            )

    def _unscored(self, reply: Reply) -> str | None:
        verdict, _ = read_reply(self.settings, self.scorer, reply)
        return verdict.reason if verdict.score is None else None

    def _hint(self, kind: str) -> str:
        return HINTS.get(kind, NO_VERDICT).format(
            max_tokens=self.settings.max_tokens,
            scorer=self.scorer.name,
            verdict=self.scorer.verdict,
        )
