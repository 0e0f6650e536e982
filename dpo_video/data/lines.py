"""Lines of a data file: samples or pairs, each checked; a file with bad lines is told with up to
twenty of them.
"""

import difflib
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from dpo_video.core.control_tokens import ControlTokens
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import as_row, from_dict, try_rows
from dpo_video.core.records import EarlierTurn, History, Pair, Sample
from dpo_video.core.text import TAG
from dpo_video.core.turns import texts_before
from dpo_video.data.choices import check_choice
from dpo_video.data.removed import Removed
from dpo_video.video.sources import check_inside

MAX_SHOWN = 20
"""Bad lines of a file that are shown; the others are counted."""
LONGEST_PATH = 4096
"""Characters of a path that an operating system takes."""
SYNONYMS = {
    "question": "prompt",
    "query": "prompt",
    "instruction": "prompt",
    "text": "prompt",
    "clip": "video",
    "path": "video",
    "video_path": "video",
    "description": "caption",
    "dense_caption": "caption",
    "ground_truth": "answer",
    "gt": "answer",
    "reference": "answer",
    "sample_id": "id",
    "question_id": "id",
    "start_time": "start",
    "video_start": "start",
    "end_time": "end",
    "video_end": "end",
}
"""What other projects call a field of ours."""


class Fault(NamedTuple):
    """Why a line is left out: the filter, and what it saw."""

    reason: str
    detail: str


class SampleLine(NamedTuple):
    """A sample, where it stands (file:line), and why it is left out, if it is."""

    where: str
    sample: Sample
    fault: Fault | None = None
    num_stripped: int = 0
    """Answers that lost the end token which closed them."""


class PairLine(NamedTuple):
    """A pair, where it stands (file:line), and why it is left out, if it is."""

    where: str
    pair: Pair
    fault: Fault | None = None
    num_stripped: int = 0
    """Answers that lost the end token which closed them."""


def removed_row(line: SampleLine | PairLine) -> Removed:
    """Return the row of cleaned.jsonl for a line that is left out."""
    assert line.fault is not None
    reason, detail = line.fault
    if isinstance(line, PairLine):
        return Removed(
            unit="pair", id=line.pair.sample_id, reason=reason, detail=detail, where=line.where
        )
    return Removed(unit="sample", id=line.sample.id, reason=reason, detail=detail, where=line.where)


def read_samples(path: Path, tokens: ControlTokens) -> Generator[SampleLine, None, None]:
    """Yield the samples of a file whose lines `check_samples` has passed."""
    for number, row in try_rows(path, "Sample records"):
        where = f"{path}:{number}"
        if isinstance(row, UserError):
            raise row
        yield _screen_sample(SampleLine(where, sample_of(row, where)), tokens)


def check_samples(path: Path, *, inside: Path | None, needs_caption: bool) -> tuple[str, ...]:
    """Return the fields of a file of samples that only `meta` keeps.

    Raises UserError with up to twenty bad lines: no JSON, unknown or missing fields, an id that
    stands twice, a text that says nothing, a clip that ends before it starts, one that lies outside
    of the folder `inside`, a choice without a right answer.

    Args:
        needs_caption: whether every sample must have one, as those whose answers are judged for
            training.
    """
    first_lines: dict[str, int] = {}
    clips_inside: set[str | tuple[str, ...]] = set()  # several questions are about one clip
    meta_fields: dict[str, None] = {}

    def check(number: int, row: Mapping[str, Any]) -> None:
        where = f"{path}:{number}"
        sample = sample_of(row, where)
        if sample.id in first_lines:
            raise UserError(
                f"{where}: the id {sample.id!r} stands in line {first_lines[sample.id]} already; "
                "ids must be unique"
            )
        first_lines[sample.id] = number
        if needs_caption and sample.caption is None:
            raise UserError(
                f"{where}: missing `caption`. Every sample to train on needs the detailed caption "
                "that the judge scores answers against"
            )
        required = ("id", "video", "prompt", *(() if sample.caption is None else ("caption",)))
        _check_content(sample, where, required=required)
        check_choice(sample, where)
        clip = sample.video if isinstance(sample.video, str) else tuple(sample.video)
        if inside is not None and clip not in clips_inside:
            check_inside(sample.video, inside, where)
            clips_inside.add(clip)
        meta_fields.update(dict.fromkeys(_unknown_fields(row)))

    _check_lines(path, "Sample records", check)
    return tuple(meta_fields)


