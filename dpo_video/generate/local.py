"""Candidates from a policy that is loaded here: each clip decoded once and encoded once."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from dpo_video.core.errors import UserError
from dpo_video.core.progress import progress
from dpo_video.generate.jobs import (
    OVER_CONTEXT,
    GenerationJob,
    PendingCandidate,
    clip_requests,
    policy_prompt,
)
from dpo_video.models.clip_source import open_source
from dpo_video.models.collate import TokenRow
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.prompts import encode_prompt
from dpo_video.models.sampling import generate_answers
from dpo_video.models.tokens import pixel_kwargs
from dpo_video.run import Run

LOOKED = ("frames_looked_at", "frames_kept")
"""Counts of the policies that choose frames by what is in them."""


def answer_here(
    run: Run, work: GenerationJob, missing: Mapping[str, Sequence[PendingCandidate]]
) -> Counter[str]:
    """Store the missing candidates; return counts, among them the samples that do not fit the
    model's context.
    """
    policy = (
        work.load()
        if work.load is not None
        else load_policy(work.model or run.recipe.model, adapter=work.adapter)
    )
    video, most = run.recipe.video, run.recipe.generate.batch_size
    pixel_kwargs(policy.family, policy.frame_processor, video, num_frames=1)  # fail first
    room = policy.family.context_length(policy.bare.config) - work.sampler.max_new_tokens
    counts: Counter[str] = Counter()
    waiting: list[tuple[TokenRow, PendingCandidate]] = []
    requests = clip_requests(run, work, missing)
    total = sum(len(missing[request.key]) for request in requests)
    with open_source(policy, run.recipe) as source, progress(work.title, total=total) as advance:
        for request, ready in source.map(requests):
            asked = missing[request.key]
            if isinstance(ready, UserError):
                run.set_aside(request.key, ready)
                advance(len(asked), bad_clips=len(run.bad_clips))
                continue
            lost = ready.frames_dropped
            counts.update({"clips_over_max_tokens": 1, "frames_dropped": lost} if lost else {})
            prompts = {
                question: encode_prompt(policy, question, ready.inputs)
                for question in {policy_prompt(work, one.sample) for one in asked}
            }
            fitting = [
                one
                for one in asked
                if len(prompts[policy_prompt(work, one.sample)].input_ids) <= room
            ]
            if len(fitting) < len(asked):
                counts[OVER_CONTEXT] += len(
                    {one.sample.id for one in asked} - {one.sample.id for one in fitting}
                )
                advance(len(asked) - len(fitting))
            if not fitting:
                continue
            clip = source.encode(ready)
            rows = {
                question: TokenRow(prompt=prompt, clip=clip.inputs, features=clip.features)
                for question, prompt in prompts.items()
            }
            waiting += [(rows[policy_prompt(work, one.sample)], one) for one in fitting]
            while len(waiting) >= most:
                advance(_write(run, work, policy, waiting[:most]))
                waiting = waiting[most:]
        if waiting:
            advance(_write(run, work, policy, waiting))
        counts.update({name: source.counts[name] for name in LOOKED if source.counts[name]})
    return counts


def _write(
    run: Run,
    work: GenerationJob,
    policy: Policy,
    batch: Sequence[tuple[TokenRow, PendingCandidate]],
) -> int:
    """Write and store one batch of answers; return how many."""
    groups: dict[int, tuple[TokenRow, list[PendingCandidate]]] = {}
    for row, one in batch:
        groups.setdefault(id(row), (row, []))[1].append(one)
    rows = [row for row, _ in groups.values()]
    seeds = [[one.seed for one in asked] for _, asked in groups.values()]
    try:
        answers = generate_answers(policy, rows, seeds=seeds, sampler=work.sampler)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of GPU memory with {len(batch)} answers at a time: lower generate.batch_size, "
            "video.num_frames or video.max_pixels, or set model.quantize=nf4. Answers so far are "
            "stored"
        ) from error
    for (_, asked), made in zip(groups.values(), answers, strict=True):
        for one, answer in zip(asked, made, strict=True):
            run.store.put(
                "candidate",
                one.key,
                {"text": answer.text, "finish": answer.finish, "sample": one.sample.id},
            )
    run.store.flush()
    return len(batch)
