"""What `check` would say that a step of the engine takes above the loaded model, for a case of the
bench.
"""

from bench.case import ANSWER_TOKENS, QUESTION_TOKENS, Case, make_clip, make_policy
from dpo_video.models.activations import ForwardShape
from dpo_video.models.memory import GIB, PeakLoad, estimate_training
from dpo_video.models.prompts import encode_prompt
from dpo_video.recipe import LoraSettings, ModelSettings, TrainSettings

LOADED = ("weights", "adapter", "optimizer")
"""Parts that are there before the step, or that the bench leaves out."""


def predicted_peak(case: Case) -> float:
    """Return bytes above the loaded model at the peak of a step with the reference at hand: one
    tree.
    """
    policy = make_policy(case)
    clip = make_clip(policy, case)
    stem = len(encode_prompt(policy, "", clip).input_ids)
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
    patches = clip.pixels["pixel_values_videos"].shape[0]
    load = PeakLoad(sequences=1, prompt_tokens=stem, answer_tokens=ANSWER_TOKENS, patches=patches)
    train = TrainSettings(
        lora=LoraSettings(rank=16, alpha=32), gradient_checkpointing=case.checkpointing
    )
    model = ModelSettings(
        name="random", device=case.device, dtype="float32" if on_cpu else "bfloat16"
    )
    parts = estimate_training(policy.spec, model, train, load, shape=shape)
    return (parts["total"] - sum(parts[name] for name in LOADED)) * GIB
