"""What an engine is asked for: samples, samplers, and the candidates that are missing.

Jobs of one policy are done together, clip by clip: a clip is decoded once for all that is asked
about it, also where a sampler sees it corrupted, or in place of another one.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dpo_video.core.control_tokens import ControlTokens
from dpo_video.core.errors import UserError
from dpo_video.core.progress import log
from dpo_video.core.records import Candidate, Sample
from dpo_video.core.text import TAG
from dpo_video.models.collate import TokenRow
from dpo_video.models.load import Policy
from dpo_video.models.sampling import Sampler
from dpo_video.recipe import ModelSettings
from dpo_video.run import Run
from dpo_video.video import ClipRequest, VideoError, clip_key, clip_request

OVER_CONTEXT = "samples_over_context"
"""Count of samples without an answer, because their prompt and the longest answer are longer than
the context.
"""

PEAK_CACHE = "peak_cache_bytes"
"""Count of the most bytes of keys and values held at a time: of several jobs the most, not the sum.
"""
READ = ("prompt_tokens", "prompt_tokens_unshared", PEAK_CACHE)
"""Counts of what reading the prompts took: tokens that went through the language model, those that
would have, had each answer's prompt been read for itself, and bytes.
"""
CORRUPTIONS = ("drop", "reverse", "shuffle")
"""What `clip` does to a clip's own frames."""
UNCHANGED = "clip_unchanged"
"""Count of candidates that were not written, because their clip looks the same when corrupted."""
NO_OTHER_CLIP = "no_other_clip"
"""Count of those of `clip: other_clip` where all samples are about one file."""
NOTHING_TO_SHOW = "nothing_to_show"
"""Count of those whose sample has not what the sampler is to be shown."""


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
    clip: Literal["none", "drop", "reverse", "shuffle", "other_clip"] = "none"
    """What is done to the clip that the policy sees."""
    magnitude: int | None = None
    """How strongly, see video/corrupt.py."""
    privileges: tuple[str, ...] = ()
    """What the instruction shows that the policy does not know when it is used."""
    load: Callable[[], Policy] | None = None
    """Returns the policy (with `adapter` on it) where several jobs share one; called only if an
    answer is missing.
    """


class GenerationResult(NamedTuple):
    """Candidates in sample order, and counts."""

    candidates: list[Candidate]
    counts: dict[str, Any]


class ShownClip(NamedTuple):
    """The clip that the policy sees when it answers."""

    sample: Sample
    """Whose clip it is: the one that is asked about, or another."""
    corruption: str | None
    """What is done to its frames."""

    @property
    def key(self) -> str:
        """The clip's name, with what is done to it."""
        name = clip_key(self.sample)
        return name if self.corruption is None else f"{name}#{self.corruption}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingCandidate:
    """One candidate to be written: who asks, and the store key of the answer."""

    sample: Sample
    number: int
    seed: int
    key: str
    choices: tuple[str, ...] = ()
    """What the likeliest is taken of; empty where an answer is written."""
    shown: ShownClip
    job: int = 0
    """Which of the jobs that are done together it belongs to."""


MissingCandidates = Mapping[str, Sequence[PendingCandidate]]
"""By the key of the clip that is shown; the corruptions of a clip stand behind the clip."""


def group_by_clip(candidates: Sequence[PendingCandidate]) -> dict[str, list[PendingCandidate]]:
    """Return candidates by the clip they are shown, clips in the order of the candidates, each
    with its corruptions behind it.
    """
    groups: dict[str, dict[str, list[PendingCandidate]]] = {}
    for candidate in candidates:
        by_corruption = groups.setdefault(clip_key(candidate.shown.sample), {})
        by_corruption.setdefault(candidate.shown.key, []).append(candidate)
    missing: dict[str, list[PendingCandidate]] = {}
    for name, by_corruption in groups.items():
        if name in by_corruption:
            missing[name] = by_corruption[name]
        missing |= by_corruption
    return missing


def add_counts(totals: Counter[str], counts: Mapping[str, int]) -> None:
    """Add the counts of a job or a worker; of peaks keep the highest."""
    peak = max(totals[PEAK_CACHE], counts.get(PEAK_CACHE, 0))
    totals.update(counts)
    if PEAK_CACHE in totals:
        totals[PEAK_CACHE] = peak


def policy_prompt(job: GenerationJob, sample: Sample) -> str:
    """Return what the policy is asked about a clip, behind earlier turns: the instruction, with the
    sample's texts in it; braces in these stay text.
    """
    texts = {
        "prompt": sample.prompt,
        "caption": sample.caption or "",
        "answer": sample.answer or "",
    }
    return re.sub(r"\{(prompt|caption|answer)\}", lambda match: texts[match[1]], job.instruction)


def lacks_privilege(job: GenerationJob, sample: Sample, tokens: ControlTokens) -> bool:
    """Return whether a sample has not what the job's instruction is to show, or has it with a
    control token of the policy in it.
    """
    texts = {"caption": sample.caption or "", "answer": sample.answer or ""}
    return any(
        not texts[name].strip() or tokens.first_in(texts[name]) or TAG.search(texts[name])
        for name in job.privileges
    )


def title_of(jobs: Sequence[GenerationJob]) -> str:
    """Return the title of jobs that are done together."""
    return jobs[0].title if len(jobs) == 1 else jobs[0].title.partition(" (")[0]


def served_name(run: Run, job: GenerationJob) -> str:
    """Return the model's name on the server."""
    if job.model is not None:
        return job.model.name
    return run.recipe.generate.served_model or run.recipe.model.name


def tell_notes(title: str, notes: Mapping[str, str]) -> dict[str, int]:
    """Say what is to be known of clips that were read in another way than most, and return their
    count.
    """
    if not notes:
        return {}
    clip, note = next(iter(notes.items()))
    log.info(
        f"{title}: {len(notes)} clips have a note, which `dpo-video frames CLIP` shows; the "
        f"first is {clip!r}: {note}"
    )
    return {"clips_with_note": len(notes)}


def candidate_clip_requests(run: Run, root: Path, missing: MissingCandidates) -> list[ClipRequest]:
    """Return one request per clip that is shown, in their order; what is no file at all is set
    aside at once.
    """
    requests = []
    for key, pending in missing.items():
        shown = pending[0].shown
        try:
            request = clip_request(shown.sample, root)
        except VideoError as error:
            run.set_aside(clip_key(shown.sample), error)
            continue
        requests.append(replace(request, key=key, corruption=shown.corruption))
    return requests


def set_clip_aside(
    run: Run, pending: Sequence[PendingCandidate], error: UserError, request: ClipRequest
) -> Counter[str]:
    """Note why no answer was written to a clip; return what is to be counted.

    A clip that looks the same when corrupted is a good one: its corruption alone is set aside.
    """
    shown = pending[0].shown
    if isinstance(error, VideoError) and error.code == "unchanged":
        run.set_aside(shown.key, error, request)
        return Counter({UNCHANGED: len(pending)})
    run.set_aside(clip_key(shown.sample), error, request)
    return Counter()
