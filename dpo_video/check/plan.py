"""What `dpo-video check` prints: a run's tokens, memory, steps and judge calls before anything is
paid for.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

CHARACTERS_PER_TOKEN = 4


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text has."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


class Spread(NamedTuple):
    """Minimum, mean and maximum of some values."""

    minimum: float
    mean: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of at least one value."""
        return cls(min(values), sum(values) / len(values), max(values))

    def __str__(self) -> str:
        if self.minimum == self.maximum:
            return f"{self.maximum:,.0f}"
        return f"{self.minimum:,.0f} to {self.maximum:,.0f}, mean {self.mean:,.0f}"


class Calls(NamedTuple):
    """Requests to a judge, with its tokens estimated at 4 characters each."""

    calls: int
    tokens_in: int
    tokens_out: int
    """At most: every written reply as long as `judge.max_tokens` allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run would do. Numbers are of the recipe's data where it was found, else of the
    assumptions.
    """

    recipe: str
    model: str
    family: str
    questions: int
    clips: int
    heldout_questions: int
    heldout_clips: int
    frames: Spread
    """Frames per clip that the model sees."""
    frames_taken: Spread
    """Frames per clip that `video.policy` takes, before the budget of tokens."""
    video_tokens: Spread
    sequence: Spread
    """Tokens of video, prompt and the longest answer allowed."""
    context: int
    """The longest sequence that training takes: `train.max_length`, else the model's context."""
    parameters: int
    trainable: int
    memory: Mapping[str, Mapping[str, float]]
    """Stage -> part -> GiB, with their `total`."""
    pairs: int
    """At most: every question paired, or those given, with their video negatives."""
    pairs_given: bool
    """Whether `data.pairs` gives them: then nothing is generated or judged to train on."""
    steps: int
    """Optimizer steps on one device, at most."""
    steps_on: Mapping[int, int]
    """The same on several devices, by their number."""
    step_pairs: int
    """Pairs a step on one device."""
    judge: Calls | None
    """None where the scorer cannot be loaded."""
    evaluation_judge: Calls | None
    decoded: int
    """Clips that were decoded for this plan."""
    assumptions: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """What stands in the way of a run."""
    warnings: tuple[str, ...] = ()


def render(plan: Plan) -> str:
    """Return the plan as text, problems last."""
    lines = [f"plan of {plan.recipe}"]
    for name, text in _rows(plan):
        lines.append(f"  {name:<22}{text}")
    for title, sentences in (
        ("assumed", plan.assumptions),
        ("warnings", plan.warnings),
        ("problems", plan.problems),
    ):
        if sentences:
            lines += [title, *(f"  - {sentence}" for sentence in sentences)]
    return "\n".join(lines)


def _rows(plan: Plan) -> list[tuple[str, str]]:
    share = plan.trainable / plan.parameters
    rows = [
        ("model", f"{plan.model} ({plan.family}), {plan.parameters / 1e6:,.1f} M parameters"),
        ("train on", f"{plan.questions:,} questions about {plan.clips:,} clips"),
        ("evaluate on", f"{plan.heldout_questions:,} questions about {plan.heldout_clips:,} clips"),
        ("frames per clip", _frames(plan)),
        ("video tokens per clip", str(plan.video_tokens)),
        ("sequence in tokens", f"{plan.sequence}; room for {plan.context:,}"),
        ("trainable", f"{plan.trainable / 1e6:,.2f} M parameters in LoRA, {share:.2%} of all"),
        (
            "pairs",
            f"at most {plan.pairs:,}" + (", given by data.pairs" if plan.pairs_given else ""),
        ),
        ("optimizer steps", _steps(plan)),
        *([] if plan.pairs_given else [("judge the candidates", _calls(plan.judge))]),
        ("judge the evaluation", _calls(plan.evaluation_judge)),
    ]
    for stage, sizes in plan.memory.items():
        inner = ", ".join(
            f"{name} {size_text(size)}" for name, size in sizes.items() if name != "total"
        )
        rows.append((f"memory to {stage}", f"about {size_text(sizes['total'])}: {inner}"))
    return rows


def _frames(plan: Plan) -> str:
    if plan.frames == plan.frames_taken:
        return str(plan.frames)
    return (
        f"{plan.frames}, of the {plan.frames_taken} that video.policy takes: the budget of tokens "
        "has no room for the others"
    )


def _steps(plan: Plan) -> str:
    devices = ", ".join(map(str, plan.steps_on))
    steps = ", ".join(f"{steps:,}" for steps in plan.steps_on.values())
    return (
        f"at most {plan.steps:,} of {plan.step_pairs:,} pairs on one device; on {devices} devices "
        f"{steps}"
    )


def _calls(calls: Calls | None) -> str:
    if calls is None:
        return "unknown, see the problems"
    return (
        f"{calls.calls:,} calls, about {calls.tokens_in:,} tokens in (4 characters each), at most "
        f"{calls.tokens_out:,} out"
    )


def size_text(gib: float) -> str:
    """Return a size in GiB in words, in MiB where it is small."""
    return f"{gib:.1f} GiB" if gib >= 0.1 else f"{gib * 1024:.1f} MiB"
