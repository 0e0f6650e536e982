"""Served answers against local ones: how many are equal, where they part, and whose they are.

An answer is that of the tuned model, of the base, or of neither. Only questions to which base and
tuned model answer differently here tell the two apart: these are counted as telling.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from dpo_video.core.report import ReportVerdict

MIN_SHARED = 0.5
"""Share of an answer that a served one must begin with to be taken for it: greedy answers of one
model part late where kernels round differently, those of two models soon.
"""
MAX_LOGP_GAP = 0.05
"""Mean distance of a token's log-prob in nats up to which two programs are taken to run the same
weights: bfloat16 kernels differ by about 0.01, another model by far more.
"""
MIN_SIDE = 0.9
"""Share of the telling questions that must speak for one model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerParity:
    """One question: what the models answer here, and what the server answers."""

    sample_id: str
    video: str
    prompt: str
    shown_as: str
    """How the server got the clip: film, images or file."""
    tuned: str
    base: str
    served: str
    first_difference: int | None
    """Characters that the served answer shares with the tuned one before they part; None where
    they are equal."""
    logp_gap: float | None = None
    """Mean distance in nats of a served token's log-prob from that under the tuned model here."""
    base_logp_gap: float | None = None
    """The same under the base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WayParity:
    """All questions, shown to the server in one way."""

    shown_as: str
    n: int
    """Questions that the server answered."""
    failed: int
    """Questions that it did not answer."""
    equal: int
    """Answers equal to those of the tuned model, space at both ends aside."""
    equal_base: int
    first_difference: float | None
    """Median of the characters before the first difference, over the answers that differ."""
    telling: int
    """Questions that base and tuned model answer differently here."""
    nearer_tuned: int
    nearer_base: int
    logp_gap: float | None
    base_logp_gap: float | None
    prompt_tokens: float | None
    """Mean length of the prompts in tokens, as the server counts them."""

    @property
    def share_equal(self) -> float:
        """Share of the answers that are equal to the tuned model's."""
        return self.equal / self.n if self.n else 0.0


def shared_prefix(first: str, second: str) -> int:
    """Return how many characters two texts begin with alike."""
    length = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        length += 1
    return length


def first_difference(served: str, local: str) -> int | None:
    """Return where two answers part, in characters; None where they are equal."""
    served, local = served.strip(), local.strip()
    return None if served == local else shared_prefix(served, local)


def compare_way(
    shown_as: str, rows: Sequence[AnswerParity], *, failed: int, prompt_tokens: float | None
) -> WayParity:
    """Return the counts of all questions that were shown in one way."""
    telling = [row for row in rows if row.tuned.strip() != row.base.strip()]
    sides = [_side(row) for row in telling]
    parted = [row.first_difference for row in rows if row.first_difference is not None]
    return WayParity(
        shown_as=shown_as,
        n=len(rows),
        failed=failed,
        equal=len(rows) - len(parted),
        equal_base=sum(row.served.strip() == row.base.strip() for row in rows),
        first_difference=median(parted) if parted else None,
        telling=len(telling),
        nearer_tuned=sides.count("tuned"),
        nearer_base=sides.count("base"),
        logp_gap=_mean([row.logp_gap for row in rows]),
        base_logp_gap=_mean([row.base_logp_gap for row in rows]),
        prompt_tokens=prompt_tokens,
    )


def _side(row: AnswerParity) -> str | None:
    """Return whose answer a telling question got: `tuned`, `base`, or None for neither."""
    if row.logp_gap is not None and row.base_logp_gap is not None:
        gaps = {"tuned": row.logp_gap, "base": row.base_logp_gap}
        nearer = min(gaps, key=lambda name: gaps[name])
        return nearer if gaps[nearer] <= max(MAX_LOGP_GAP, max(gaps.values()) / 4) else None
    served = row.served.strip()
    shares = {
        name: shared_prefix(served, local.strip()) / max(len(local.strip()), len(served), 1)
        for name, local in (("tuned", row.tuned), ("base", row.base))
    }
    nearer = max(shares, key=lambda name: shares[name])
    both = shares["tuned"] == shares["base"]
    return nearer if shares[nearer] >= MIN_SHARED and not both else None


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present else None


