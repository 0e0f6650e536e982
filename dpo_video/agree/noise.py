"""How much a score moves when nothing of substance changes: sigma of repeated judgments, and how
often order flips.

N items, K repetitions.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpo_video.agree.gold import Gold, LabelledAnswer
from dpo_video.agree.measures import (
    BootstrapSettings,
    Measure,
    MeasureInput,
    Measures,
    Unmeasured,
    estimate,
    unless_nothing_scored,
)
from dpo_video.agree.session import JudgeSession
from dpo_video.agree.wordings import layouts, wordings
from dpo_video.core.records import Candidate
from dpo_video.core.statistics import Floats, weighted_mean
from dpo_video.judge.types import mode_of
from dpo_video.run import Run
from dpo_video.video import file_name

AS_IT_IS = "as it is"
Pairs = Sequence[tuple[int, int]]
"""Indices of two answers to one sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseReport:
    """How noise was measured."""

    how: str
    """`sampled`: drawn again at judge.temperature; `wordings`: asked in other words."""
    answers: int
    pairs: int
    shifts: dict[str, float | None]
    """Mean change of the score in each repetition."""
    layout_shifts: dict[str, float | None]
    """The same where blocks of the prompt change places."""


class Noise(NamedTuple):
    """What repetition changes."""

    squares: Floats
    """(complete items,): squared residuals of each item, scaled so that their mean is the variance
    of one score.
    """
    complete: int
    """Items with a score in every repetition: those that sigma is measured on."""
    flips: Floats
    """(pairs, K - 1): 1 where a repetition orders the pair the other way than the first judgment
    does, 0.5 for a tie, NaN where one of the scores is missing."""
    is_complete: NDArray[np.bool_]
    """(N,) True for the complete items."""

    @property
    def sigma(self) -> float | None:
        """Standard deviation of one score about its item's mean, in score units; None where it
        cannot be told.
        """
        return float(np.sqrt(self.squares.mean())) if len(self.squares) else None


def judge_again(
    run: Run, session: JudgeSession, answers: Sequence[LabelledAnswer]
) -> tuple[Measures, NoiseReport | Unmeasured]:
    """Judge answers again and again; return the measures of noise, and how it was measured."""
    options = run.recipe.agree
    if not answers:
        why_none = "no answers: neither gold labels nor candidates.jsonl"
        return {}, Unmeasured(why_none=why_none)
    if not options.repeats:
        return {}, Unmeasured(why_none="agree.repeats is 0")
    bootstrap = BootstrapSettings(options.bootstrap, run.recipe.seed)
    ids = [candidate.id for _, candidate in answers]
    clips = [file_name(sample.video) for sample, _ in answers]
    columns, sampled = _repetitions(session, answers, repeats=options.repeats)
    table = score_table(list(columns.values()), ids)
    pairs = untied_pairs(answers, table[:, 0])
    noise = measure_noise(table, pairs, by_wording=not sampled)
    measures = {
        "noise_sigma": Measure(estimate=estimate(sigma_input(noise, clips), bootstrap)),
        "flip_rate": Measure(estimate=estimate(flip_input(noise, pairs, clips), bootstrap)),
    }
    layout_shifts = {}
    for name, scorer in layouts(session.scorer).items():
        moved = score_table([columns[AS_IT_IS], session.scores(answers, scorer=scorer)], ids)
        flips = flip_input(measure_noise(moved, pairs, by_wording=True), pairs, clips)
        measures[f"{name}_flip_rate"] = Measure(estimate=estimate(flips, bootstrap))
        layout_shifts[name] = mean_shift(moved)
    return measures, NoiseReport(
        how="sampled" if sampled else "wordings",
        answers=len(answers),
        pairs=len(pairs),
        shifts={
            name: mean_shift(table[:, [0, index]]) for index, name in enumerate(columns) if index
        },
        layout_shifts=layout_shifts,
    )


def noise_items(
    run: Run, gold: Gold | None, candidates: Sequence[Candidate]
) -> list[LabelledAnswer]:
    """Return the distinct answers of `agree.noise_samples` samples, drawn by hash: the run's
    candidates, which pairs are made of, or the labelled answers where it has none."""
    samples = {sample.id: sample for sample in run.samples}
    answers = [(samples[candidate.sample_id], candidate) for candidate in candidates]
    if not answers and gold is not None:
        answers = list(gold.answers.values())
    distinct = {(sample.id, candidate.text): (sample, candidate) for sample, candidate in answers}
    ids = sorted(
        {sample_id for sample_id, _ in distinct},
        key=lambda name: hashlib.sha256(f"{run.recipe.seed} {name}".encode()).digest(),
    )
    drawn = set(ids[: run.recipe.agree.noise_samples])
    return [answer for (sample_id, _), answer in distinct.items() if sample_id in drawn]


