"""Pair rules: which of a question's usable answers become chosen and rejected. Pure, and blind to
the order of answers.

An answer that was cut at the token limit may be rejected but is never chosen: a chosen half
sentence would teach the model to break off.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, pstdev
from typing import NamedTuple

from dpo_video.core.records import Candidate
from dpo_video.recipe import PairSettings

REASONS = (
    "uniform",
    "cut",
    "below margin",
    "tie",
    "rejected scores too low",
    "rejected too short",
    "over cap",
)
"""Why a rule leaves two answers, or a question, unpaired; where several hold for a question, the
first names it.
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that a rule may use."""

    candidate: Candidate
    score: float
    rank: str
    """Hash of seed, sample id and the answer's number: a fixed order among equals."""

    @property
    def cut(self) -> bool:
        """True when the answer was cut at the token limit."""
        return self.candidate.finish == "length"


class Choice(NamedTuple):
    """Two answers to one question, the better one first."""

    chosen: Answer
    rejected: Answer

    @property
    def margin(self) -> float:
        """How much higher the chosen answer scores."""
        return self.chosen.score - self.rejected.score

    @property
    def longer(self) -> int:
        """How many characters the chosen answer has more than the rejected one."""
        return len(self.chosen.candidate.text) - len(self.rejected.candidate.text)


class Ruling(NamedTuple):
    """What a rule made of one question: its pairs, and how many it did not make by reason."""

    choices: list[Choice]
    dropped: Mapping[str, int]


Rule = Callable[[Sequence[Answer], PairSettings, float], Ruling]


def hound(answers: Sequence[Answer], settings: PairSettings, threshold: float) -> Ruling:
    """Return one answer at or above the threshold against one below it, each the lowest rank of its
    side.

    LLaVA-Hound's rule: one good against one bad answer picked by chance (here by the seed), at most
    one pair a question; a question whose answers all fall on one side is uniform and dropped.
    """
    good = [answer for answer in answers if answer.score >= threshold]
    bad = [answer for answer in answers if answer.score < threshold]
    if not good or not bad:
        return Ruling([], {"uniform": 1})
    whole = [answer for answer in good if not answer.cut]
    if not whole:
        return Ruling([], {"cut": 1})
    return _one(Choice(min(whole, key=_rank), min(bad, key=_rank)), settings)


def best_worst(answers: Sequence[Answer], settings: PairSettings, threshold: float) -> Ruling:
    """Return the highest score that was not cut against the lowest score, if they are `min_margin`
    apart.
    """
    del threshold
    worst = min(answers, key=lambda answer: (answer.score, answer.rank))
    refused = refusal(max(answer.score for answer in answers) - worst.score, settings)
    if refused:
        return Ruling([], {refused: 1})
    whole = [
        answer
        for answer in answers
        if not answer.cut and not refusal(answer.score - worst.score, settings)
    ]
    if not whole:
        return Ruling([], {"cut": 1})
    return _one(Choice(_best(whole), worst), settings)


def best_vs_sigma(answers: Sequence[Answer], settings: PairSettings, threshold: float) -> Ruling:
    """Return the highest score that was not cut against the score nearest to mean -
    `rejected_sigmas` * sigma.

    Mean and standard deviation are those of the question's answers. The more answers there are, the
    more of an oddity the worst one is: against it training gains less the more are drawn (arXiv
    2502.16825). Where so few answers were drawn that none is that far below the mean, this is
    `best_worst`.
    """
    del threshold
    scores = [answer.score for answer in answers]
    refused = refusal(max(scores) - min(scores), settings)
    if refused:
        return Ruling([], {refused: 1})
    whole = [answer for answer in answers if not answer.cut]
    best = _best(whole) if whole else None
    below = [
        answer for answer in answers if best and not refusal(best.score - answer.score, settings)
    ]
    if best is None or not below:
        return Ruling([], {"cut": 1})
    target = fmean(scores) - settings.rejected_sigmas * pstdev(scores)
    return _one(
        Choice(best, min(below, key=lambda answer: (abs(answer.score - target), answer.rank))),
        settings,
    )


