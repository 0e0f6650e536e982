"""Stage generate: N sampled answers of the policy to each sample; resumable, no answer paid for
twice.

`make_candidates` serves evaluation too: other samples, another sampler, an adapter on top.
"""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.names import choose
from dpo_video.core.progress import log
from dpo_video.core.records import Candidate, Sample
from dpo_video.generate.jobs import (
    OVER_CONTEXT,
    GenerationJob,
    GenerationResult,
    PendingCandidate,
    add_counts,
    policy_prompt,
    served_name,
)
from dpo_video.models.hub import load_config, revision_of
from dpo_video.models.load import choose_dtype
from dpo_video.models.sampling import Sampler, candidate_seed
from dpo_video.recipe import GenerateSettings, SamplerSettings
from dpo_video.recipe.affects import Affects, settings_that_affect
from dpo_video.run import Run, StageResult
from dpo_video.store import content_hash, row_key
from dpo_video.video import VideoError, clip_key, clip_request
from dpo_video.video.cache import clip_identity


def generate(run: Run) -> StageResult:
    """Write candidates.jsonl; counts of samples, candidates, those reused, cut answers and bad
    clips; incomplete where a server failed to answer, or a clip may be read at the next try.
    """
    results = [make_candidates(run, job) for job in _jobs(run)]
    positions = {sample.id: position for position, sample in enumerate(run.samples)}
    candidates = list(chain.from_iterable(result.candidates for result in results))
    candidates.sort(key=lambda candidate: positions[candidate.sample_id])
    counts = _total(run, results, candidates)
    if not candidates:
        raise UserError(
            f"no candidates: none of the {len(run.samples)} samples got an answer ({counts})"
        )
    write_jsonl(run.folder / "candidates.jsonl", candidates)
    failed = counts.get("failed")
    reasons = (
        f"the server failed to write {failed} candidates" if failed else "",
        run.unread(dict.fromkeys(map(clip_key, run.samples))),
    )
    return StageResult(counts=counts, incomplete_because="; ".join(filter(None, reasons)))


def training_sampler(settings: GenerateSettings, *, over: SamplerSettings | None = None) -> Sampler:
    """Return the sampler of the `generate` section, with the settings of a mix's sampler on top."""
    names = set(Sampler.__dataclass_fields__)
    overrides = {} if over is None else over.model_dump(include=names, exclude_none=True)
    return Sampler(**{**{name: getattr(settings, name) for name in names}, **overrides})


def _jobs(run: Run) -> list[GenerationJob]:
    """Return one job for each sampler of the mix, or the one there is without a mix."""
    settings = run.recipe.generate
    plain = GenerationJob(
        samples=run.samples,
        root=run.video_root,
        engine=settings.engine,
        num_candidates=settings.num_candidates,
        sampler=training_sampler(settings),
        adapter=None if settings.engine == "openai" else run.recipe.start_adapter,
    )
    jobs: list[GenerationJob] = []
    for sampler in settings.mix:
        adapter = None if sampler.model is not None else plain.adapter
        if sampler.adapter is not None:
            adapter = Path(sampler.adapter).expanduser()
        jobs.append(
            replace(
                plain,
                num_candidates=sampler.num_candidates,
                sampler=training_sampler(settings, over=sampler),
                model=sampler.model,
                adapter=adapter,
                instruction=sampler.instruction,
                sampler_name=sampler.name,
                title=f"generate ({sampler.name})",
                first_number=sum(job.num_candidates for job in jobs),
            )
        )
    return jobs or [plain]


def _total(
    run: Run, results: Sequence[GenerationResult], candidates: Sequence[Candidate]
) -> dict[str, Any]:
    """Return the counts of all samplers together, and, of a mix, how many candidates each of them
    made.
    """
    totals: Counter[str] = Counter()
    for result in results:
        add_counts(totals, result.counts)
    answered = len({candidate.sample_id for candidate in candidates})
    counts: dict[str, Any] = {
        **totals,
        "samples": len(run.samples),
        "samples_without": len(run.samples) - answered,
        "bad_clips": len(run.bad_clips),
    }
    if run.recipe.generate.mix:
        counts["samplers"] = dict(Counter(candidate.sampler for candidate in candidates))
    return counts


