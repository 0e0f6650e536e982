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
    tell_notes,
)
from dpo_video.models.clip_source import open_source
from dpo_video.models.collate import TokenRow
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.prompts import encode_prompt
from dpo_video.models.sampling import generate_answers
from dpo_video.models.tokens import pixel_kwargs
from dpo_video.run import Run

SCAN_COUNTS = ("frames_looked_at", "frames_kept")
"""Counts of the policies that choose frames by what is in them."""
RowCandidate = tuple[TokenRow, PendingCandidate]
"""A candidate with the prompt and clip that it answers."""


def answer_here(
    run: Run, job: GenerationJob, missing: Mapping[str, Sequence[PendingCandidate]]
) -> Counter[str]:
    """Store the missing candidates; return counts, among them the samples that do not fit the
    model's context.
    """
    policy = (
        job.load()
        if job.load is not None
        else load_policy(job.model or run.recipe.model, adapter=job.adapter)
    )
    video, batch_size = run.recipe.video, run.recipe.generate.batch_size
    pixel_kwargs(policy.family, policy.frame_processor, video, num_frames=1)  # fail first
    max_prompt = policy.family.context_length(policy.bare.config) - job.sampler.max_new_tokens
    counts: Counter[str] = Counter()
    queue: list[RowCandidate] = []
    requests = clip_requests(run, job, missing)
    total = sum(len(missing[request.key]) for request in requests)
    with open_source(policy, run.recipe) as source, progress(job.title, total=total) as advance:
        for request, ready in source.map(requests):
            pending = missing[request.key]
            if isinstance(ready, UserError):
                run.set_aside(request.key, ready, request)
                advance(len(pending), bad_clips=len(run.bad_clips))
                continue
            lost = ready.frames_dropped
            counts.update({"clips_over_max_tokens": 1, "frames_dropped": lost} if lost else {})
            prompts = {
                question: encode_prompt(policy, question, ready.inputs)
                for question in {policy_prompt(job, candidate.sample) for candidate in pending}
            }
            fitting, over = [], set()
            for candidate in pending:
                if len(prompts[policy_prompt(job, candidate.sample)].input_ids) <= max_prompt:
                    fitting.append(candidate)
                else:
                    over.add(candidate.sample.id)
            if over:
                counts[OVER_CONTEXT] += len(over)
                advance(len(pending) - len(fitting))
            if not fitting:
                continue
            clip = source.encode(ready)
            rows = {
                question: TokenRow(prompt=prompt, clip=clip.inputs, features=clip.features)
                for question, prompt in prompts.items()
            }
            queue += [
                (rows[policy_prompt(job, candidate.sample)], candidate) for candidate in fitting
            ]
            while len(queue) >= batch_size:
                advance(_write(run, job, policy, queue[:batch_size]))
                queue = queue[batch_size:]
        if queue:
            advance(_write(run, job, policy, queue))
        counts.update({name: source.counts[name] for name in SCAN_COUNTS if source.counts[name]})
        counts.update(tell_notes(job, source.notes))
    return counts


def _write(run: Run, job: GenerationJob, policy: Policy, batch: Sequence[RowCandidate]) -> int:
    """Write and store one batch of answers; return how many."""
    groups: dict[int, tuple[TokenRow, list[PendingCandidate]]] = {}
    for row, candidate in batch:
        groups.setdefault(id(row), (row, []))[1].append(candidate)
    rows, seeds = [], []
    for row, candidates in groups.values():
        rows.append(row)
        seeds.append([candidate.seed for candidate in candidates])
    try:
        answers = generate_answers(policy, rows, seeds=seeds, sampler=job.sampler)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of GPU memory with {len(batch)} answers at a time: lower generate.batch_size, "
            "video.num_frames or video.max_pixels, or set model.quantize=nf4. Answers so far are "
            "stored"
        ) from error
    for (_, candidates), row_answers in zip(groups.values(), answers, strict=True):
        for candidate, answer in zip(candidates, row_answers, strict=True):
            run.store.put(
                "candidate",
                candidate.key,
                {"text": answer.text, "finish": answer.finish, "sample": candidate.sample.id},
            )
    run.store.flush()
    return len(batch)
