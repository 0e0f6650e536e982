"""An open judge that measures ask: what it says is kept in the run's store, so nothing is paid for
twice.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dpo_video.core.records import Candidate, Sample
from dpo_video.judge.scorer import Scorer
from dpo_video.judge.stage import judge_candidates
from dpo_video.judge.types import Judge
from dpo_video.recipe import JudgeSettings
from dpo_video.store import RunStore


@dataclass(frozen=True, kw_only=True)
class JudgeSession:
    """An open judge with the store that keeps what it says."""

    settings: JudgeSettings
    scorer: Scorer
    judge: Judge
    store: RunStore
    counts: Counter[str]
    """What was asked so far: texts, asked, answered_before, unscored, failed."""

    def scores(
        self,
        answers: Sequence[tuple[Sample, Candidate]],
        *,
        scorer: Scorer | None = None,
        repeat: int = 0,
    ) -> dict[str, float]:
        """Return the score of every candidate by its id, NaN where there is none."""
        settings = self.settings.model_copy(update={"repeat": repeat}) if repeat else self.settings
        rows, counts = judge_candidates(
            settings, scorer or self.scorer, answers, self.store, judge=self.judge
        )
        self.counts.update(counts)
        self.counts.update(
            texts=len(rows),
            unscored=sum(row.score is None for row in rows.values()),
            failed=sum(row.status == "failed" for row in rows.values()),
        )
        return {
            name: float("nan") if row.score is None else row.score for name, row in rows.items()
        }
