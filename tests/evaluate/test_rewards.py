"""Rewards of held-out answers against whole forwards on the processor's own inputs."""

from pathlib import Path

import pytest
import torch
from evaluation_runs import HELDOUT, candidate_of, opened

from dpo_video.core.records import Sample
from dpo_video.models.load import load_policy
from dpo_video.models.prompts import prompt_text
from dpo_video.train.rewards import candidate_rewards
from dpo_video.video import video_metadata
from dpo_video.video.read import read_frames


def test_rewards_of_answers_are_those_of_whole_forwards_on_the_processors_own_inputs(
    world: Path, tmp_path: Path
) -> None:
    """log p(answer | clip, question) from one plain forward per text, with pixels and no shared
    features.
    """
    texts = ("a man runs to the left", "pasta")
    answers = [
        (sample, candidate_of(sample, number, text))
        for sample in (HELDOUT[0], HELDOUT[2])
        for number, text in enumerate(texts)
    ]
    with opened(world, tmp_path, HELDOUT) as run:
        adapter = run.folder / "adapter"
        policy = load_policy(run.recipe.model, adapter=adapter)
        rewards = candidate_rewards(
            run, policy, answers, root=run.heldout_root, adapter=adapter, title="rewards"
        )
        video = run.recipe.video

    def logp(sample: Sample, answer: str) -> float:
        frames = read_frames(world / str(sample.video), video, multiple_of=2)
        prompt = prompt_text(policy.processor, sample.prompt)
        inputs = policy.processor(
            text=[prompt + answer + "<|im_end|>"],
            videos=[frames.pixels],
            return_tensors="pt",
            videos_kwargs={"video_metadata": [video_metadata(frames)], "do_sample_frames": False},
        )
        size = len(
            policy.processor.tokenizer(answer + "<|im_end|>", add_special_tokens=False)["input_ids"]
        )
        with torch.no_grad():
            logits = policy.model(**inputs).logits[0, :-1].log_softmax(-1)
        chosen = logits.gather(1, inputs["input_ids"][0, 1:, None])[:, 0]
        return float(chosen[-size:].sum())

    for sample, candidate in answers:
        tuned = logp(sample, candidate.text)
        with policy.model.disable_adapter():
            base = logp(sample, candidate.text)
        assert rewards[candidate.id] == pytest.approx(0.1 * (tuned - base), abs=1e-4)
    for sample in (HELDOUT[0], HELDOUT[2]):
        assert abs(rewards[f"{sample.id}#0"] - rewards[f"{sample.id}#1"]) > 1e-3
