"""The judges of an evaluation: which answers each scorer is asked about, and what it says.

Only answers to text questions are judged: a letter, yes and no are read by a rule. A scorer that
reads the caption is not asked about a sample without one.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dpo_video.core.records import Candidate, Judgment, Sample
from dpo_video.evaluate.answers import ModelAnswers
from dpo_video.evaluate.grading import AnswerJudgments, ScorerJudgments
from dpo_video.evaluate.questions import SetQuestion
from dpo_video.judge.modes.pairwise import Comparison, comparer, pairwise_scorer
from dpo_video.judge.scorer import Scorer, can_be_judged, load_scorer
from dpo_video.judge.stage import judge_candidates
from dpo_video.judge.types import Judge
from dpo_video.recipe.evaluate import HELDOUT
from dpo_video.run import Run


@dataclass(frozen=True, kw_only=True)
class Judging:
    """What is to be judged, and by whom."""

    run: Run
    questions: Mapping[str, SetQuestion]
    """By id as asked."""
    answers: ModelAnswers
    judge: Judge

    def judgments(self) -> AnswerJudgments:
        """Ask all scorers of the recipe about the answers of both models."""
        settings = self.run.recipe.evaluate
        quality = load_scorer(self.run.recipe.judge.scorer)
        both_models = [*self.answers.before, *self.answers.after]
        return AnswerJudgments(
            quality=self._ask(quality, [*both_models, *self.answers.sampled]),
            support=self._ask_named(settings.hallucination_scorer, both_models),
            correctness=self._ask_named(settings.correctness_scorer, both_models),
            comparisons=self._comparisons(),
        )

    def _ask_named(
        self, name: str | None, candidates: Sequence[Candidate]
    ) -> ScorerJudgments | None:
        return None if name is None else self._ask(load_scorer(name), candidates)

    def _ask(self, scorer: Scorer, candidates: Sequence[Candidate]) -> ScorerJudgments:
        judge_items = [
            (self.questions[candidate.sample_id].asked, candidate)
            for candidate in candidates
            if can_be_judged(scorer, self.questions[candidate.sample_id].asked)
        ]
        by_candidate: Mapping[str, Judgment] = {}
        if judge_items:
            by_candidate = judge_candidates(
                self.run.recipe.judge, scorer, judge_items, self.run.store, judge=self.judge
            ).judgments
        return ScorerJudgments(threshold=scorer.threshold, by_candidate=by_candidate)

    def _comparisons(self) -> dict[str, Comparison]:
        """Return how held-out answers after compare with those before, in both orders, by candidate
        id of the answer after; empty without a scorer for it.
        """
        name = self.run.recipe.evaluate.pairwise_scorer
        if name is None:
            return {}
        scorer = pairwise_scorer(name, "evaluate.pairwise_scorer")
        before = {candidate.sample_id: candidate.text for candidate in self.answers.before}
        compared: list[Candidate] = []
        answer_pairs: list[tuple[Sample, str, str]] = []
        for candidate in self.answers.after:
            question = self.questions[candidate.sample_id]
            is_asked = question.set == HELDOUT and can_be_judged(scorer, question.asked)
            if is_asked and candidate.sample_id in before:
                compared.append(candidate)
                answer_pairs.append((question.asked, candidate.text, before[candidate.sample_id]))
        compare = comparer(self.run.recipe.judge, scorer, self.run.store, judge=self.judge)
        comparisons = compare(answer_pairs)
        return {
            candidate.id: comparison
            for candidate, comparison in zip(compared, comparisons, strict=True)
        }


def statuses(judgments: AnswerJudgments) -> Counter[str]:
    """Return how many judgments and comparisons have each status."""
    return Counter(_statuses(judgments))


def _statuses(judgments: AnswerJudgments) -> Iterator[str]:
    for scorer in (judgments.quality, judgments.support, judgments.correctness):
        if scorer is not None:
            yield from (row.status for row in scorer.by_candidate.values())
    for comparison in judgments.comparisons.values():
        if comparison.status == "failed":
            yield "failed"
