"""Stage generate: N sampled answers of the policy to each sample; resumable, no answer paid for
twice.

`make_candidates` serves evaluation too: other samples, another sampler, an adapter on top.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.names import choose
from dpo_video.core.progress import say
from dpo_video.core.records import Candidate, Sample
from dpo_video.generate.jobs import (
    OVER_CONTEXT,
    GenerationJob,
    GenerationResult,
    PendingCandidate,
    policy_prompt,
    served_name,
)
from dpo_video.models.hub import load_config, revision_of
from dpo_video.models.load import choose_dtype
from dpo_video.models.sampling import Sampler, candidate_seed
from dpo_video.recipe import GenerateSettings, SamplerSettings
from dpo_video.run import Run, StageResult
from dpo_video.store import content_hash, row_key
from dpo_video.video import VideoError, clip_key, resolve_video
from dpo_video.video.cache import part_identity

FRAME_POLICY = (
    "policy",
    "num_frames",
    "fps",
    "min_frames",
    "max_frames",
    "change",
    "min_pixels",
    "max_pixels",
    "cap_pixels",
    "max_tokens",
    "reserve_tokens",
)
"""Video settings that change what the model sees; the others change how fast it is read."""


def generate(run: Run) -> StageResult:
    """Write candidates.jsonl; counts of samples, candidates, those reused, cut answers and bad
    clips; incomplete where a server failed to answer.
    """
    made = [make_candidates(run, work) for work in _works(run)]
    place = {sample.id: number for number, sample in enumerate(run.samples)}
    candidates = sorted(
        (one for each in made for one in each.candidates), key=lambda one: place[one.sample_id]
    )
    counts = _total(run, made, candidates)
    if not candidates:
        raise UserError(
            f"no candidates: none of the {len(run.samples)} samples got an answer ({counts})"
        )
    write_jsonl(run.folder / "candidates.jsonl", candidates)
    failed = counts.get("failed")
    return StageResult(
        counts=counts,
        incomplete_because=f"the server failed to write {failed} candidates" if failed else "",
    )


def training_sampler(settings: GenerateSettings, *, over: SamplerSettings | None = None) -> Sampler:
    """Return the sampler of the `generate` section, with the settings of a mix's sampler on top."""
    own = (
        {}
        if over is None
        else over.model_dump(include=set(Sampler.__dataclass_fields__), exclude_none=True)
    )
    values = {name: getattr(settings, name) for name in Sampler.__dataclass_fields__}
    return Sampler(**{**values, **own})


def _works(run: Run) -> list[GenerationJob]:
    """Return one piece of work for each sampler of the mix, or the one there is without a mix."""
    settings = run.recipe.generate
    plain = GenerationJob(
        samples=run.samples,
        root=run.video_root,
        engine=settings.engine,
        num_candidates=settings.num_candidates,
        sampler=training_sampler(settings),
    )
    jobs: list[GenerationJob] = []
    for one in settings.mix:
        adapter = None if one.adapter is None else Path(one.adapter).expanduser()
        jobs.append(
            replace(
                plain,
                num_candidates=one.num_candidates,
                sampler=training_sampler(settings, over=one),
                model=one.model,
                adapter=adapter,
                instruction=one.instruction,
                sampler_name=one.name,
                title=f"generate ({one.name})",
                first_number=sum(work.num_candidates for work in jobs),
            )
        )
    return jobs or [plain]


def _total(
    run: Run, made: Sequence[GenerationResult], candidates: Sequence[Candidate]
) -> dict[str, Any]:
    """Return the counts of all samplers together, and, of a mix, how many candidates each of them
    made.
    """
    totals: Counter[str] = Counter()
    for each in made:
        totals.update(each.counts)
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


def make_candidates(run: Run, work: GenerationJob) -> GenerationResult:
    """Return the candidates of all samples: stored ones, and new ones for what is missing.

    A clip that cannot be read is set aside with its samples; a later run tries it again. A sample
    whose prompt and longest answer do not fit the model's context is set aside too; UserError where
    that leaves no candidate.
    """
    asked = _ask(run, work)
    before = run.store.get("candidate", [one.key for one in asked])
    missing: dict[str, list[PendingCandidate]] = {}
    for one in asked:
        if one.key not in before:
            missing.setdefault(clip_key(one.sample), []).append(one)
    new: Counter[str] = Counter()
    if missing:
        new = choose(ENGINES, work.engine, "generate engine")(run, work, missing)
        run.store.flush()
    stored = run.store.get("candidate", [one.key for one in asked])
    candidates = [_candidate(run, work, one, stored[one.key]) for one in asked if one.key in stored]
    _tell_over_context(run, work, new[OVER_CONTEXT], answered=len(candidates))
    cut = sum(candidate.finish == "length" for candidate in candidates)
    unanswered = len(work.samples) - len({candidate.sample_id for candidate in candidates})
    return GenerationResult(
        candidates,
        {
            "samples": len(work.samples),
            "candidates": len(candidates),
            "reused": len(before),
            "cut": cut,
            "samples_without": unanswered,
            "bad_clips": len(run.bad_clips),
            **new,
        },
    )