def is_base(way: WayParity) -> bool:
    """Return whether the served answers are those of the model without its adapter."""
    if way.telling == 0:
        return _is_nearer(way.base_logp_gap, way.logp_gap)
    return way.nearer_base >= MIN_SIDE * way.telling


def is_tuned(way: WayParity, min_equal: float) -> bool:
    """Return whether the served answers are the tuned model's: equal often enough, or of the same
    log-probs where rounding parts them.
    """
    begins_alike = way.first_difference is None or way.first_difference > 0
    same_logps = begins_alike and _is_nearer(way.logp_gap, way.base_logp_gap)
    is_same = way.share_equal >= min_equal or same_logps
    return is_same and way.nearer_base <= way.nearer_tuned and not is_base(way)


def _is_nearer(gap: float | None, other_gap: float | None) -> bool:
    """Return whether log-probs are those of one model, and plainly not those of the other."""
    if gap is None or other_gap is None:
        return False
    return gap <= MAX_LOGP_GAP and gap < other_gap / 2


def verdict_of(ways: Sequence[WayParity], min_equal: float) -> ReportVerdict:
    """Return what all ways come to, in a sentence; the first shows exactly our frames."""
    frames, *others = ways
    text, mood = _frames_verdict(frames, min_equal)
    for way in others:
        text += f" {_sampling_verdict(frames, way, min_equal)}"
    return ReportVerdict(text=text, mood=mood)  # type: ignore[arg-type]


def _frames_verdict(way: WayParity, min_equal: float) -> tuple[str, str]:
    equal = f"{way.equal} of {way.n} answers are equal"
    if is_base(way):
        return (
            "The served answers are those of the base: the adapter has no effect. "
            f"{way.nearer_base} of the {way.telling} questions that tell base and tuned model "
            "apart are answered as by the base.",
            "bad",
        )
    if is_tuned(way, min_equal):
        if way.telling == 0 and not _is_nearer(way.logp_gap, way.base_logp_gap):
            return (
                f"{equal}, but base and tuned model answer all questions alike here: nothing shows "
                "whether the server uses the adapter.",
                "warn",
            )
        if way.share_equal < min_equal:
            return (
                f"The server runs the tuned model: {equal}, and the log-probs of its tokens are "
                f"{way.logp_gap:.3f} nats from those here. What differs is rounding.",
                "good",
            )
        return f"The server answers as the tuned model does here: {equal}.", "good"
    if way.telling and way.nearer_tuned >= MIN_SIDE * way.telling:
        return (
            f"The adapter is at work, and the answers are not the same: {equal}, half of the "
            f"others part within {way.first_difference:.0f} characters. Another dtype, another "
            "quantisation or other frames do that.",
            "warn",
        )
    return (
        f"The served answers are neither the tuned model's nor the base's: {equal}; of the "
        f"{way.telling} questions that tell the two apart, {way.nearer_tuned} are answered as by "
        f"the tuned model and {way.nearer_base} as by the base. It is another model, or it does "
        "not see the frames.",
        "bad",
    )


def _sampling_verdict(frames: WayParity, way: WayParity, min_equal: float) -> str:
    """Say what the server's own choice of frames changes, as far as the model is not to blame."""
    if way.n == 0:
        return "It answered no question about the file itself."
    equal = f"{way.equal} of {way.n}"
    if not is_tuned(frames, min_equal):
        return f"With the file itself, {equal} are equal."
    if way.share_equal >= min_equal:
        return f"So it does with the frames that it takes from the file itself: {equal}."
    return (
        f"With the file itself only {equal} are equal: the server takes other frames from it than "
        "the recipe. That is its sampling, not the model."
    )
