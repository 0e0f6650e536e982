"""Candidates from a policy that is loaded here: each clip decoded once, and encoded once as it is
shown.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from dpo_video.core.errors import UserError
from dpo_video.core.progress import progress
from dpo_video.core.records import History
from dpo_video.generate.jobs import (
    OVER_CONTEXT,
    READ,
    GenerationJob,
    MissingCandidates,
    PendingCandidate,
    candidate_clip_requests,
    policy_prompt,
    set_clip_aside,
    tell_notes,
    title_of,
)
from dpo_video.models.answer_requests import AnswerRequest
from dpo_video.models.clip_source import open_source
from dpo_video.models.collate import TokenRow
from dpo_video.models.encoded_clip import EncodedClip
from dpo_video.models.generation import answer_requests
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.memory import answers_at_once
from dpo_video.models.prompts import ClipInputs, Prompt, answer_ids, encode_prompt
from dpo_video.models.sampling import Sampler
from dpo_video.models.shared_prefix.packed_rows import why_answered_alone
from dpo_video.models.tokens import pixel_kwargs
from dpo_video.models.usage import PromptUsage
from dpo_video.run import Run

SOURCE_COUNTS = (
    "frames_looked_at",
    "frames_kept",
    "clips_with_sound",
    "clips_without_sound",
)
"""Counts of the clip source that a stage tells: of policies that choose frames by what is in them,
and of models that hear.
"""
RowCandidate = tuple[TokenRow, PendingCandidate]
"""A candidate with the prompt and clip that it answers."""


class Written(NamedTuple):
    """What was done about missing candidates."""

    counts: Counter[str]
    over_context: Counter[str]
    """Candidates that do not fit the model's context, by sample."""

    def all_counts(self) -> Counter[str]:
        """Return the counts with the samples that do not fit, where there are any."""
        count = {OVER_CONTEXT: len(self.over_context)} if self.over_context else {}
        return Counter({**self.counts, **count})


def answer_here(
    run: Run, jobs: Sequence[GenerationJob], missing: MissingCandidates
) -> Counter[str]:
    """Store the missing candidates of jobs that share a policy; return counts, among them the
    samples that do not fit the model's context.
    """
    return write_missing(run, jobs, missing).all_counts()


def write_missing(run: Run, jobs: Sequence[GenerationJob], missing: MissingCandidates) -> Written:
    """Store the missing candidates of jobs that share a policy.

    Answers about a clip are written together, so that its prompts are read once for all samplers,
    and those about several clips are, up to `generate.batch_size`.
    """
    policy = _load(run, jobs[0])
    # fail first
    pixel_kwargs(policy.family, policy.frame_processor, run.recipe.video, num_frames=1)
    counts: Counter[str] = Counter()
    over_context: Counter[str] = Counter()
    writer = _Writer(run, jobs, policy)
    requests = candidate_clip_requests(run, jobs[0].root, missing)
    title, total = title_of(jobs), sum(len(missing[request.key]) for request in requests)
    with open_source(policy, run.recipe) as source, progress(title, total=total) as advance:
        for request, ready in source.map(requests):
            pending = missing[request.key]
            if isinstance(ready, UserError):
                counts += set_clip_aside(run, pending, ready, request)
                advance(len(pending), **counts_set_aside(run, over_context))
                continue
            lost = ready.frames_dropped
            counts.update({"clips_over_max_tokens": 1, "frames_dropped": lost} if lost else {})
            fitting, over = _encode_prompts(policy, jobs, pending, ready.inputs)
            over_context += over
            advance(over.total(), **counts_set_aside(run, over_context))
            if fitting:
                advance(writer.add(_rows(fitting, source.encode(ready))))
        advance(writer.finish())
        counts.update({name: source.counts[name] for name in SOURCE_COUNTS if source.counts[name]})
        counts.update(tell_notes(title, source.notes))
    counts.update(writer.counts())
    return Written(counts, over_context)


def counts_set_aside(run: Run, over_context: Mapping[str, int]) -> dict[str, Any]:
    """Return what stands behind the bar: how much cannot be answered, where it is any."""
    counts = {"bad_clips": len(run.bad_clips), "samples_over_context": len(over_context)}
    return {name: count for name, count in counts.items() if count}


class _Writer:
    """Writes answers in batches of whole clips and stores them.

    All answers about a clip are written together, so that its prompts are read once; a language
    model whose prefixes cannot be shared writes those of a sampler together, which have one length.
    """

    def __init__(self, run: Run, jobs: Sequence[GenerationJob], policy: Policy) -> None:
        self.run, self.jobs, self.policy = run, jobs, policy
        self.usage = PromptUsage()
        self.shared = why_answered_alone(policy) is None
        self.waiting: dict[Sampler | None, list[RowCandidate]] = defaultdict(list)
        self.at_once = {
            kind: _at_once(run, own, policy, shared=self.shared)
            for kind, own in self._by_kind().items()
        }

    def _by_kind(self) -> dict[Sampler | None, list[GenerationJob]]:
        """Return the jobs whose answers may be written together."""
        kinds: dict[Sampler | None, list[GenerationJob]] = defaultdict(list)
        for job in self.jobs:
            kinds[None if self.shared else job.sampler].append(job)
        return kinds

    def add(self, answers: Sequence[RowCandidate]) -> int:
        """Take the answers to be given about a clip; return how many were given."""
        choosing = [answer for answer in answers if answer[1].choices]
        num_written = _choose(self.run, self.jobs, self.policy, choosing) if choosing else 0
        by_kind: dict[Sampler | None, list[RowCandidate]] = defaultdict(list)
        for row, candidate in answers:
            if not candidate.choices:
                sampler = self.jobs[candidate.job].sampler
                by_kind[None if self.shared else sampler].append((row, candidate))
        for kind, of_kind in by_kind.items():
            num_waiting = len(self.waiting[kind])
            if num_waiting and num_waiting + len(of_kind) > self.at_once[kind]:
                num_written += self._write(kind)
            self.waiting[kind] += of_kind
        return num_written

    def finish(self) -> int:
        """Write what waits; return how many."""
        return sum(self._write(kind) for kind, waiting in self.waiting.items() if waiting)

    def counts(self) -> Counter[str]:
        """Return what reading the prompts took."""
        usage = self.usage
        numbers = usage.tokens_run, usage.tokens_alone, usage.peak_cache
        return Counter(dict(zip(READ, numbers, strict=True)))

    def _write(self, kind: Sampler | None) -> int:
        batch, self.waiting[kind] = self.waiting[kind], []
        _write_batch(self.run, self.jobs, self.policy, batch, self.at_once[kind], self.usage)
        return len(batch)


