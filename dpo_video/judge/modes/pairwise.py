"""Compare answers two at a time, always in both orders: tie-breaks, before against after, and whole
round robins.

A judge prefers what stands first (or last), so P(first better) is the mean of both orders'
probabilities, and only then is anything decided; a tie label counts half. Averaging before deciding
lifted a small judge from 56.7 to 73.1 % (arXiv 2503.03064).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dpo_video.core.errors import UserError
from dpo_video.core.records import Candidate, Judgment, Sample
from dpo_video.judge.ask import ask_all
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.scorer import Scorer, load_scorer, render
from dpo_video.judge.types import Judge
from dpo_video.judge.verdict import check_examples, read_reply
from dpo_video.recipe import JudgeSettings
from dpo_video.store import RunStore

AnswerPair = tuple[Sample, str, str]
"""A question and two answers to it."""
PRIOR_GAMES = 0.1
"""Drawn games of every answer against an average one: strengths stay finite for one that wins or
loses everything.
"""
MOST_STEPS = 2000
TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the judge makes of two answers."""

    orders: tuple[float, float] | None = None
    """P(first better) with the first answer shown first, and shown second; None: no verdict in one
    of the orders.
    """
    reason: str = ""
    status: str = "scored"
    """`scored`, `unscored` (no verdict), or that of the reply that did not come."""

    @property
    def first_better(self) -> float | None:
        """P(first better), averaged over both orders."""
        return None if self.orders is None else sum(self.orders) / 2

    @property
    def swap_gap(self) -> float | None:
        """How far the orders differ: above 0 where the answer shown first gains."""
        return None if self.orders is None else self.orders[0] - self.orders[1]

    @property
    def consistent(self) -> bool:
        """True when both orders prefer the same answer."""
        return self.orders is not None and (self.orders[0] - 0.5) * (self.orders[1] - 0.5) > 0


class Compare(Protocol):
    """Compares pairs of answers, in order."""

    def __call__(self, twos: Sequence[AnswerPair], /) -> list[Comparison]: ...


class _Game(NamedTuple):
    sample_id: str
    first: int
    second: int


def pairwise_scorer(name: str, where: str) -> Scorer:
    """Return a scorer of `mode: pairwise`; `where` names the setting in the error for any other."""
    scorer = load_scorer(name)
    if scorer.mode != "pairwise":
        raise UserError(
            f"{where} {name!r} has `mode: {scorer.mode}`; answers are compared by a scorer of "
            f"`mode: "
            "pairwise`, such as caption_pairwise"
        )
    check_examples(scorer)
    return scorer


def comparer(
    settings: JudgeSettings,
    scorer: Scorer,
    store: RunStore,
    *,
    judge: Judge | None = None,
    counts: Counter[str] | None = None,
) -> Compare:
    """Return a function that compares answers by these settings; without an open `judge` it opens
    one per call.
    """

    def compare_now(twos: Sequence[AnswerPair], /) -> list[Comparison]:
        if judge is not None:
            return compare(settings, scorer, twos, store, judge=judge, counts=counts)
        with open_judge(settings) as opened:
            return compare(settings, scorer, twos, store, judge=opened, counts=counts)

    return compare_now


def compare(
    settings: JudgeSettings,
    scorer: Scorer,
    twos: Sequence[AnswerPair],
    store: RunStore,
    *,
    judge: Judge,
    counts: Counter[str] | None = None,
) -> list[Comparison]:
    """Return the comparison of each two answers; every order of two texts is asked once and stored.

    Answers that differ only in spaces are equally good, without a call.
    """
    prompts = []
    for sample, first, second in twos:
        if not _same(first, second):
            prompts += [
                render(
                    scorer,
                    caption=sample.caption,
                    question=sample.prompt,
                    answer=one,
                    other=other,
                    reference=sample.answer,
                )
                for one, other in ((first, second), (second, first))
            ]
    replies = iter(ask_all(settings, scorer, prompts, store, judge=judge, counts=counts))
    out = []
    for _, first, second in twos:
        if _same(first, second):
            out.append(Comparison(orders=(0.5, 0.5), reason="the same answer"))
            continue
        both = next(replies), next(replies)
        broken = next((reply for reply in both if reply.status != "answered"), None)
        if broken is not None:
            out.append(Comparison(reason=broken.reason, status=broken.status))
            continue
        verdicts = [read_reply(settings, scorer, reply)[0] for reply in both]
        one, other = (verdict.score for verdict in verdicts)
        if one is None or other is None:
            out.append(
                Comparison(reason=verdicts[0 if one is None else 1].reason, status="unscored")
            )
        else:
            out.append(Comparison(orders=(one, 1 - other)))
    return out


