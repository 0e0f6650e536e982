"""Candidates from a policy that is loaded here: each clip decoded once and encoded once."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from dpo_video.core.errors import UserError
from dpo_video.core.progress import progress
from dpo_video.generate.jobs import (
    OVER_CONTEXT,
    PEAK_CACHE,
    GenerationJob,
    PendingCandidate,
    clip_requests,
    policy_prompt,
    tell_notes,
)
from dpo_video.models.clip_source import EncodedClip, ReadyClip, open_source
from dpo_video.models.collate import TokenRow
from dpo_video.models.generation import generate_answers
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.memory import answers_at_once
from dpo_video.models.prompts import Prompt, answer_ids, encode_prompt
from dpo_video.models.sampling import Sampler
from dpo_video.models.shared_prefix.packed_rows import why_not_shared
from dpo_video.models.tokens import pixel_kwargs
from dpo_video.models.usage import PromptUsage
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

    The answers about a clip are written together, so that its prompts are read once; those about
    several clips are, up to `generate.batch_size`.
    """
    policy = (
        job.load()
        if job.load is not None
        else load_policy(job.model or run.recipe.model, adapter=job.adapter)
    )
    pixel_kwargs(
        policy.family, policy.frame_processor, run.recipe.video, num_frames=1
    )  # fail first
    longest = max(
        candidate.sampler.max_new_tokens for pending in missing.values() for candidate in pending
    )
    at_once = _at_once(run, policy, answer_tokens=longest)
    counts: Counter[str] = Counter()
    batch: list[RowCandidate] = []
    usage = PromptUsage()
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
            prompts = _fitting_prompts(policy, job, ready, pending, counts)
            answers = _rows(job, prompts, pending, source.encode(ready)) if prompts else []
            advance(len(pending) - len(answers))
            choosing = [answer for answer in answers if answer[1].choices]
            if choosing:
                advance(_choose(run, job, policy, choosing))
                answers = [answer for answer in answers if not answer[1].choices]
            if batch and len(batch) + len(answers) > at_once:
                advance(_write(run, policy, batch, at_once, usage))
                batch = []
            batch += answers
        if batch:
            advance(_write(run, policy, batch, at_once, usage))
        counts.update({name: source.counts[name] for name in SCAN_COUNTS if source.counts[name]})
        counts.update(tell_notes(job, source.notes))
    counts.update(
        {
            "prompt_tokens": usage.tokens_run,
            "prompt_tokens_unshared": usage.tokens_alone,
            PEAK_CACHE: usage.peak_cache,
        }
    )
    return counts


def _at_once(run: Run, policy: Policy, *, answer_tokens: int) -> int:
    """Return how many answers are written at a time."""
    on_gpu = policy.device.type == "cuda"
    return answers_at_once(
        run.recipe.generate.batch_size,
        policy.spec,
        policy.settings,
        shared=why_not_shared(policy) is None,
        answer_tokens=answer_tokens,
        free_bytes=torch.cuda.mem_get_info(policy.device)[0] if on_gpu else None,
    )


def _fitting_prompts(
    policy: Policy,
    job: GenerationJob,
    clip: ReadyClip,
    pending: Sequence[PendingCandidate],
    counts: Counter[str],
) -> dict[str, Prompt]:
    """Return the prompts about a clip by what is asked; those that are too long for the model are
    left out, and their samples counted.
    """
    context = policy.family.context_length(policy.bare.config)
    prompts: dict[str, Prompt] = {}
    too_long: set[str] = set()
    over: set[str] = set()
    for candidate in pending:
        question = policy_prompt(job, candidate.sample)
        if question not in prompts:
            prompts[question] = encode_prompt(policy, question, clip.inputs)
        if len(prompts[question].input_ids) + candidate.sampler.max_new_tokens > context:
            too_long.add(question)
            over.add(candidate.sample.id)
    if over:
        counts[OVER_CONTEXT] += len(over)
    return {question: prompt for question, prompt in prompts.items() if question not in too_long}


def _rows(
    job: GenerationJob,
    prompts: Mapping[str, Prompt],
    pending: Sequence[PendingCandidate],
    clip: EncodedClip,
) -> list[RowCandidate]:
    """Return each candidate whose prompt fits, with the row that its answer goes on from."""
    rows = {
        question: TokenRow(prompt=prompt, clip=clip.inputs, features=clip.features)
        for question, prompt in prompts.items()
    }
    answers: list[RowCandidate] = []
    for candidate in pending:
        row = rows.get(policy_prompt(job, candidate.sample))
        if row is not None:
            answers.append((row, candidate))
    return answers


def _choose(
    run: Run, job: GenerationJob, policy: Policy, candidates: Sequence[RowCandidate]
) -> int:
    """Store the likeliest choice of each question about a clip, of equal ones the first; return how
    many questions.

    The log-prob is that of the choice's own tokens, without an end of turn: all choices of all
    questions go through the model together.
    """
    assert job.choose is not None, "the job says how choices are weighed"
    choice_rows = [
        replace(row, answer=tuple(answer_ids(policy, choice, ended=False)))
        for row, candidate in candidates
        for choice in candidate.choices
    ]
    logps = iter(job.choose.logps(policy, choice_rows))
    for _, candidate in candidates:
        choice_logps = dict(zip(candidate.choices, logps, strict=False))
        stored = {
            "text": max(choice_logps, key=lambda choice: choice_logps[choice]),
            "finish": "stop",
            "sample": candidate.sample.id,
            "choice_logps": choice_logps,
        }
        run.store.put("candidate", candidate.key, stored)
    run.store.flush()
    return len(candidates)


def _write(
    run: Run, policy: Policy, batch: Sequence[RowCandidate], at_once: int, usage: PromptUsage
) -> int:
    """Write and store answers to the questions of whole clips, those of a sampler together; return
    how many.
    """
    by_sampler: dict[Sampler, list[RowCandidate]] = defaultdict(list)
    for row, candidate in batch:
        by_sampler[candidate.sampler].append((row, candidate))
    for sampler, answers in by_sampler.items():
        _write_by(sampler, run, policy, answers, at_once, usage)
    return len(batch)


def _write_by(
    sampler: Sampler,
    run: Run,
    policy: Policy,
    batch: Sequence[RowCandidate],
    at_once: int,
    usage: PromptUsage,
) -> None:
    groups: dict[int, tuple[TokenRow, list[PendingCandidate]]] = {}
    for row, candidate in batch:
        groups.setdefault(id(row), (row, []))[1].append(candidate)
    rows, seeds = [], []
    for row, candidates in groups.values():
        rows.append(row)
        seeds.append([candidate.seed for candidate in candidates])
    try:
        answers = generate_answers(
            policy,
            rows,
            seeds=seeds,
            sampler=sampler,
            at_once=at_once,
            usage=usage,
        )
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of GPU memory with {min(len(batch), at_once)} answers at a time: lower "
            "generate.batch_size, "
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