def make_candidates(run: Run, job: GenerationJob) -> GenerationResult:
    """Return the candidates of all samples: stored ones, and new ones for what is missing.

    A clip that cannot be read is set aside with its samples; a later run tries it again. A sample
    whose prompt and longest answer do not fit the model's context is set aside too; UserError where
    that leaves no candidate.
    """
    return make_candidates_together(run, [job])[0]


def make_candidates_together(run: Run, jobs: Sequence[GenerationJob]) -> list[GenerationResult]:
    """Return the candidates of several jobs, as `make_candidates` does of one: a clip is decoded
    and encoded once for all of them.

    The jobs may differ in samples, sampler and choices; model, adapter, engine, instruction, root
    and title are those of the first.
    """
    first = jobs[0]
    plans = [plan_candidates(run, job) for job in jobs]
    reused = run.store.get("candidate", [row.key for row in chain.from_iterable(plans)])
    missing: dict[str, list[PendingCandidate]] = {}
    for job, planned in zip(jobs, plans, strict=True):
        missing_of_job = [candidate for candidate in planned if candidate.key not in reused]
        if missing_of_job:
            _tell_earlier_rule(run, job, missing_of_job)
        for candidate in missing_of_job:
            missing.setdefault(clip_key(candidate.sample), []).append(candidate)
    engine_counts: Counter[str] = Counter()
    if missing:
        choosing = next((job.choose for job in jobs if job.choose is not None), None)
        engine = choose(ENGINES, first.engine, "generate engine")
        engine_counts = engine(run, replace(first, choose=choosing), missing)
        run.store.flush()
    results = [
        _stored_result(run, job, planned, reused.keys())
        for job, planned in zip(jobs, plans, strict=True)
    ]
    num_samples = sum(len(job.samples) for job in jobs)
    is_answered = any(result.candidates for result in results)
    _tell_over_context(
        run, first, engine_counts[OVER_CONTEXT], num_samples=num_samples, is_answered=is_answered
    )
    results[0].counts.update(engine_counts)
    return results


def _stored_result(
    run: Run, job: GenerationJob, planned: Sequence[PendingCandidate], reused: Container[str]
) -> GenerationResult:
    """Return the candidates of a job that are stored, in the order of its samples, and counts."""
    rows = run.store.get("candidate", [candidate.key for candidate in planned])
    candidates = [
        _candidate(run, job, candidate, rows[candidate.key])
        for candidate in planned
        if candidate.key in rows
    ]
    unanswered = len(job.samples) - len({candidate.sample_id for candidate in candidates})
    return GenerationResult(
        candidates,
        {
            "samples": len(job.samples),
            "candidates": len(candidates),
            "reused": sum(candidate.key in reused for candidate in planned),
            "cut": sum(candidate.finish == "length" for candidate in candidates),
            "samples_without": unanswered,
            "bad_clips": len(run.bad_clips),
        },
    )


def _tell_earlier_rule(run: Run, job: GenerationJob, missing: Sequence[PendingCandidate]) -> None:
    """Say how many stored candidates are made anew because clips are now known by content."""
    if not any(True for _ in run.store.rows("candidate")):
        return
    identifiers = {(candidate.sample.id, candidate.number) for candidate in missing}
    stored = run.store.get(
        "candidate",
        [
            earlier.key
            for earlier in plan_candidates(run, job, by_content=False)
            if (earlier.sample.id, earlier.number) in identifiers
        ],
    )
    if stored:
        log.info(
            f"candidates: {len(stored)} stored under the rule of an earlier version are made anew: "
            "their clips are now known by content"
        )


def _tell_over_context(
    run: Run, job: GenerationJob, samples: int, *, num_samples: int, is_answered: bool
) -> None:
    if not samples:
        return
    config, family = load_config(job.model or run.recipe.model)
    message = (
        f"{samples} of {num_samples} samples: the tokens of the clip and the question, and "
        f"{job.sampler.max_new_tokens} for the answer (max_new_tokens), are more than the "
        f"{family.context_length(config):,} of the model's context. Lower video.num_frames, "
        "video.max_pixels or max_new_tokens, or set video.policy=fit; `dpo-video check RECIPE` "
        "shows "
        "how many they are"
    )
    if not is_answered:
        raise UserError(f"{job.title}: no answer can be written to {message}")
    log.info(f"{job.title}: set aside {message}")


