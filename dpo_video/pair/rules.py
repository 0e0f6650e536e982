"""Pair rules: which of a question's usable answers become chosen and rejected. Pure, and blind to
the order of answers.

An answer that was cut at the token limit may be rejected but is never chosen: a chosen half
sentence would teach the model to break off.

Example: four answers to "What does the man pour into the bowl?", scored 1 to 5, by a scorer whose
threshold is 3, under `min_margin: 1` and `max_pairs_per_sample: 2`:

    #0  4.8  Olive oil, from a green bottle.
    #1  4.5  He pours olive oil into the           (truncated)
    #2  2.6  Milk.
    #3  1.2  A woman is dancing in the rain.

    hound          #0 over #2 or over #3: one good and one bad answer, which ones the seed says
    best_worst     #0 over #3: the widest margin
    best_vs_sigma  #0 over #3: of four answers the lowest is nearest to
                   mean - 2 sigma, 3.275 - 2 x 1.465 = 0.34
    all_pairs      #0 over #3 and #0 over #2, the widest margins; left out: #1 over #2 and over #3
                   ("cut"), #0 over #1 ("below margin"), #2 over #3 ("over cap")

Answers that score 4.8, 4.5 and 4.4 make no pair: "uniform" under `hound`, "below margin" elsewhere.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, pstdev
from typing import NamedTuple

from dpo_video.core.records import Candidate
from dpo_video.core.text import normalised_text
from dpo_video.recipe import PairSettings

TRUNCATED = "cut"
ONE_SIDE, CHOSEN_WRONG, UNSURE = "one side only", "chosen is wrong", "both unsure"
NOT_WORSE, CONTAINED, NOT_LONGER, UNEQUAL = (
    "rejected not worse",
    "chosen inside rejected",
    "chosen not longer",
    "lengths too unequal",
)
REASONS = (
    "uniform",
    ONE_SIDE,
    TRUNCATED,
    CHOSEN_WRONG,
    UNSURE,
    NOT_WORSE,
    CONTAINED,
    NOT_LONGER,
    UNEQUAL,
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
class ScoredAnswer:
    """An answer that a rule may use."""

    candidate: Candidate
    score: float
    rank: str
    """Hash of seed, sample id and the answer's number: a fixed order among equals."""
    is_sure: bool = True
    """False where no label of the judge's verdict has half of its probability."""

    @property
    def truncated(self) -> bool:
        """True when the answer was cut at the token limit."""
        return self.candidate.finish == "length"


class Choice(NamedTuple):
    """Two answers to one question, the better one first."""

    chosen: ScoredAnswer
    rejected: ScoredAnswer

    @property
    def margin(self) -> float:
        """How much higher the chosen answer scores."""
        return self.chosen.score - self.rejected.score

    @property
    def extra_length(self) -> int:
        """How many characters the chosen answer has more than the rejected one."""
        return len(self.chosen.candidate.text) - len(self.rejected.candidate.text)


class Ruling(NamedTuple):
    """What a rule made of one question: its pairs, and how many it did not make by reason."""

    choices: list[Choice]
    dropped: Mapping[str, int]


PairRule = Callable[[Sequence[ScoredAnswer], PairSettings, float], Ruling]


def hound(answers: Sequence[ScoredAnswer], settings: PairSettings, threshold: float) -> Ruling:
    """Return one answer at or above the threshold against one below it, each the lowest rank of its
    side.

    LLaVA-Hound's rule: one good against one bad answer picked by chance (here by the seed), at most
    one pair a question; a question whose answers all fall on one side is uniform and dropped.
    """
    good = [answer for answer in answers if answer.score >= threshold]
    bad = [answer for answer in answers if answer.score < threshold]
    if not good or not bad:
        return Ruling([], {"uniform": 1})
    complete = [answer for answer in good if not answer.truncated]
    if not complete:
        return Ruling([], {TRUNCATED: 1})
    return _unless_below_floor(Choice(min(complete, key=_rank), min(bad, key=_rank)), settings)


def best_worst(answers: Sequence[ScoredAnswer], settings: PairSettings, threshold: float) -> Ruling:
    """Return the highest score that was not cut against the lowest score, if they are `min_margin`
    apart.
    """
    del threshold
    worst = min(answers, key=lambda answer: (answer.score, answer.rank))
    reason = why_too_close(max(answer.score for answer in answers) - worst.score, settings)
    if reason:
        return Ruling([], {reason: 1})
    complete = [
        answer
        for answer in answers
        if not answer.truncated and not why_too_close(answer.score - worst.score, settings)
    ]
    if not complete:
        return Ruling([], {TRUNCATED: 1})
    return _unless_below_floor(Choice(_highest(complete), worst), settings)


def best_vs_sigma(
    answers: Sequence[ScoredAnswer], settings: PairSettings, threshold: float
) -> Ruling:
    """Return the highest score that was not cut against the score nearest to mean -
    `rejected_sigmas` * sigma.

    Mean and standard deviation are those of the question's answers. The more answers there are, the
    more of an oddity the worst one is: against it training gains less the more are drawn (arXiv
    2502.16825). Where so few answers were drawn that none is that far below the mean, this is
    `best_worst`.
    """
    del threshold
    scores = [answer.score for answer in answers]
    reason = why_too_close(max(scores) - min(scores), settings)
    if reason:
        return Ruling([], {reason: 1})
    complete = [answer for answer in answers if not answer.truncated]
    best = _highest(complete) if complete else None
    below = [
        answer
        for answer in answers
        if best and not why_too_close(best.score - answer.score, settings)
    ]
    if best is None or not below:
        return Ruling([], {TRUNCATED: 1})
    target = fmean(scores) - settings.rejected_sigmas * pstdev(scores)
    return _unless_below_floor(
        Choice(best, min(below, key=lambda answer: (abs(answer.score - target), answer.rank))),
        settings,
    )