def _at_once(run: Run, jobs: Sequence[GenerationJob], policy: Policy, *, shared: bool) -> int:
    """Return how many answers of jobs are written at a time."""
    on_gpu = policy.device.type == "cuda"
    return answers_at_once(
        run.recipe.generate.batch_size,
        policy.spec,
        policy.settings,
        shared=shared,
        answer_tokens=max(job.sampler.max_new_tokens for job in jobs),
        free_bytes=torch.cuda.mem_get_info(policy.device)[0] if on_gpu else None,
    )


def _load(run: Run, job: GenerationJob) -> Policy:
    if job.load is not None:
        return job.load()
    return load_policy(job.model or run.recipe.model, adapter=job.adapter)


def _encode_prompts(
    policy: Policy,
    jobs: Sequence[GenerationJob],
    pending: Sequence[PendingCandidate],
    clip: ClipInputs,
) -> tuple[list[tuple[Prompt, PendingCandidate]], Counter[str]]:
    """Return the candidates that fit the context, each with its prompt, and how many do not, by
    sample; candidates with the same prompt share it.
    """
    context = policy.family.context_length(policy.bare.config)
    prompts: dict[tuple[str, History], Prompt] = {}
    fitting: list[tuple[Prompt, PendingCandidate]] = []
    over_context: Counter[str] = Counter()
    for candidate in pending:
        job = jobs[candidate.job]
        question, history = policy_prompt(job, candidate.sample), candidate.sample.history
        if (question, history) not in prompts:
            prompts[question, history] = encode_prompt(policy, question, clip, history=history)
        prompt = prompts[question, history]
        if len(prompt.input_ids) + job.sampler.max_new_tokens <= context:
            fitting.append((prompt, candidate))
        else:
            over_context[candidate.sample.id] += 1
    return fitting, over_context


def _rows(
    fitting: Sequence[tuple[Prompt, PendingCandidate]], clip: EncodedClip
) -> list[RowCandidate]:
    """Return each candidate with the row that its answer goes on from; those with one prompt share
    it.
    """
    rows: dict[int, TokenRow] = {}
    for prompt, _ in fitting:
        if id(prompt) not in rows:
            rows[id(prompt)] = TokenRow(prompt=prompt, clip=clip.inputs, features=clip.features)
    return [(rows[id(prompt)], candidate) for prompt, candidate in fitting]


def _choose(
    run: Run, jobs: Sequence[GenerationJob], policy: Policy, candidates: Sequence[RowCandidate]
) -> int:
    """Store the likeliest choice of each question about a clip, of equal ones the first; return how
    many questions.

    The log-prob is that of the choice's own tokens, without an end of turn: all choices of all
    questions go through the model together.
    """
    choose = jobs[candidates[0][1].job].choose
    assert choose is not None, "the job says how choices are weighed"
    choice_rows = [
        replace(row, answer=tuple(answer_ids(policy, choice, ended=False)))
        for row, candidate in candidates
        for choice in candidate.choices
    ]
    logps = iter(choose.logps(policy, choice_rows))
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


def _write_batch(
    run: Run,
    jobs: Sequence[GenerationJob],
    policy: Policy,
    batch: Sequence[RowCandidate],
    at_once: int,
    usage: PromptUsage,
) -> None:
    """Write a batch of answers and store them."""
    groups: dict[tuple[int, Sampler], tuple[TokenRow, list[PendingCandidate]]] = {}
    for row, candidate in batch:
        key = id(row), jobs[candidate.job].sampler
        groups.setdefault(key, (row, []))[1].append(candidate)
    requests = [
        AnswerRequest(row=row, sampler=sampler, seeds=[candidate.seed for candidate in candidates])
        for (_, sampler), (row, candidates) in groups.items()
    ]
    try:
        answers = answer_requests(policy, requests, at_once=at_once, usage=usage)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of GPU memory with {min(len(batch), at_once)} answers at a time: lower "
            "generate.batch_size, "
            "video.num_frames or video.max_pixels, or set model.quantize=nf4. Answers so far are "
            "stored"
        ) from error
    for (_, candidates), own_answers in zip(groups.values(), answers, strict=True):
        for candidate, answer in zip(candidates, own_answers, strict=True):
            run.store.put(
                "candidate",
                candidate.key,
                {"text": answer.text, "finish": answer.finish, "sample": candidate.sample.id},
            )
    run.store.flush()
