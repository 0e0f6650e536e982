"""What an engine is asked for: samples, sampler, and the candidates that are missing."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dpo_video.core.progress import log
from dpo_video.core.records import Candidate, Sample
from dpo_video.models.collate import TokenRow
from dpo_video.models.load import Policy
from dpo_video.models.sampling import Sampler
from dpo_video.recipe import ModelSettings
from dpo_video.run import Run
from dpo_video.video import ClipRequest, VideoError, clip_request

OVER_CONTEXT = "samples_over_context"
"""Count of samples without an answer, because their prompt and the longest answer are longer than
the context.
"""

PEAK_CACHE = "peak_cache_bytes"
"""Count of the most bytes of keys and values held at a time: of several jobs the most, not the sum.
"""


@dataclass(frozen=True, kw_only=True)
class Choose:
    """How the likeliest of several choices is found."""

    choices: Callable[[Sample], tuple[str, ...]]
    """What a sample offers, as answers are written."""
    logps: Callable[[Policy, Sequence[TokenRow]], list[float]]
    """Log-prob of the answer of each row, in nats; rows of a clip are given together."""


@dataclass(frozen=True, kw_only=True)
class GenerationJob:
    """Samples to answer, and how."""

    samples: Sequence[Sample]
    root: Path
    """Folder that relative video paths start from."""
    num_candidates: int
    sampler: Sampler
    adapter: Path | None = None
    engine: Literal["local", "openai", "ray"] = "local"
    title: str = "generate"
    """Of the progress bar."""
    model: ModelSettings | None = None
    """Another model than the recipe's."""
    instruction: str = "{prompt}"
    """What is asked, the sample's question in it."""
    first_number: int = 0
    """Number of the first candidate of each sample."""
    sampler_name: str | None = None
    """Which sampler of a mix this is."""
    choose: Choose | None = None
    """Answers each sample that offers choices by the likeliest, and nothing is written."""
    load: Callable[[], Policy] | None = None
    """Returns the policy (with `adapter` on it) where several jobs share one; called only if an
    answer is missing.
    """


class GenerationResult(NamedTuple):
    """Candidates in sample order, and counts."""

    candidates: list[Candidate]
    counts: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingCandidate:
    """One candidate to be written: who asks, and the store key of the answer."""

    sample: Sample
    number: int
    seed: int
    key: str
    sampler: Sampler
    choices: tuple[str, ...] = ()
    """What the likeliest is taken of; empty where an answer is written."""


def add_counts(totals: Counter[str], counts: Mapping[str, int]) -> None:
    """Add the counts of a job or a worker; of peaks keep the highest."""
    peak = max(totals[PEAK_CACHE], counts.get(PEAK_CACHE, 0))
    totals.update(counts)
    if PEAK_CACHE in totals:
        totals[PEAK_CACHE] = peak


def policy_prompt(job: GenerationJob, sample: Sample) -> str:
    """Return what the policy is asked about a sample's clip."""
    return job.instruction.replace("{prompt}", sample.prompt)


def served_name(run: Run, job: GenerationJob) -> str:
    """Return the model's name on the server."""
    if job.model is not None:
        return job.model.name
    return run.recipe.generate.served_model or run.recipe.model.name


def tell_notes(job: GenerationJob, notes: Mapping[str, str]) -> dict[str, int]:
    """Say what is to be known of clips that were read in another way than most, and return their
    count.
    """
    if not notes:
        return {}
    clip, note = next(iter(notes.items()))
    log.info(
        f"{job.title}: {len(notes)} clips have a note, which `dpo-video frames CLIP` shows; the "
        f"first is {clip!r}: {note}"
    )
    return {"clips_with_note": len(notes)}


def clip_requests(
    run: Run, job: GenerationJob, missing: Mapping[str, Sequence[PendingCandidate]]
) -> list[ClipRequest]:
    """Return one request per clip, in the order of the samples; what is no file at all is set aside
    at once.
    """
    requests = []
    for key, pending in missing.items():
        try:
            requests.append(clip_request(pending[0].sample, job.root))
        except VideoError as error:
            run.set_aside(key, error)
    return requests
