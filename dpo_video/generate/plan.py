"""Every candidate of a job, under a key of all that determines its text: what is stored under it
is not paid for again.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpo_video.core.control_tokens import NO_TOKENS
from dpo_video.core.records import Sample
from dpo_video.core.turns import turn_rows
from dpo_video.generate.jobs import (
    GenerationJob,
    PendingCandidate,
    ShownClip,
    lacks_privilege,
    policy_prompt,
    served_name,
)
from dpo_video.models.control_tokens import recipe_tokens
from dpo_video.models.hearing import hearing_of
from dpo_video.models.hub import load_config, revision_of
from dpo_video.models.load import choose_dtype
from dpo_video.models.sampling import candidate_seed
from dpo_video.recipe.affects import Affects, settings_that_affect
from dpo_video.run import Run
from dpo_video.store import content_hash, row_key
from dpo_video.video import (
    VideoError,
    clip_key,
    clip_request,
    draw_corruption,
    draw_number,
    file_name,
)
from dpo_video.video.cache import clip_identity


def plan_candidates(
    run: Run, job: GenerationJob, *, index: int = 0, by_content: bool = True
) -> list[PendingCandidate]:
    """Return every candidate of every sample, under a key of all that determines its text; none of
    a sample that lacks what the job is to show.

    Without `by_content` under the key of version 0.1, for which a file of the same name, size and
    time of change was the same clip.
    """
    frames = settings_that_affect(run.recipe.video, Affects.PIXELS | Affects.SIZE)
    common = {"model": _identity(run, job), "frames": frames, "sampler": asdict(job.sampler)}
    clips: dict[str, dict[str, Any] | None] = {}
    shown_clips = _shown_clips(run, job)
    tokens = recipe_tokens(run.recipe) if job.privileges else NO_TOKENS
    planned = []
    for sample in job.samples:
        shown = shown_clips[clip_key(sample)]
        if shown is None or lacks_privilege(job, sample, tokens):
            continue
        name = clip_key(shown.sample)
        if name not in clips:
            clips[name] = _clip_identity(shown.sample, job.root, by_content=by_content)
        choices = () if job.choose is None else job.choose.choices(sample)
        parts: dict[str, Any] = {
            **common,
            "clip": clips[name],
            "prompt": policy_prompt(job, sample),
        }
        if sample.history:
            parts["history"] = turn_rows(sample.history)
        if choices:
            parts["sampler"] = {"choices": choices}
        if shown.corruption is not None:
            parts["corruption"] = shown.corruption
        for number in range(job.first_number, job.first_number + job.num_candidates):
            seed = candidate_seed(run.recipe.seed, sample.id, number)
            planned.append(
                PendingCandidate(
                    sample=sample,
                    number=number,
                    seed=seed,
                    key=row_key(**parts, seed=seed),
                    shown=shown,
                    job=index,
                    choices=choices,
                )
            )
    return planned


def _shown_clips(run: Run, job: GenerationJob) -> dict[str, ShownClip | None]:
    """Return what the policy sees in place of each clip of the samples; None where there is no
    other file. Seed and clips alone determine it.
    """
    sample_of = {clip_key(sample): sample for sample in job.samples}
    if job.clip == "none":
        return {name: ShownClip(sample, None) for name, sample in sample_of.items()}
    shown: dict[str, ShownClip | None] = {}
    for name, sample in sample_of.items():
        if job.clip == "other_clip":
            other = _other_clip(sample_of, name, run.recipe.seed)
            shown[name] = None if other is None else ShownClip(other, None)
        else:
            corruption = draw_corruption(
                job.clip, seed=run.recipe.seed, clip=name, magnitude=job.magnitude
            )
            shown[name] = ShownClip(sample, corruption)
    return shown


def _other_clip(sample_of: Mapping[str, Sample], name: str, seed: int) -> Sample | None:
    """Return a sample about another file, drawn by seed and clip; None where there is none."""
    names = sorted(sample_of)
    first = draw_number("other_clip", seed=seed, clip=name) % len(names)
    own_file = file_name(sample_of[name].video)
    for step in range(len(names)):
        other = sample_of[names[(first + step) % len(names)]]
        if file_name(other.video) != own_file:
            return other
    return None


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
    config, family = load_config(settings)
    hearing = hearing_of(family, config, run.recipe.video)
    return {
        "name": settings.name,
        "revision": revision_of(settings, config),
        "positions": settings.positions,
        "adapter": None if job.adapter is None else content_hash(job.adapter),
        "quantize": settings.quantize,
        "dtype": str(choose_dtype(settings)),
        "attention": settings.attention,
        "rope": settings.rope_factor,
        **({} if hearing is None else {"sound": asdict(hearing.form)}),
    }