def check_pairs(path: Path, *, inside: Path | None) -> None:
    """Raise UserError with up to twenty bad lines of a file of pairs; as in `check_samples`."""

    def check(number: int, row: Mapping[str, Any]) -> None:
        where = f"{path}:{number}"
        pair = from_dict(Pair, row, where)
        _check_content(pair, where, required=("video", "prompt", "chosen"))
        if inside is not None:
            check_inside(pair.video, inside, where)
            check_inside(pair.rejected_video or [], inside, where)

    _check_lines(path, "Pair records", check)


def read_pairs(path: Path, tokens: ControlTokens) -> Iterator[PairLine]:
    """Yield the pairs of a file that `check_pairs` has passed."""
    for number, row in try_rows(path, "Pair records"):
        where = f"{path}:{number}"
        if isinstance(row, UserError):
            raise row
        pair = from_dict(Pair, row, where)
        chosen, rejected = tokens.without_end(pair.chosen), tokens.without_end(pair.rejected)
        history = _without_ends(pair.history, tokens)
        num_stripped = (chosen != pair.chosen) + (rejected != pair.rejected)
        num_stripped += _num_changed(pair.history, history)
        if num_stripped or history != pair.history:
            pair = replace(pair, chosen=chosen, rejected=rejected, history=history)
        texts = texts_before(history)
        texts |= {"prompt": pair.prompt, "chosen": chosen, "rejected": rejected}
        yield PairLine(where, pair, control_fault(texts, tokens), num_stripped)


def sample_of(row: Mapping[str, Any], where: str) -> Sample:
    """Return the sample of a row; fields that are not ours stand in its `meta`.

    Raises UserError for a field that is meant to be one of ours which the row lacks.
    """
    unknown = _unknown_fields(row)
    for name in unknown:
        field_name = SYNONYMS.get(name) or _typo_of(name)
        if field_name is not None and field_name not in row:
            raise UserError(
                f"{where}: unknown field `{name}`. Did you mean `{field_name}`? Rename it, or put "
                f"what is yours alone under `meta`. A Sample has: {', '.join(SAMPLE_FIELDS)}"
            )
    if not unknown:
        return from_dict(Sample, row, where)
    own_fields = {name: value for name, value in row.items() if name in SAMPLE_FIELDS}
    sample = from_dict(Sample, own_fields, where)
    return replace(sample, meta={**(sample.meta or {}), **unknown})


def control_fault(texts: Mapping[str, str], tokens: ControlTokens) -> Fault | None:
    """Return why texts of a record cannot be used: the first control token in one of them."""
    for name, text in texts.items():
        token = tokens.first_in(text)
        if token is not None:
            return Fault("control token", f"{token} in `{name}`")
    return None


def _screen_sample(line: SampleLine, tokens: ControlTokens) -> SampleLine:
    """Return a line with its answers' end tokens stripped, or marked where another control token
    stands in it.
    """
    sample = line.sample
    answer = tokens.without_end(sample.answer or "")
    history = _without_ends(sample.history, tokens)
    is_stripped = answer != (sample.answer or "")
    num_stripped = is_stripped + _num_changed(sample.history, history)
    if is_stripped:
        sample = replace(sample, answer=answer)
    if history != sample.history:
        sample = replace(sample, history=history)
    fault = control_fault(
        {**texts_before(history), "prompt": sample.prompt, "answer": answer}, tokens
    )
    return SampleLine(line.where, sample, fault, num_stripped)


def _without_ends(history: History, tokens: ControlTokens) -> History:
    """Return earlier turns without the end tokens that close their answers."""
    if not history:
        return None
    return tuple(
        EarlierTurn(question=turn.question, answer=tokens.without_end(turn.answer))
        for turn in history
    )