def plan_candidates(
    run: Run, job: GenerationJob, *, by_content: bool = True
) -> list[PendingCandidate]:
    """Return every candidate of every sample, under a key of all that determines its text.

    Without `by_content` under the key of version 0.1, for which a file of the same name, size and
    time of change was the same clip.
    """
    frames = settings_that_affect(run.recipe.video, Affects.PIXELS | Affects.SIZE)
    common = {"model": _identity(run, job), "frames": frames, "sampler": asdict(job.sampler)}
    clips: dict[str, dict[str, Any] | None] = {}
    planned = []
    for sample in job.samples:
        name = clip_key(sample)
        if name not in clips:
            clips[name] = _clip_identity(sample, job.root, by_content=by_content)
        clip = clips[name]
        prompt = policy_prompt(job, sample)
        choices = () if job.choose is None else job.choose.choices(sample)
        how = {**common, "sampler": {"choices": choices}} if choices else common
        for number in range(job.first_number, job.first_number + job.num_candidates):
            seed = candidate_seed(run.recipe.seed, sample.id, number)
            key = row_key(**how, clip=clip, prompt=prompt, seed=seed)
            planned.append(
                PendingCandidate(
                    sample=sample,
                    number=number,
                    seed=seed,
                    key=key,
                    sampler=job.sampler,
                    choices=choices,
                )
            )
    return planned


def _clip_identity(sample: Sample, root: Path, *, by_content: bool) -> dict[str, Any] | None:
    """Return what tells a sample's clip from all others; None where there is none to read."""
    try:
        identity = clip_identity(clip_request(sample, root))
    except VideoError:  # the engine tells the reason
        return None
    if identity is not None and not by_content:
        del identity["ends"]
    return identity


def _identity(run: Run, job: GenerationJob) -> dict[str, Any]:
    """Return what identifies the model that answers: a server's by name, not address; ours by its
    weights.
    """
    settings, server = job.model or run.recipe.model, run.recipe.generate
    if job.engine == "openai":
        return {
            "served": served_name(run, job),
            "revision": settings.revision,
            "video_as": server.video_as,
        }
    config, _ = load_config(settings)
    return {
        "name": settings.name,
        "revision": revision_of(settings, config),
        "positions": settings.positions,
        "adapter": None if job.adapter is None else content_hash(job.adapter),
        "quantize": settings.quantize,
        "dtype": str(choose_dtype(settings)),
        "attention": settings.attention,
        "rope": settings.rope_factor,
    }


def _candidate(
    run: Run, job: GenerationJob, pending: PendingCandidate, row: dict[str, Any]
) -> Candidate:
    return Candidate(
        id=f"{pending.sample.id}#{pending.number}",
        sample_id=pending.sample.id,
        text=row["text"],
        seed=pending.seed,
        model=(job.model or run.recipe.model).name,
        settings=pending.key[:16],
        finish=row["finish"],
        sampler=job.sampler_name,
        choice_logps=row.get("choice_logps"),
    )


def _answer_here(
    run: Run, job: GenerationJob, missing: Mapping[str, Sequence[PendingCandidate]]
) -> Counter[str]:
    from dpo_video.generate.local import answer_here  # here: it needs what stands above

    return answer_here(run, job, missing)


def _answer_by_server(
    run: Run, job: GenerationJob, missing: Mapping[str, Sequence[PendingCandidate]]
) -> Counter[str]:
    from dpo_video.generate.server import answer_by_server  # here: openai is an extra

    return answer_by_server(run, job, missing)


def _answer_on_cluster(
    run: Run, job: GenerationJob, missing: Mapping[str, Sequence[PendingCandidate]]
) -> Counter[str]:
    from dpo_video.generate.ray import answer_on_cluster  # here: Ray is an extra

    return answer_on_cluster(run, job, missing)


ENGINES = {"local": _answer_here, "openai": _answer_by_server, "ray": _answer_on_cluster}
