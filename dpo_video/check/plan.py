"""What `dpo-video check` prints: a run's tokens, memory, steps and judge calls before anything is
paid for.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

CHARACTERS_PER_TOKEN = 4
NAME_COLUMNS = 22
"""Columns of the names of a plan's rows."""


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
class FrameClass:
    """What becomes of the frames of the clips of one size that were looked at."""

    width: int
    height: int
    """Pixels on disk."""
    clips: int
    asked: Spread
    """Frames that `video.policy` asks for."""
    kept: Spread
    """Frames that the model sees."""
    why: tuple[str, ...]
    """What the others are lost to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """How long a stage takes."""

    stage: str
    seconds: float | None
    """None where it cannot be told."""
    device: str
    basis: Literal["measured", "estimate", "unknown"]
    note: str = ""
    """What was measured, or why it cannot be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptClips:
    """What is kept of the clips of a run."""

    kept: Literal["none", "frames", "features"]
    clips: int
    """Those of training, held out and of all sets."""
    clip_gib: float
    """GiB of a clip, the mean of those that were looked at."""
    limit_gib: float
    """`video.cache_gb`, and under `video.cache: auto` at most half of the free disk."""
    folder: str

    @property
    def gib(self) -> float:
        """GiB of all clips."""
        return self.clips * self.clip_gib

    @property
    def share(self) -> float:
        """The part of the clips that there is room for."""
        return min(1.0, self.limit_gib / self.gib) if self.gib else 1.0

    def __str__(self) -> str:
        if self.kept == "none":
            return (
                "nothing (video.cache none): each is decoded again in each stage and epoch, in "
                "evaluation once a model"
            )
        ending = "" if self.share < 1 else "; each is decoded once"
        return (
            f"{self.kept} of {self.clips:,} clips, {memory_text(self.clip_gib)} each, "
            f"{memory_text(self.gib)} in all; room for {memory_text(self.limit_gib)} in "
            f"{self.folder}{ending}"
        )


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
    """Tokens per clip, those of its sound among them."""
    sound_tokens: Spread | None
    """None for a model that hears nothing, or is not to."""
    clips_with_sound: int
    """Of the clips that were looked at."""
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
    dollars: float | None
    """Most US dollars that judging the candidates costs by `judge.prices`; None without them."""
    evaluation_dollars: float | None
    frame_classes: tuple[FrameClass, ...]
    times: tuple[StageTime, ...]
    kept: KeptClips
    decoded: int
    """Clips that were decoded for this plan."""
    assumptions: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """What stands in the way of a run."""
    warnings: tuple[str, ...] = ()


def plan_text(plan: Plan, *, width: int | None = None) -> str:
    """Return the plan as text, problems last, its lines broken at `width` columns."""
    lines = [f"plan of {plan.recipe}"]
    for name, text in _rows(plan):
        lines += _broken(f"  {name:<{NAME_COLUMNS}}", text, width)
    for title, sentences in (
        ("assumed", plan.assumptions),
        ("warnings", plan.warnings),
        ("problems", plan.problems),
    ):
        if sentences:
            lines.append(title)
            for sentence in sentences:
                lines += _broken("  - ", sentence, width)
    return "\n".join(lines)


def _broken(start: str, text: str, width: int | None) -> list[str]:
    if width is None or len(start) + len(text) <= width:
        return [start + text]
    return textwrap.wrap(
        text,
        width=max(width, len(start) + 20),
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )


def plan_row(plan: Plan) -> dict[str, Any]:
    """Return the plan as a JSON object; spreads and calls are objects of their own."""
    spreads = ("frames", "frames_taken", "video_tokens", "sequence")
    row = asdict(plan) | {name: getattr(plan, name)._asdict() for name in spreads}
    row["sound_tokens"] = plan.sound_tokens and plan.sound_tokens._asdict()
    for name in ("judge", "evaluation_judge"):
        calls: Calls | None = getattr(plan, name)
        row[name] = None if calls is None else calls._asdict()
    for group, group_row in zip(plan.frame_classes, row["frame_classes"], strict=True):
        group_row |= {"asked": group.asked._asdict(), "kept": group.kept._asdict()}
    return row