def all_pairs(answers: Sequence[ScoredAnswer], settings: PairSettings, threshold: float) -> Ruling:
    """Return all pairs that are `min_margin` apart, of these the `max_pairs_per_sample` with the
    widest margins.
    """
    del threshold
    dropped: Counter[str] = Counter()
    choices = []
    for first, second in combinations(answers, 2):
        choice = Choice(first, second) if first.score > second.score else Choice(second, first)
        reason = (
            why_too_close(choice.margin, settings)
            or (TRUNCATED if choice.chosen.truncated else None)
            or why_below_floor(choice.rejected, settings)
        )
        if reason:
            dropped[reason] += 1
        else:
            choices.append(choice)
    choices.sort(key=lambda choice: (-choice.margin, choice.chosen.rank, choice.rejected.rank))
    over_cap = choices[settings.max_pairs_per_sample :]
    if over_cap:
        dropped["over cap"] = len(over_cap)
    return Ruling(choices[: settings.max_pairs_per_sample], dropped)


def across(answers: Sequence[ScoredAnswer], settings: PairSettings, threshold: float) -> Ruling:
    """Return the best answer of `chosen_samplers` against each one of `rejected_samplers`, where
    the judge agrees; of these the `max_pairs_per_sample` with the widest margins.

    TPO's rule (arXiv 2501.13919), whose filter drops a pair where the rejected answer is the better
    one, the chosen one is wrong, or it cannot be told; here by score, threshold and the judge's
    label probabilities. Of TEMPLE (convert_to_swift.py) are the drops for a chosen answer that
    stands inside the rejected one, for lengths too unequal, and for one that is not the longer of
    the two where frames were dropped.
    """
    chosen_side = [row for row in answers if row.candidate.sampler in settings.chosen_samplers]
    rejected_side = [row for row in answers if row.candidate.sampler in settings.rejected_samplers]
    if not chosen_side or not rejected_side:
        return Ruling([], {ONE_SIDE: 1})
    complete = [answer for answer in chosen_side if not answer.truncated]
    if not complete:
        return Ruling([], {TRUNCATED: 1})
    best = _highest(complete)
    if best.score < threshold:
        return Ruling([], {CHOSEN_WRONG: 1})
    dropped: Counter[str] = Counter()
    choices = []
    for rejected in rejected_side:
        choice = Choice(best, rejected)
        reason = _why_not_across(choice, settings)
        if reason:
            dropped[reason] += 1
        else:
            choices.append(choice)
    choices.sort(key=lambda choice: (-choice.margin, choice.rejected.rank))
    over_cap = choices[settings.max_pairs_per_sample :]
    if over_cap:
        dropped["over cap"] = len(over_cap)
    return Ruling(choices[: settings.max_pairs_per_sample], dropped)


def _why_not_across(choice: Choice, settings: PairSettings) -> str | None:
    """Return why two answers of two sides are no pair, or None."""
    if not choice.chosen.is_sure and not choice.rejected.is_sure:
        return UNSURE
    if choice.margin <= 0:
        return NOT_WORSE
    chosen, rejected = (normalised_text(answer.candidate.text) for answer in choice)
    if chosen in rejected:
        return CONTAINED
    reason = _why_wrong_length(choice, settings, len(chosen), len(rejected))
    return (
        reason
        or why_too_close(choice.margin, settings)
        or why_below_floor(choice.rejected, settings)
    )


def _why_wrong_length(
    choice: Choice, settings: PairSettings, chosen: int, rejected: int
) -> str | None:
    """Return why answers of so many characters are no pair, or None."""
    if choice.rejected.candidate.sampler in settings.chosen_longer_than:
        return None if chosen > rejected else NOT_LONGER
    shorter, longer = sorted((chosen, rejected))
    limit = settings.max_length_ratio
    return UNEQUAL if limit is not None and longer > limit * shorter else None


def why_too_close(margin: float, settings: PairSettings) -> str | None:
    """Return why two scores this far apart carry no preference, or None when they do."""
    if margin == 0:
        return "tie"
    return "below margin" if margin < settings.min_margin else None


def why_below_floor(rejected: ScoredAnswer, settings: PairSettings) -> str | None:
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
    gap = sum(choice.extra_length for choice in choices)
    side = 1 if gap > 0 else -1
    order = sorted(
        range(len(choices)),
        key=lambda index: (
            choices[index].margin,
            -abs(choices[index].extra_length),
            choices[index].chosen.rank,
        ),
    )
    dropped = set()
    for index in order:
        longer = choices[index].extra_length
        if longer * side > 0 and abs(gap - longer) < abs(gap):
            gap -= longer
            dropped.add(index)
    return dropped


def _unless_below_floor(choice: Choice, settings: PairSettings) -> Ruling:
    reason = why_below_floor(choice.rejected, settings)
    return Ruling([], {reason: 1}) if reason else Ruling([choice], {})


def _highest(answers: Sequence[ScoredAnswer]) -> ScoredAnswer:
    return min(answers, key=lambda answer: (-answer.score, answer.rank))


def _rank(answer: ScoredAnswer) -> str:
    return answer.rank


PAIR_RULES: dict[str, PairRule] = {
    "hound": hound,
    "best_worst": best_worst,
    "best_vs_sigma": best_vs_sigma,
    "all_pairs": all_pairs,
    "across": across,
}
