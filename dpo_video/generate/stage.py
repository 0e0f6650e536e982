"""Stage generate: N sampled answers of the policy to each sample; resumable, no answer paid for
twice.

`make_candidates` serves evaluation too: other samples, another sampler, an adapter on top.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.names import choose
from dpo_video.core.progress import log
from dpo_video.core.records import Candidate
from dpo_video.data.planned_answers import PlannedAnswers
from dpo_video.generate.jobs import (
    NO_OTHER_CLIP,
    NOTHING_TO_SHOW,
    OVER_CONTEXT,
    GenerationJob,
    GenerationResult,
    MissingCandidates,
    PendingCandidate,
    add_counts,
    group_by_clip,
    title_of,
)
from dpo_video.generate.plan import plan_candidates
from dpo_video.models.hub import load_config
from dpo_video.models.sampling import Sampler
from dpo_video.recipe import GenerateSettings, SamplerSettings
from dpo_video.recipe.generate import WITH_MAGNITUDE
from dpo_video.run import Run, StageResult
from dpo_video.video import (
    clip_key,
)


def generate(run: Run) -> StageResult:
    """Write candidates.jsonl; counts of samples, candidates, those reused, cut answers and bad
    clips; incomplete where a server failed to answer, or a clip may be read at the next try.
    """
    results = make_candidates_together(run, _jobs(run))
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


def planned_answers(run: Run) -> list[PlannedAnswers]:
    """Return the candidates of each sample as they will stand in candidates.jsonl, written or
    not.
    """
    planned: dict[str, dict[str, Callable[[dict[str, Any]], Candidate]]] = {}
    for index, job in enumerate(_jobs(run)):
        for pending in plan_candidates(run, job, index=index):
            of_sample = planned.setdefault(pending.sample.id, {})
            of_sample[pending.key] = partial(_candidate, run, job, pending)
    samples = {sample.id: sample for sample in run.samples}
    return [
        PlannedAnswers(sample=samples[name], candidates=candidates)
        for name, candidates in planned.items()
    ]


def training_sampler(settings: GenerateSettings, *, over: SamplerSettings | None = None) -> Sampler:
    """Return the sampler of the `generate` section, with the settings of a mix's sampler on top."""
    names = set(Sampler.__dataclass_fields__)
    overrides = {} if over is None else over.model_dump(include=names, exclude_none=True)
    return Sampler(**{**{name: getattr(settings, name) for name in names}, **overrides})


def magnitude_of(settings: GenerateSettings, sampler: SamplerSettings) -> int | None:
    """Return how strongly a sampler of the mix changes its clips; None where it has no degree."""
    if sampler.clip not in WITH_MAGNITUDE:
        return None
    return settings.magnitude if sampler.magnitude is None else sampler.magnitude


def _jobs(run: Run) -> list[GenerationJob]:
    """Return one job for each sampler of the mix, or the one there is without a mix."""
    settings = run.recipe.generate
    plain = GenerationJob(
        samples=run.samples,
        root=run.video_root,
        engine=settings.engine,
        num_candidates=settings.num_candidates,
        first_number=settings.first_number,
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
                first_number=plain.first_number + sum(job.num_candidates for job in jobs),
                clip=sampler.clip,
                magnitude=magnitude_of(settings, sampler),
                privileges=sampler.privileges,
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
        **_clip_counts(run),
    }
    if run.recipe.generate.mix:
        counts["samplers"] = dict(Counter(candidate.sampler for candidate in candidates))
    return counts


def make_candidates(run: Run, job: GenerationJob) -> GenerationResult:
    """Return the candidates of all samples of a job, as `make_candidates_together` does."""
    (result,) = make_candidates_together(run, [job])
    return result


def make_candidates_together(run: Run, jobs: Sequence[GenerationJob]) -> list[GenerationResult]:
    """Return the candidates of each job's samples: stored ones, and new ones for what is missing.

    Jobs of one policy are done together: it is loaded once, and each clip is decoded once.

    A clip that cannot be read is set aside with its samples; a later run tries it again. A sample
    whose prompt and longest answer do not fit the model's context is set aside too; UserError where
    that leaves no candidate.
    """
    results: dict[int, GenerationResult] = {}
    for indices in _same_policy(jobs):
        group = [jobs[index] for index in indices]
        results.update(zip(indices, _make_together(run, group), strict=True))
    return [results[index] for index in range(len(jobs))]