def _sound_rows(plan: Plan) -> list[tuple[str, str]]:
    if plan.sound_tokens is None:
        return []
    looked_at = sum(group.clips for group in plan.frame_classes)
    silent = f"{looked_at - plan.clips_with_sound} of {looked_at} clips looked at have no sound"
    return [("of them for sound", f"{plan.sound_tokens}; {silent}")]


def _rows(plan: Plan) -> list[tuple[str, str]]:
    share = plan.trainable / plan.parameters
    rows = [
        ("model", f"{plan.model} ({plan.family}), {plan.parameters / 1e6:,.1f} M parameters"),
        ("train on", f"{plan.questions:,} questions about {plan.clips:,} clips"),
        ("evaluate on", f"{plan.heldout_questions:,} questions about {plan.heldout_clips:,} clips"),
        ("frames per clip", _frames(plan)),
        *_class_rows(plan),
        ("video tokens per clip", str(plan.video_tokens)),
        *_sound_rows(plan),
        ("clips on disk", str(plan.kept)),
        ("sequence in tokens", f"{plan.sequence}; room for {plan.context:,}"),
        ("trainable", f"{plan.trainable / 1e6:,.2f} M parameters in LoRA, {share:.2%} of all"),
        (
            "pairs",
            f"at most {plan.pairs:,}" + (", given by data.pairs" if plan.pairs_given else ""),
        ),
        ("optimizer steps", _steps(plan)),
        *([] if plan.pairs_given else [("judge the candidates", _calls(plan.judge, plan.dollars))]),
        ("judge the evaluation", _calls(plan.evaluation_judge, plan.evaluation_dollars)),
    ]
    for stage, sizes in plan.memory.items():
        inner = ", ".join(
            f"{name} {memory_text(size)}" for name, size in sizes.items() if name != "total"
        )
        rows.append((f"memory to {stage}", f"about {memory_text(sizes['total'])}: {inner}"))
    rows += [(f"time: {time.stage}", _time(time)) for time in plan.times]
    return rows


def _class_rows(plan: Plan) -> list[tuple[str, str]]:
    """Return a row for each size of clips that loses frames, or one for all of several sizes."""
    rows = []
    for group in plan.frame_classes:
        if group.why or len(plan.frame_classes) > 1:
            lost = f" ({'; '.join(group.why)})" if group.why else ""
            text = f"{group.asked} asked for, {group.kept} kept{lost}"
            rows.append((f"  {group.width}x{group.height}", text))
    return rows


def _time(time: StageTime) -> str:
    if time.seconds is None:
        return f"not known: {time.note}"
    if time.basis == "measured":
        return f"about {seconds_text(time.seconds)} on {time.device}, measured: {time.note}"
    return f"about {seconds_text(time.seconds)} on {time.device}, an estimate"


def seconds_text(seconds: float) -> str:
    """Return a time in words, in the unit that it is read in."""
    if seconds < 1:
        return "1 s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"


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


def _calls(calls: Calls | None, dollars: float | None) -> str:
    if calls is None:
        return "unknown, see the problems"
    return (
        f"{calls.calls:,} calls, about {calls.tokens_in:,} tokens in (4 characters each), at most "
        f"{calls.tokens_out:,} out{'' if dollars is None else f', at most {dollars_text(dollars)}'}"
    )


def dollars_text(dollars: float) -> str:
    """Return US dollars in words."""
    return f"{dollars:,.2f} US dollars"


def memory_text(gib: float) -> str:
    """Return a size in GiB in words, in MiB where it is small."""
    return f"{gib:.1f} GiB" if gib >= 0.1 else f"{gib * 1024:.1f} MiB"
