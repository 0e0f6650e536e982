"""What `check` would say that a case of the bench takes, and the largest clip that it would let
through.
"""

from bench.case import ANSWER_TOKENS, QUESTION_TOKENS, Case
from dpo_video.models.activations import ForwardShape
from dpo_video.models.hub import ModelSpec
from dpo_video.models.memory import GIB, PeakLoad, estimate_generation, estimate_training
from dpo_video.recipe import LoraSettings, ModelSettings, TrainSettings

LOADED = ("weights", "adapter", "optimizer")
"""Parts that are there before the step, or that the bench leaves out."""
PATCHES = 4
"""Of the tower in one video token."""
STEM = 12
"""Tokens of the chat template around a clip."""
FREE = 0.9
"""Share of a GPU that the count may fill: context and fragments are not counted."""
LARGEST = 1 << 16
"""Video tokens up to which the largest clip is looked for."""


def predicted_peak(case: Case, spec: ModelSpec) -> float:
    """Return bytes above the loaded model at the peak of a step with the reference at hand: one
    tree.
    """
    parts = _training(case, spec)
    return (parts["total"] - sum(parts[name] for name in LOADED)) * GIB


def predicted_generation(case: Case, spec: ModelSpec, *, new_tokens: int) -> float:
    """Return bytes above the loaded model at the peak of writing all answers about the clip."""
    load = PeakLoad(
        sequences=case.questions * case.answers,
        prompt_tokens=case.video_tokens + STEM + QUESTION_TOKENS,
        answer_tokens=new_tokens,
        patches=PATCHES * case.video_tokens,
    )
    parts = estimate_generation(
        spec, _model(case), load, answers_per_clip=case.questions * case.answers
    )
    return (parts["total"] - parts["weights"]) * GIB


def largest_clip(case: Case, spec: ModelSpec, *, gib: float) -> int:
    """Return the most video tokens, by 256, at which `check` sees a pair about a clip train in so
    much memory; LARGEST at most.
    """
    low, high = 0, LARGEST // 256
    while low < high:
        middle = (low + high + 1) // 2
        tried = Case(
            video_tokens=256 * middle,
            questions=1,
            answers=2,
            size=case.size,
            device=case.device,
            checkpointing=case.checkpointing,
            quantize=case.quantize,
        )
        if predicted_total(tried, spec) <= FREE * gib:
            low = middle
        else:
            high = middle - 1
    return 256 * low


def predicted_total(case: Case, spec: ModelSpec) -> float:
    """Return GiB at the peak of a training step, weights and optimizer included."""
    return _training(case, spec)["total"]


def _training(case: Case, spec: ModelSpec) -> dict[str, float]:
    stem = case.video_tokens + STEM
    on_cpu = case.device == "cpu"
    question = QUESTION_TOKENS + 2
    lower = case.questions * (question + case.answers * ANSWER_TOKENS)
    if case.questions == 1:  # the only question belongs to the prefix
        stem, lower = stem + question, case.answers * ANSWER_TOKENS
    scored = case.questions * case.answers * ANSWER_TOKENS
    paths = case.questions * (stem + question) + case.questions * case.answers * (
        stem + question + ANSWER_TOKENS
    )
    shape = ForwardShape(
        tokens=stem + lower,
        scored=scored,
        masks=lower * (stem + lower) if on_cpu else 0,
        copied=0 if on_cpu else paths,
    )
    load = PeakLoad(
        sequences=1,
        prompt_tokens=stem,
        answer_tokens=ANSWER_TOKENS,
        patches=PATCHES * case.video_tokens,
    )
    train = TrainSettings(
        lora=LoraSettings(rank=16, alpha=32), gradient_checkpointing=case.checkpointing
    )
    return estimate_training(spec, _model(case), train, load, shape=shape)


def _model(case: Case) -> ModelSettings:
    return ModelSettings(
        name="random",
        device=case.device,
        dtype="float32" if case.device == "cpu" else "bfloat16",
        quantize=case.quantize,
    )