def judge_round_robin(
    settings: JudgeSettings,
    scorer: Scorer,
    items: Sequence[tuple[Sample, Candidate]],
    store: RunStore,
    *,
    judge: Judge,
    counts: Counter[str] | None = None,
) -> dict[str, Judgment]:
    """Return the judgment of every candidate by its id: its chance to beat the other answers to its
    question.

    Each answer meets all others, or `judge.opponents` of them (see `schedule`); the score is that
    of `strengths`. It is relative to the question's other answers, so 0.5 is their average whatever
    their quality.
    """
    groups: dict[str, dict[str, list[Candidate]]] = {}
    samples = {sample.id: sample for sample, _ in items}
    for sample, candidate in items:
        groups.setdefault(sample.id, {}).setdefault(_plain(candidate.text), []).append(candidate)
    games = [
        _Game(name, *pair)
        for name, texts in groups.items()
        for pair in schedule(len(texts), settings.opponents)
    ]
    order = {
        name: sorted(texts, key=lambda text, of=texts: min(one.id for one in of[text]))  # type: ignore[misc]
        for name, texts in groups.items()
    }
    shown = {name: [texts[text][0].text for text in order[name]] for name, texts in groups.items()}
    results = compare(
        settings,
        scorer,
        [
            (
                samples[game.sample_id],
                shown[game.sample_id][game.first],
                shown[game.sample_id][game.second],
            )
            for game in games
        ],
        store,
        judge=judge,
        counts=counts,
    )
    played: dict[str, list[tuple[int, int, Comparison]]] = {name: [] for name in groups}
    for game, result in zip(games, results, strict=True):
        played[game.sample_id].append((game.first, game.second, result))
    found: dict[str, Judgment] = {}
    for name, texts in groups.items():
        own = played[name]
        scores = strengths(
            len(texts),
            {
                (a, b): result.first_better
                for a, b, result in own
                if result.first_better is not None
            },
        )
        for number, text in enumerate(order[name]):
            met = [result for a, b, result in own if number in (a, b)]
            for candidate in texts[text]:
                found[candidate.id] = _judgment(scorer, judge, candidate, met, scores[number])
    return {candidate.id: found[candidate.id] for _, candidate in items}


def schedule(size: int, opponents: int | None) -> list[tuple[int, int]]:
    """Return who meets whom among `size` answers: all pairs, or a ring where each meets its nearest
    neighbours.

    With k opponents each answer meets the ceil(k / 2) next ones around the ring and is met by as
    many: everyone has the same number of games, and the ring is connected, so all strengths can be
        compared.
    """
    if opponents is None or opponents >= size - 1:
        return list(combinations(range(size), 2))
    steps = range(1, -(-opponents // 2) + 1)
    return sorted(
        {(min(a, b), max(a, b)) for a in range(size) for step in steps for b in [(a + step) % size]}
    )


def strengths(size: int, won: Mapping[tuple[int, int], float]) -> list[float]:
    """Return each answer's chance to beat another answer of its question, 0 to 1, mean over the
    others.

    Where everyone met everyone that is the mean of P(better). Otherwise it is what a Bradley-Terry
    model fitted to the games expects of the games not played too: strengths g with P(i beats j) =
    g_i / (g_i + g_j), by the MM iteration g_i <- wins_i / sum_j (n_ij / (g_i + g_j)) of Hunter 2004
    (Annals of Statistics 32:384, sec. 2); a probability counts as a part of a win. In a whole round
    robin both agree, as the likelihood equations say.

    Args:
        won: P(a better than b) by (a, b), a < b; games that were not played or not decided are left
            out.
    """
    wins = np.zeros((size, size))
    for (a, b), chance in won.items():
        wins[a, b], wins[b, a] = chance, 1 - chance
    if len(won) == size * (size - 1) // 2:
        return [float(total) / max(size - 1, 1) for total in wins.sum(1)]
    power = _bradley_terry(wins)
    chances = power[:, None] / (power[:, None] + power[None, :])
    return [float((chances[k].sum() - 0.5) / (size - 1)) for k in range(size)]


def _bradley_terry(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    games = wins + wins.T
    total = wins.sum(1) + PRIOR_GAMES / 2
    power: NDArray[np.float64] = np.ones(len(wins))
    for _ in range(MOST_STEPS):
        met = (games / (power[:, None] + power[None, :])).sum(1) + PRIOR_GAMES / (power + 1)
        moved = total / met
        if np.abs(np.log(moved / power)).max() < TOLERANCE:
            return moved
        power = moved
    return power


def _judgment(
    scorer: Scorer, judge: Judge, candidate: Candidate, met: Sequence[Comparison], score: float
) -> Judgment:
    """Return the judgment of one answer from its own games; without a decided one it has no
    score.
    """
    gaps = [abs(result.swap_gap) for result in met if result.swap_gap is not None]
    blank = Judgment(
        candidate_id=candidate.id,
        scorer=scorer.version,
        judge=judge.name,
        score=None,
        status="unscored",
        reason="nothing to compare with: all answers to the question are the same",
        reply="",
    )
    failed = next((result for result in met if result.status == "failed"), None)
    if failed is not None:
        return replace(blank, status="failed", reason=failed.reason)
    if not gaps:
        return replace(blank, status=met[0].status, reason=met[0].reason) if met else blank
    gap = fmean(gaps)
    reason = (
        f"beats another answer with {score:.2f}: {len(gaps)} compared, {gap:.2f} between the "
        f"orders on average"
    )
    return replace(
        blank,
        score=score,
        status="scored",
        reason=reason,
        details={"comparisons": len(gaps), "left_out": len(met) - len(gaps), "swap_gap": gap},
    )


def _plain(text: str) -> str:
    return " ".join(text.split())


def _same(first: str, second: str) -> bool:
    return _plain(first) == _plain(second)


def preferred(result: Comparison) -> float | None:
    """Return 1 where the first answer is better in both orders, 0 where the second is, 0.5 where
    the orders disagree.

    MT-Bench's rule (arXiv 2306.05685, sec. 3.4): a win must survive the swap.
    """
    if result.first_better is None:
        return None
    return float(result.first_better > 0.5) if result.consistent else 0.5


def swap_summary(results: Sequence[Comparison]) -> dict[str, float | int | None]:
    """Return how comparisons depend on the order: the share that flips, the mean gain of standing
    first, how many.
    """
    gaps = [
        result.swap_gap
        for result in results
        if result.swap_gap is not None and result.reason != "the same answer"
    ]
    flips = [
        not result.consistent
        for result in results
        if result.orders is not None and result.reason != "the same answer"
    ]
    return {
        "compared": len(gaps),
        "swap_inconsistent": sum(flips) / len(flips) if flips else None,
        "first_position_gain": sum(gaps) / len(gaps) if gaps else None,
    }