def _same_policy(jobs: Sequence[GenerationJob]) -> list[list[int]]:
    """Return the indices of the jobs whose answers one policy writes, group by group."""
    groups: dict[str, list[int]] = {}
    for index, job in enumerate(jobs):
        model = None if job.model is None else job.model.model_dump_json()
        # a policy that is handed in is known by its loader alone
        loader = None if job.load is None else id(job.load)
        key = repr((model, job.adapter, job.engine, job.root, loader))
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _make_together(run: Run, jobs: Sequence[GenerationJob]) -> list[GenerationResult]:
    """Return the candidates of jobs that share a policy; what the engine counts stands with the
    first.
    """
    planned = [plan_candidates(run, job, index=index) for index, job in enumerate(jobs)]
    keys = [candidate.key for candidate in chain.from_iterable(planned)]
    reused = run.store.get("candidate", keys)
    missing = group_by_clip([row for row in chain.from_iterable(planned) if row.key not in reused])
    engine_counts: Counter[str] = Counter()
    if missing:
        _tell_earlier_rule(run, jobs, missing)
        engine_counts = choose(ENGINES, jobs[0].engine, "generate engine")(run, jobs, missing)
        run.store.flush()
    rows = run.store.get("candidate", keys)
    results = []
    for job, job_candidates in zip(jobs, planned, strict=True):
        candidates = [
            _candidate(run, job, candidate, rows[candidate.key])
            for candidate in job_candidates
            if candidate.key in rows
        ]
        num_reused = sum(candidate.key in reused for candidate in job_candidates)
        counts = _job_counts(job, candidates, num_reused, num_planned=len(job_candidates))
        results.append(GenerationResult(candidates, counts))
    answered = sum(len(result.candidates) for result in results)
    _tell_over_context(run, jobs, engine_counts[OVER_CONTEXT], answered=answered)
    results[0].counts.update(_clip_counts(run), **engine_counts)
    return results


def _job_counts(
    job: GenerationJob, candidates: Sequence[Candidate], num_reused: int, *, num_planned: int
) -> dict[str, int]:
    unanswered = len(job.samples) - len({candidate.sample_id for candidate in candidates})
    lost = NOTHING_TO_SHOW if job.privileges else NO_OTHER_CLIP
    num_lost = len(job.samples) * job.num_candidates - num_planned
    return {
        "samples": len(job.samples),
        "candidates": len(candidates),
        "reused": num_reused,
        "cut": sum(candidate.finish == "length" for candidate in candidates),
        "samples_without": unanswered,
        **({lost: num_lost} if num_lost else {}),
    }


def _clip_counts(run: Run) -> dict[str, int]:
    """Return how many clips were set aside: not those that only their corruption leaves as they
    are.
    """
    return {"bad_clips": sum(fault.code != "unchanged" for fault in run.bad_clips.values())}


def _tell_earlier_rule(run: Run, jobs: Sequence[GenerationJob], missing: MissingCandidates) -> None:
    """Say how many stored candidates are made anew because clips are now known by content."""
    if not any(True for _ in run.store.rows("candidate")):
        return
    pending = chain.from_iterable(missing.values())
    identifiers = {(candidate.sample.id, candidate.number) for candidate in pending}
    earlier = chain.from_iterable(plan_candidates(run, job, by_content=False) for job in jobs)
    stored = run.store.get(
        "candidate",
        [row.key for row in earlier if (row.sample.id, row.number) in identifiers],
    )
    if stored:
        log.info(
            f"candidates: {len(stored)} stored under the rule of an earlier version are made anew: "
            "their clips are now known by content"
        )


def _tell_over_context(
    run: Run, jobs: Sequence[GenerationJob], samples: int, *, answered: int
) -> None:
    if not samples:
        return
    job = jobs[0]
    config, family = load_config(job.model or run.recipe.model)
    num_samples = len(set(chain.from_iterable(_sample_ids(job) for job in jobs)))
    message = (
        f"{samples} of {num_samples} samples: the tokens of the clip and the question, and "
        f"{job.sampler.max_new_tokens} for the answer (max_new_tokens), are more than the "
        f"{family.context_length(config):,} of the model's context. Lower video.num_frames, "
        "video.max_pixels or max_new_tokens, or set video.policy=fit; `dpo-video check RECIPE` "
        "shows "
        "how many they are"
    )
    if not answered:
        raise UserError(f"{title_of(jobs)}: no answer can be written to {message}")
    log.info(f"{title_of(jobs)}: set aside {message}")


def _sample_ids(job: GenerationJob) -> list[str]:
    return [sample.id for sample in job.samples]


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
        privileged=True if job.privileges else None,
    )


def _answer_here(
    run: Run, jobs: Sequence[GenerationJob], missing: MissingCandidates
) -> Counter[str]:
    from dpo_video.generate.local import answer_here  # here: it needs what stands above

    return answer_here(run, jobs, missing)


def _answer_by_server(
    run: Run, jobs: Sequence[GenerationJob], missing: MissingCandidates
) -> Counter[str]:
    from dpo_video.generate.server import answer_by_server  # here: openai is an extra

    return answer_by_server(run, jobs, missing)


def _answer_on_cluster(
    run: Run, jobs: Sequence[GenerationJob], missing: MissingCandidates
) -> Counter[str]:
    from dpo_video.generate.ray import answer_on_cluster  # here: Ray is an extra

    return answer_on_cluster(run, jobs, missing)


ENGINES = {"local": _answer_here, "openai": _answer_by_server, "ray": _answer_on_cluster}
