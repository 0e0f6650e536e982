"""Filters of training samples, each a step of a stream: what fails one is noted with its reason and
goes no further.

Cheap ones come first; clips are looked at only for what is left.
"""

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dpo_video.core.records import Sample
from dpo_video.data.answer_filters import is_refusal
from dpo_video.data.near_duplicates import is_near, near_index
from dpo_video.data.removed import Removed
from dpo_video.recipe import CleanSettings
from dpo_video.recipe.affects import Affects, settings_that_affect
from dpo_video.video import ClipRequest, VideoError, clip_key, clip_request
from dpo_video.video.facts import ClipFacts, ClipProbe

SHORT = 20
"""Characters of a caption below which its language cannot be told."""


class Row(NamedTuple):
    """A sample and the line of its file that it stands on."""

    line: int
    sample: Sample


Rows = Generator[Row, None, None]
Reject = Callable[[Row, str, str], None]
"""Note that a row is left out: the row, the reason, the detail."""


def clean_samples(
    rows: Iterable[Row],
    settings: CleanSettings,
    *,
    root: Path,
    look: ClipProbe,
    heldout: Sequence[Sample],
    reject: Reject,
) -> Rows:
    """Yield the rows that pass all filters, in order.

    Args:
        root: where relative video paths start from.
        look: finds the facts of clips.
        heldout: samples that no training sample may repeat.
        reject: is told of every row that is left out; steps read ahead, so later rows may be told
            of first.
    """
    stream: Rows = _by_text(rows, settings, reject)
    if settings.heldout_similarity is not None:
        stream = _without_copies(stream, settings.heldout_similarity, heldout, reject)
    if settings.sample_similarity is not None:
        stream = _without_copies(stream, settings.sample_similarity, None, reject)
    if looks_at_clips(settings):
        stream = _by_clip(stream, settings, root, look, reject)
    if settings.max_per_source is not None:
        stream = _by_source(stream, settings.max_per_source, reject)
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


def _by_text(rows: Iterable[Row], settings: CleanSettings, reject: Reject) -> Rows:
    for row in rows:
        found = _text_fault(row.sample, settings)
        if found is None:
            yield row
        else:
            reject(row, *found)


def _text_fault(sample: Sample, settings: CleanSettings) -> tuple[str, str] | None:
    words = len(sample.caption.split())
    if words < settings.caption_min_words:
        return "short caption", f"{words} words"
    if settings.caption_max_words is not None and words > settings.caption_max_words:
        return "long caption", f"{words} words"
    if settings.drop_refusals and is_refusal(sample.caption):
        return "refusal", sample.caption[:80]
    if settings.languages and len(sample.caption) >= SHORT:
        language = language_of(sample.caption)
        if language not in settings.languages:
            return "language", language
    return None


def language_of(text: str) -> str:
    """Return the ISO 639-1 code of the likeliest of 97 languages, by py3langid's n-gram model."""
    from py3langid import classify  # reads its model, 3 MB, when first called

    return str(classify(text)[0])


def _without_copies(
    rows: Iterable[Row], least: float, others: Sequence[Sample] | None, reject: Reject
) -> Rows:
    """Yield the rows that repeat none of the others, or with None, no earlier row.

    Captions are indexed and questions compared: a question alone may stand under many clips.
    """
    add, find = near_index(least)
    known: list[Sample] = []
    for sample in others or ():
        add(sample.caption, len(known))
        known.append(sample)
    reason = "repeats another sample" if others is None else "repeats a held-out sample"
    for row in rows:
        same = next(
            (
                known[place]
                for place in find(row.sample.caption)
                if is_near(row.sample.prompt, known[place].prompt, least)
            ),
            None,
        )
        if same is not None:
            reject(row, reason, same.id)
            continue
        if others is None:
            add(row.sample.caption, len(known))
            known.append(row.sample)
        yield row


def _by_clip(
    rows: Iterable[Row], settings: CleanSettings, root: Path, look: ClipProbe, reject: Reject
) -> Rows:
    """Yield the rows whose clips pass; one that cannot be read passes, for the stage that needs it
    to set it aside.
    """
    waiting: deque[Row] = deque()

    def requests() -> Iterator[ClipRequest]:
        for row in rows:
            waiting.append(row)
            yield _request(row.sample, root)

    for _, facts in look(requests()):
        row = waiting.popleft()
        found = None if isinstance(facts, VideoError) else clip_fault(facts, settings)
        if found is None:
            yield row
        else:
            reject(row, *found)


def _request(sample: Sample, root: Path) -> ClipRequest:
    try:
        return clip_request(sample, root)
    except VideoError:  # an address: it cannot be read, and passes as such
        return ClipRequest(
            key=clip_key(sample), video=Path(str(sample.video)), start=sample.start, end=sample.end
        )


def clip_fault(facts: ClipFacts, settings: CleanSettings) -> tuple[str, str] | None:
    """Return which filter leaves a clip out, and its number; None where it stays."""
    tests = (
        ("short clip", facts.seconds, settings.min_seconds, "s", False),
        ("long clip", facts.seconds, settings.max_seconds, "s", True),
        ("small frames", facts.shorter, settings.min_side, "pixels", False),
        ("aspect ratio", facts.longer / facts.shorter, settings.max_aspect, "to 1", True),
        ("black", facts.brightness, settings.min_brightness, "of 255", False),
        ("still", facts.motion, settings.min_motion, "of 255", False),
    )
    for reason, value, limit, unit, is_most in tests:
        if (
            limit is not None
            and value is not None
            and (value > limit if is_most else value < limit)
        ):
            return reason, f"{value:.4g} {unit}"
    return None


def _by_source(rows: Iterable[Row], most: int, reject: Reject) -> Rows:
    kept: Counter[str] = Counter()
    for row in rows:
        source = source_of(row.sample)
        if kept[source] >= most:
            reject(row, "over the cap of its source", source)
        else:
            kept[source] += 1
            yield row


def source_of(sample: Sample) -> str:
    """Return the folder that a sample's video lies in; of a list of frames, the folder above that
    of the frames.
    """
    if isinstance(sample.video, str):
        return str(Path(sample.video).parent)
    return str(Path(sample.video[0]).parent.parent) if sample.video else "."


def left_out(path: Path, row: Row, reason: str, detail: str) -> Removed:
    """Return the line of cleaned.jsonl for a row of a file."""
    return Removed(
        unit="sample", id=row.sample.id, reason=reason, detail=detail, where=f"{path}:{row.line}"
    )