def _num_changed(history: History, stripped: History) -> int:
    turns = zip(history or (), stripped or (), strict=True)
    return sum(turn != other for turn, other in turns)


def _check_lines(path: Path, content: str, check: Callable[[int, Mapping[str, Any]], None]) -> None:
    errors = _line_errors(path, content, check)
    first_errors = list(islice(errors, MAX_SHOWN))
    num_more = sum(1 for _ in errors)
    if len(first_errors) == 1:
        raise UserError(first_errors[0])
    if first_errors:
        ending = f"\nand {num_more} more lines" if num_more else ""
        raise UserError(
            f"{len(first_errors) + num_more} lines of {str(path)!r} are wrong:\n"
            + "\n".join(first_errors)
            + ending
        )


def _line_errors(
    path: Path, content: str, check: Callable[[int, Mapping[str, Any]], None]
) -> Iterator[str]:
    for number, row in try_rows(path, content):
        if isinstance(row, UserError):
            yield str(row)
            continue
        try:
            check(number, row)
        except UserError as error:
            yield str(error)


def _check_content(record: Sample | Pair, where: str, *, required: Sequence[str]) -> None:
    """Refuse a field that says nothing, a text that is no prompt, a video that is no path, and a
    clip that ends before it starts.
    """
    row = as_row(record)
    for name in required:
        if _says_nothing(row[name]):
            why = ". The judge scores answers against it" if name == "caption" else ""
            raise UserError(f"{where}: `{name}` is empty{why}. Fill it in, or leave the line out")
    for video in _video_names(record):
        if is_inline(video):
            raise UserError(
                f"{where}: `video` holds the clip itself ({len(video):,} characters, beginning "
                f"{video[:40]!r}), and must be the path of a file. Save the clip, and name its file"
            )
    _check_history(record.history, where)
    for name, question in _questions(record):
        if (tag := TAG.search(question)) is not None:
            raise UserError(
                f"{where}: {name} contains {tag[0].strip()!r}, which other projects write for the "
                "clip; the model would read it as text, or as its own video token. Remove it: the "
                "chat template puts the clip of `video` into the first question"
            )
    start, end = record.start or 0.0, record.end
    if not 0 <= start < math.inf or (end is not None and not start < end < math.inf):
        raise UserError(
            f"{where}: the clip starts at {start:g} and ends at "
            f"{end if end is None else format(end, 'g')} "
            "seconds: `start` must be 0 or later, and `end` after it"
        )


def _check_history(history: History, where: str) -> None:
    """Refuse an earlier turn that asks or answers nothing."""
    for number, turn in enumerate(history or (), start=1):
        for name, text in (("question", turn.question), ("answer", turn.answer)):
            if not text.strip():
                raise UserError(
                    f"{where}: `history`, turn {number}: `{name}` is empty. Every turn needs a "
                    "question and its answer: fill it in, or leave the turns out"
                )


def _questions(record: Sample | Pair) -> Iterator[tuple[str, str]]:
    """Yield all that is asked, by what errors call it."""
    for number, turn in enumerate(record.history or (), start=1):
        yield f"`history`, turn {number}: `question`", turn.question
    yield "`prompt`", record.prompt


def _video_names(record: Sample | Pair) -> Iterator[str]:
    """Yield the files of a record's clips."""
    videos = [record.video]
    if isinstance(record, Pair) and record.rejected_video is not None:
        videos.append(record.rejected_video)
    for video in videos:
        yield from [video] if isinstance(video, str) else video


def is_inline(video: str) -> bool:
    """Return whether a `video` is a clip's bytes in letters (`data:` address, base64) and no
    path.
    """
    return video.startswith("data:") or len(video) > LONGEST_PATH


def _says_nothing(value: str | Sequence[str]) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return not value or not all(name.strip() for name in value)


def _typo_of(name: str) -> str | None:
    return next(iter(difflib.get_close_matches(name, SAMPLE_FIELDS, n=1, cutoff=0.75)), None)


def _unknown_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in SAMPLE_FIELDS}


SAMPLE_FIELDS = tuple(field.name for field in fields(Sample))
