"""Filters of training samples, each a step of a stream: what fails one is marked with its reason
and passed over by the next.

Cheap ones come first; clips are looked at only for what is left.
"""

from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path

from dpo_video.core.records import Sample
from dpo_video.core.turns import whole_question
from dpo_video.data.answer_filters import is_refusal
from dpo_video.data.lines import Fault, SampleLine
from dpo_video.data.near_duplicates import is_near, near_index
from dpo_video.recipe import CleanSettings
from dpo_video.recipe.affects import Affects, settings_that_affect
from dpo_video.video import ClipRequest, VideoError, clip_key, clip_request
from dpo_video.video.clip_facts import ClipFacts, ClipProbe

SHORT = 20
"""Characters of a caption below which its language cannot be told."""


SampleLines = Generator[SampleLine, None, None]


def clean_samples(
    lines: Iterable[SampleLine],
    settings: CleanSettings,
    *,
    root: Path,
    probe: ClipProbe,
    heldout: Sequence[Sample],
) -> SampleLines:
    """Yield all lines in order, those that a filter leaves out with the fault that it saw.

    Args:
        root: where relative video paths start from.
        probe: finds the facts of clips.
        heldout: samples that no training sample may repeat.
    """
    stream: SampleLines = _by_text(lines, settings)
    if settings.heldout_similarity is not None:
        stream = _without_heldout(stream, settings.heldout_similarity, heldout)
    if settings.sample_similarity is not None:
        stream = _without_copies(stream, settings.sample_similarity)
    if looks_at_clips(settings):
        stream = _by_clip(stream, settings, root, probe)
    if settings.max_per_source is not None:
        stream = _by_source(stream, settings.max_per_source)
    return stream


def is_on(settings: CleanSettings) -> bool:
    """Return whether any filter of samples is set."""
    filters = settings_that_affect(settings, Affects.SAMPLES)
    return filters != settings_that_affect(CleanSettings(), Affects.SAMPLES)


def looks_at_clips(settings: CleanSettings) -> bool:
    """Return whether a filter needs facts about clips."""
    return looks_at_frames(settings) or any(
        limit is not None
        for limit in (
            settings.min_seconds,
            settings.max_seconds,
            settings.min_side,
            settings.max_aspect,
        )
    )


def looks_at_frames(settings: CleanSettings) -> bool:
    """Return whether a filter needs decoded frames."""
    return settings.min_brightness is not None or settings.min_motion is not None


def _by_text(lines: Iterable[SampleLine], settings: CleanSettings) -> SampleLines:
    for line in lines:
        yield line if line.fault else line._replace(fault=_text_fault(line.sample, settings))


def _text_fault(sample: Sample, settings: CleanSettings) -> Fault | None:
    caption = sample.caption or ""
    words = len(caption.split())
    if words < settings.caption_min_words:
        return Fault("short caption", f"{words} words")
    if settings.caption_max_words is not None and words > settings.caption_max_words:
        return Fault("long caption", f"{words} words")
    if settings.drop_refusals and is_refusal(caption):
        return Fault("refusal", caption[:80])
    if settings.languages and len(caption) >= SHORT:
        language = language_of(caption)
        if language not in settings.languages:
            return Fault("language", language)
    return None


def language_of(text: str) -> str:
    """Return the ISO 639-1 code of the likeliest of 97 languages, by py3langid's n-gram model."""
    from py3langid import classify  # reads its model, 3 MB, when first called

    return str(classify(text)[0])


class _KnownSamples:
    """Samples found by their captions: a question alone may stand under many clips."""

    def __init__(self, min_similarity: float) -> None:
        self._min_similarity = min_similarity
        self._add, self._find = near_index(min_similarity)
        self._samples: list[Sample] = []

    def add(self, sample: Sample) -> None:
        if sample.caption is None:
            return
        self._add(sample.caption, len(self._samples))
        self._samples.append(sample)

    def find(self, sample: Sample) -> Sample | None:
        """Return the first sample whose question, with the turns before it, and caption are near
        those of this one.
        """
        for index in self._find(sample.caption or ""):
            other = self._samples[index]
            if is_near(whole_question(sample), whole_question(other), self._min_similarity):
                return other
        return None


def _without_heldout(
    lines: Iterable[SampleLine], min_similarity: float, heldout: Sequence[Sample]
) -> SampleLines:
    index = _KnownSamples(min_similarity)
    for sample in heldout:
        index.add(sample)
    for line in lines:
        copied = None if line.fault else index.find(line.sample)
        if copied is not None:
            line = line._replace(fault=Fault("repeats a held-out sample", copied.id))
        yield line


def _without_copies(lines: Iterable[SampleLine], min_similarity: float) -> SampleLines:
    index = _KnownSamples(min_similarity)
    for line in lines:
        copied = None if line.fault else index.find(line.sample)
        if copied is not None:
            line = line._replace(fault=Fault("repeats another sample", copied.id))
        elif line.fault is None:
            index.add(line.sample)
        yield line


def _by_clip(
    lines: Iterable[SampleLine], settings: CleanSettings, root: Path, probe: ClipProbe
) -> SampleLines:
    """Yield the lines with what their clips do not pass; a clip that cannot be read passes, for the
    stage that needs it to set it aside.
    """
    waiting: deque[SampleLine] = deque()

    def requests() -> Iterator[ClipRequest]:
        for line in lines:
            waiting.append(line)
            if line.fault is None:
                yield _request(line.sample, root)

    for _, facts in probe(requests()):
        while waiting[0].fault is not None:
            yield waiting.popleft()
        line = waiting.popleft()
        if not isinstance(facts, VideoError):
            line = line._replace(fault=clip_fault(facts, settings))
        yield line
    yield from waiting


def _request(sample: Sample, root: Path) -> ClipRequest:
    try:
        return clip_request(sample, root)
    except VideoError:  # an address: it cannot be read, and passes as such
        return ClipRequest(
            key=clip_key(sample), video=Path(str(sample.video)), start=sample.start, end=sample.end
        )


def clip_fault(facts: ClipFacts, settings: CleanSettings) -> Fault | None:
    """Return which filter leaves a clip out, and its number; None where it stays."""
    tests = (
        ("short clip", facts.seconds, settings.min_seconds, "s", False),
        ("long clip", facts.seconds, settings.max_seconds, "s", True),
        ("small frames", facts.shorter, settings.min_side, "pixels", False),
        ("aspect ratio", facts.longer / facts.shorter, settings.max_aspect, "to 1", True),
        ("black", facts.brightness, settings.min_brightness, "of 255", False),
        ("still", facts.motion, settings.min_motion, "of 255", False),
    )
    for reason, value, limit, unit, is_maximum in tests:
        if (
            limit is not None
            and value is not None
            and (value > limit if is_maximum else value < limit)
        ):
            return Fault(reason, f"{value:.4g} {unit}")
    return None


def _by_source(lines: Iterable[SampleLine], max_per_source: int) -> SampleLines:
    counts: Counter[str] = Counter()
    for line in lines:
        source = source_of(line.sample)
        if line.fault is None and counts[source] >= max_per_source:
            line = line._replace(fault=Fault("over the cap of its source", source))
        elif line.fault is None:
            counts[source] += 1
        yield line


def source_of(sample: Sample) -> str:
    """Return the folder that a sample's video lies in; of a list of frames, the folder above that
    of the frames.
    """
    if isinstance(sample.video, str):
        return str(Path(sample.video).parent)
    return str(Path(sample.video[0]).parent.parent) if sample.video else "."