def all_pairs(answers: Sequence[Answer], settings: PairSettings, threshold: float) -> Ruling:
    """Return all pairs that are `min_margin` apart, of these the `max_pairs_per_sample` with the
    widest margins.
    """
    del threshold
    dropped: Counter[str] = Counter()
    choices = []
    for first, second in combinations(answers, 2):
        choice = Choice(first, second) if first.score > second.score else Choice(second, first)
        refused = (
            refusal(choice.margin, settings)
            or ("cut" if choice.chosen.cut else None)
            or below_floor(choice.rejected, settings)
        )
        if refused:
            dropped[refused] += 1
        else:
            choices.append(choice)
    choices.sort(key=lambda choice: (-choice.margin, choice.chosen.rank, choice.rejected.rank))
    over_cap = choices[settings.max_pairs_per_sample :]
    if over_cap:
        dropped["over cap"] = len(over_cap)
    return Ruling(choices[: settings.max_pairs_per_sample], dropped)


def refusal(margin: float, settings: PairSettings) -> str | None:
    """Return why two scores this far apart carry no preference, or None when they do."""
    if margin == 0:
        return "tie"
    return "below margin" if margin < settings.min_margin else None


def below_floor(rejected: Answer, settings: PairSettings) -> str | None:
    """Return which floor a rejected answer lies under, or None.

    RIP (arXiv 2501.18578) drops prompts by the reward and the length of their rejected answer: low
    ones come of questions that are hard to understand or to answer.
    """
    if settings.min_rejected_score is not None and rejected.score < settings.min_rejected_score:
        return "rejected scores too low"
    return (
        "rejected too short"
        if len(rejected.candidate.text) < settings.min_rejected_length
        else None
    )


def hardest(choices: Sequence[Choice], rewards: Mapping[str, float], share: float) -> set[int]:
    """Return the indices to drop so that the share with the smallest implicit margins stays.

    A small margin is a pair that the policy has still to learn (arXiv 2508.04149); a negative one
    it ranks wrongly.
    """
    order = sorted(
        range(len(choices)),
        key=lambda index: (
            implicit_margin(choices[index], rewards),
            choices[index].chosen.rank,
            choices[index].rejected.rank,
        ),
    )
    return set(order[math.ceil(share * len(choices)) :])


def implicit_margin(choice: Choice, rewards: Mapping[str, float]) -> float:
    """Return how much higher the policy's implicit reward of the chosen answer is."""
    return rewards[choice.chosen.candidate.id] - rewards[choice.rejected.candidate.id]


def length_offenders(choices: Sequence[Choice]) -> set[int]:
    """Return the indices to drop so that chosen and rejected answers are equally long on average.

    RLAIF-V's length balancing with the smallest margins first: pairs whose chosen answer is longer
    are dropped while the chosen answers are longer on average (or the other way round), each only
    if that brings the averages nearer.
    """
    gap = sum(choice.longer for choice in choices)
    side = 1 if gap > 0 else -1
    order = sorted(
        range(len(choices)),
        key=lambda index: (
            choices[index].margin,
            -abs(choices[index].longer),
            choices[index].chosen.rank,
        ),
    )
    dropped = set()
    for index in order:
        longer = choices[index].longer
        if longer * side > 0 and abs(gap - longer) < abs(gap):
            gap -= longer
            dropped.add(index)
    return dropped


def _one(choice: Choice, settings: PairSettings) -> Ruling:
    reason = below_floor(choice.rejected, settings)
    return Ruling([], {reason: 1}) if reason else Ruling([choice], {})


def _best(answers: Sequence[Answer]) -> Answer:
    return min(answers, key=lambda answer: (-answer.score, answer.rank))


def _rank(answer: Answer) -> str:
    return answer.rank


PAIR_RULES: dict[str, Rule] = {
    "hound": hound,
    "best_worst": best_worst,
    "best_vs_sigma": best_vs_sigma,
    "all_pairs": all_pairs,
}