def measure_noise(scores: Floats, pairs: Pairs, *, by_wording: bool) -> Noise:
    """Return sigma and flips of scores (N, K), NaN where unscored; the first column is the judgment
    as it is.

    With `by_wording` each column's mean shift is taken out first (both answers of a pair are asked
    in the same words, so a shift of all scores changes no pair): sigma^2 is the residual of items +
    wordings, (N - 1)(K - 1) degrees of freedom. Otherwise it is the mean variance within an item, N
    (K - 1) degrees of freedom.
    """
    is_complete: NDArray[np.bool_] = np.asarray(~np.isnan(scores).any(axis=1))
    complete = scores[is_complete]
    n, k = complete.shape
    freedom = (n - 1) * (k - 1) if by_wording else n * (k - 1)
    squares = np.empty(0)
    if freedom > 0:
        residual = complete - complete.mean(axis=1, keepdims=True)
        if by_wording:
            residual = residual - residual.mean(axis=0, keepdims=True)
        squares = (residual**2).sum(axis=1) * n / freedom
    if not pairs:
        return Noise(squares, n, np.empty((0, max(k - 1, 0))), is_complete)
    left, right = np.asarray(pairs).T
    margins = scores[left] - scores[right]  # (pairs, K)
    base, again = np.sign(margins[:, :1]), np.sign(margins[:, 1:])
    flips = np.where(again == 0, 0.5, (again != base).astype(float))
    flips = np.where(np.isnan(again) | np.isnan(base), np.nan, flips)
    return Noise(squares, n, flips, is_complete)


def sigma_input(noise: Noise, clips: Sequence[str]) -> MeasureInput:
    """Return sigma before it is computed; `clips` are those of all N items."""
    complete_clips: list[str] = []
    if len(noise.squares):
        complete_clips = list(itertools.compress(clips, noise.is_complete))
    unscored = len(clips) - noise.complete
    return MeasureInput(noise.squares, complete_clips, root_mean, unscored, len(noise.squares))


def flip_input(noise: Noise, pairs: Pairs, clips: Sequence[str]) -> MeasureInput:
    """Return the share of judgments that change a pair's order; one that is missing counts as
    changed.
    """
    unscored = np.isnan(noise.flips).any(axis=1)
    shares = np.nan_to_num(noise.flips, nan=1.0).mean(axis=1) if len(pairs) else np.empty(0)
    shares = unless_nothing_scored(shares, ~np.isnan(noise.flips).reshape(-1))
    pair_clips = [clips[left] for left, _ in pairs]
    return MeasureInput(shares, pair_clips, weighted_mean, int(unscored.sum()), len(pairs))


def root_mean(values: Floats, weights: Floats) -> Floats:
    """Return the root of the weighted mean of values (N,), as (R,)."""
    roots: Floats = np.sqrt(weights @ values / weights.sum(axis=1))
    return roots


def untied_pairs(answers: Sequence[LabelledAnswer], scores: Floats) -> list[tuple[int, int]]:
    """Return the pairs of one sample's answers that the judge did not tie at first."""
    of_sample: dict[str, list[int]] = {}
    for index, (sample, _) in enumerate(answers):
        of_sample.setdefault(sample.id, []).append(index)
    pairs = []
    for indices in of_sample.values():
        for left, right in itertools.combinations(indices, 2):
            margin = scores[left] - scores[right]
            if margin != 0 and not np.isnan(margin):
                pairs.append((left, right))
    return pairs


def mean_shift(table: Floats) -> float | None:
    """Return the mean change from the first to the second column, over rows with both."""
    change = (table[:, 1] - table[:, 0])[~np.isnan(table).any(axis=1)]
    return float(change.mean()) if len(change) else None


def score_table(columns: Sequence[Mapping[str, float]], ids: Sequence[str]) -> Floats:
    """Return the scores of each repetition by candidate id as (answers, repetitions)."""
    return (
        np.array([[column[name] for name in ids] for column in columns]).reshape(len(columns), -1).T
    )


def _repetitions(
    session: JudgeSession, answers: Sequence[LabelledAnswer], *, repeats: int
) -> tuple[dict[str, dict[str, float]], bool]:
    """Return the scores of each repetition by its name, and whether verdicts were drawn again."""
    columns = {AS_IT_IS: session.scores(answers)}
    mode = mode_of(session.settings, session.scorer)
    if mode == "verdict" and session.settings.temperature > 0:
        for number in range(1, repeats + 1):
            columns[f"drawn again {number}"] = session.scores(answers, repeat=number)
        return columns, True
    for name, scorer in itertools.islice(wordings(session.scorer).items(), repeats):
        columns[name] = session.scores(answers, scorer=scorer)
    return columns, False
