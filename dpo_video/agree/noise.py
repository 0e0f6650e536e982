"""How much a score moves when nothing of substance changes: sigma of repeated judgments, and how
often order flips.

N items, K repetitions.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpo_video.agree.measures import MeasureInput
from dpo_video.core.statistics import Floats
from dpo_video.judge.scorer import Scorer

OPENINGS = (
    "Read everything below before you reply.",
    "This is one of many items; treat each on its own.",
    "Below is all that you need.",
    "Please look at the following with care.",
)
BULLETS = re.compile(r"(?:^[ \t]*[-*] .*\n){2,}", re.MULTILINE)
PLACED = re.compile(r"\{[a-z_]+\}")


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
    whole: NDArray[np.bool_]
    """(N,) True for the complete items."""

    @property
    def sigma(self) -> float | None:
        """Standard deviation of one score about its item's mean, in score units; None where it
        cannot be told.
        """
        return float(np.sqrt(self.squares.mean())) if len(self.squares) else None

    def sigma_line(self, clips: Sequence[str], unscored: int) -> MeasureInput:
        """Return sigma as a line; `clips` are those of all N items."""
        kept = (
            [clip for clip, keep in zip(clips, self.whole, strict=True) if keep]
            if len(self.squares)
            else []
        )
        return MeasureInput(self.squares, kept, root_mean, unscored, len(self.squares))


def root_mean(values: Floats, weights: Floats) -> Floats:
    """Return the root of the weighted mean of values (N,), as (R,)."""
    out: Floats = np.sqrt(weights @ values / weights.sum(axis=1))
    return out


def wordings(scorer: Scorer) -> dict[str, Scorer]:
    """Return the scorer's prompt in other words that ask the same: its points and labels explained
    in reverse, or a sentence in front. Their scores should be the same; how far they are not is a
    deterministic judge's noise.
    """
    prompts = {"points in reverse": reverse_points(scorer)}
    prompts |= {
        f"opening {number}": f"{opening}\n{scorer.prompt}"
        for number, opening in enumerate(OPENINGS, start=1)
    }
    return {
        name: scorer.model_copy(update={"prompt": prompt})
        for name, prompt in prompts.items()
        if prompt != scorer.prompt
    }


def layouts(scorer: Scorer) -> dict[str, Scorer]:
    """Return the scorer with its blocks in another order, to see what position does: stronger than
    another wording, so it is no part of sigma. One that cannot be made of this prompt is left out.
    """
    prompts = {
        "question_first": swap_blocks(scorer.prompt, "caption", "question"),
        "answer_first": swap_blocks(scorer.prompt, "caption", "answer"),
    }
    return {
        name: scorer.model_copy(update={"prompt": prompt})
        for name, prompt in prompts.items()
        if prompt != scorer.prompt
    }


def swap_blocks(prompt: str, first: str, second: str) -> str:
    """Return the prompt with the blocks around two placeholders changing places: a line, or two
    where the first of them ends in a colon and the placeholder stands alone. Unchanged where one is
    missing or both share a block.
    """
    blocks = re.findall(
        r"(?:^[^\n{}]+:[ \t]*\n(?=\{[a-z_]+\}[ \t]*$))?^.*\n?", prompt, re.MULTILINE
    )
    at = {
        name: [k for k, block in enumerate(blocks) if "{" + name + "}" in block]
        for name in (first, second)
    }
    if len(at[first]) != 1 or len(at[second]) != 1 or len({*at[first], *at[second]}) < 2:
        return prompt
    one, other = at[first][0], at[second][0]
    if any(len(PLACED.findall(blocks[place])) > 1 for place in (one, other)):
        return prompt
    blocks[one], blocks[other] = blocks[other], blocks[one]
    return "".join(blocks)


def reverse_points(scorer: Scorer) -> str:
    """Return the prompt with its bullet points, and its explanations of labels ("A: ... B: ..."),
    in reverse order.
    """
    prompt = BULLETS.sub(
        lambda match: "".join(reversed(match[0].splitlines(keepends=True))), scorer.prompt
    )
    labels = "|".join(re.escape(label) for label in scorer.known_labels)
    lines = []
    for line in prompt.split("\n"):
        parts = re.split(rf"(?<=[.;]) (?=(?:{labels}): )", line) if labels else [line]
        described = len(parts) > 1 and all(re.match(rf"(?:{labels}): ", part) for part in parts)
        lines.append(" ".join(reversed(parts)) if described else line)
    return "\n".join(lines)


def measure_noise(scores: Floats, pairs: Sequence[tuple[int, int]], *, by_wording: bool) -> Noise:
    """Return sigma and flips of scores (N, K), NaN where unscored; the first column is the judgment
    as it is.

    With `by_wording` each column's mean shift is taken out first (both answers of a pair are asked
    in the same words, so a shift of all scores changes no pair): sigma^2 is the residual of items +
    wordings, (N - 1)(K - 1) degrees of freedom. Otherwise it is the mean variance within an item, N
    (K - 1) degrees of freedom.
    """
    kept: NDArray[np.bool_] = np.asarray(~np.isnan(scores).any(axis=1))
    whole = scores[kept]
    n, k = whole.shape
    freedom = (n - 1) * (k - 1) if by_wording else n * (k - 1)
    squares = np.empty(0)
    if freedom > 0:
        residual = whole - whole.mean(axis=1, keepdims=True)
        if by_wording:
            residual = residual - residual.mean(axis=0, keepdims=True)
        squares = (residual**2).sum(axis=1) * n / freedom
    if not pairs:
        return Noise(squares, n, np.empty((0, max(k - 1, 0))), kept)
    left, right = np.asarray(pairs).T
    margins = scores[left] - scores[right]  # (pairs, K)
    base, again = np.sign(margins[:, :1]), np.sign(margins[:, 1:])
    flips = np.where(again == 0, 0.5, (again != base).astype(float))
    return Noise(squares, n, np.where(np.isnan(again) | np.isnan(base), np.nan, flips), kept)
