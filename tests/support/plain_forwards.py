"""Log-probs of answers the slow way: one plain forward through pixels for each."""

from pathlib import Path

import torch

from dpo_video.core.records import History
from dpo_video.models.load import Policy
from dpo_video.models.prompts import prompt_text
from dpo_video.recipe import Recipe
from dpo_video.video.frames import video_metadata
from dpo_video.video.read import read_frames


def plain_answer_logp(
    policy: Policy,
    recipe: Recipe,
    video: Path,
    *,
    question: str,
    answer: str,
    is_cut: bool,
    history: History = None,
) -> float:
    """Return log p(answer | clip, earlier turns, question) in nats; a cut answer has no end of
    turn.
    """
    frames = read_frames(video, recipe.video, multiple_of=policy.family.frames_per_step)
    tokenizer = policy.processor.tokenizer
    answer += "" if is_cut else tokenizer.eos_token
    inputs = policy.processor(
        text=[prompt_text(policy.processor, question, history=history) + answer],
        videos=[frames.pixels],
        return_tensors="pt",
        videos_kwargs={"video_metadata": [video_metadata(frames)], "do_sample_frames": False},
    )
    count = len(tokenizer(answer, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        logps = policy.model(**inputs).logits[0, -count - 1 : -1].log_softmax(-1)
    return float(logps.gather(1, inputs["input_ids"][0, -count:, None]).sum())