def _tell_over_context(run: Run, work: GenerationJob, samples: int, *, answered: int) -> None:
    if not samples:
        return
    config, family = load_config(work.model or run.recipe.model)
    what = (
        f"{samples} of {len(work.samples)} samples: the tokens of the clip and the question, and "
        f"{work.sampler.max_new_tokens} for the answer (max_new_tokens), are more than the "
        f"{family.context_length(config):,} of the model's context. Lower video.num_frames, "
        f"video.max_pixels or "
        "max_new_tokens, or set video.policy=fit; `dpo-video check RECIPE` shows how many they are"
    )
    if not answered:
        raise UserError(f"{work.title}: no answer can be written to {what}")
    say(f"{work.title}: set aside {what}")


def _ask(run: Run, work: GenerationJob) -> list[PendingCandidate]:
    """Return every candidate of every sample, under a key of all that determines its text."""
    frames = {name: getattr(run.recipe.video, name) for name in FRAME_POLICY}
    common = {"model": _identity(run, work), "frames": frames, "sampler": asdict(work.sampler)}
    asked = []
    for sample in work.samples:
        clip = {"files": _files(sample, work.root), **part_identity(sample.start, sample.end)}
        for number in range(work.first_number, work.first_number + work.num_candidates):
            seed = candidate_seed(run.recipe.seed, sample.id, number)
            key = row_key(**common, clip=clip, prompt=policy_prompt(work, sample), seed=seed)
            asked.append(PendingCandidate(sample=sample, number=number, seed=seed, key=key))
    return asked


def _identity(run: Run, work: GenerationJob) -> dict[str, Any]:
    """Return what identifies the model that answers: a server's by name, not address; ours by its
    weights.
    """
    settings, server = work.model or run.recipe.model, run.recipe.generate
    if work.engine == "openai":
        return {
            "served": served_name(run, work),
            "revision": settings.revision,
            "video_as": server.video_as,
        }
    config, _ = load_config(settings)
    return {
        "name": settings.name,
        "revision": revision_of(settings, config),
        "positions": settings.positions,
        "adapter": None if work.adapter is None else content_hash(work.adapter),
        "quantize": settings.quantize,
        "dtype": str(choose_dtype(settings)),
        "attention": settings.attention,
        "rope": settings.rope_factor,
    }


def _files(sample: Sample, root: Path) -> list[list[str | int]]:
    """Return name, size and time of change of a clip's files; none where it does not exist."""
    try:
        found = resolve_video(sample.video, root)
    except VideoError:
        return []
    paths = (
        found if isinstance(found, list) else sorted(found.iterdir()) if found.is_dir() else [found]
    )
    facts = [(path.name, path.stat()) for path in paths if path.exists()]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in facts]


def _candidate(
    run: Run, work: GenerationJob, one: PendingCandidate, row: dict[str, Any]
) -> Candidate:
    return Candidate(
        id=f"{one.sample.id}#{one.number}",
        sample_id=one.sample.id,
        text=row["text"],
        seed=one.seed,
        model=(work.model or run.recipe.model).name,
        settings=one.key[:16],
        finish=row["finish"],
        sampler=work.sampler_name,
    )


def _answer_here(
    run: Run, work: GenerationJob, missing: Mapping[str, Sequence[PendingCandidate]]
) -> Counter[str]:
    from dpo_video.generate.local import answer_here  # here: it needs what stands above

    return answer_here(run, work, missing)


def _answer_by_server(
    run: Run, work: GenerationJob, missing: Mapping[str, Sequence[PendingCandidate]]
) -> Counter[str]:
    from dpo_video.generate.server import (
        answer_by_server,
    )  # here: it needs the openai package, which is an extra

    return answer_by_server(run, work, missing)


def _answer_on_cluster(
    run: Run, work: GenerationJob, missing: Mapping[str, Sequence[PendingCandidate]]
) -> Counter[str]:
    from dpo_video.generate.ray import answer_on_cluster  # here: Ray is an extra

    return answer_on_cluster(run, work, missing)


ENGINES = {"local": _answer_here, "openai": _answer_by_server, "ray": _answer_on_cluster}
