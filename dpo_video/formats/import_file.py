"""`dpo-video import`: foreign rows to our records, row by row in flat memory, with every drop
counted and kept.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TextIO

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import to_json, write_atomic
from dpo_video.core.names import choose
from dpo_video.core.records import Candidate, Judgment, Sample
from dpo_video.formats.captions import open_captions
from dpo_video.formats.fields import BadRow, Dropped
from dpo_video.formats.ids import Seen, questions_of
from dpo_video.formats.importers import (
    IMPORTERS,
    KINDS,
    TABLE_FIELDS,
    Given,
    Importer,
    Kind,
    Record,
)
from dpo_video.formats.rows import read_rows
from dpo_video.video.sources import REMOTE

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v")
"""Tried where a row names a clip without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """How a file is imported."""

    root: Path | None = None
    """Folder of the clips; None leaves paths as they are, unchecked."""
    captions: str | None = None
    """File of captions, for formats whose rows carry none."""
    samples: Path | None = None
    """Imported questions, by which ids of answers are understood."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our field -> the table's column."""
    skip_bad: bool = False
    """Count rows that are not of the format instead of stopping at the first."""
    check_videos: bool = True
    """Drop rows whose clip is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an import made."""

    rows: int
    kept: int
    dropped: Mapping[str, int]
    kind: Kind
    out: Path
    drops: Path


def import_file(name: str, source: str, out: Path, options: ImportOptions) -> Report:
    """Import a file into `out`, a JSONL of our records; `<out>.drops.jsonl` says for each row
    dropped where and why.

    Raises UserError for an unknown format, a file that cannot be read, or the first row that is not
    of the format.
    """
    importer = choose(IMPORTERS, name, "format")
    _check_options(name, importer, source, out, options)
    if options.root is not None and not options.root.is_dir():
        raise UserError(f"no folder at --video-root {str(options.root)!r}")
    dropped: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    kinds: set[Kind] = set()
    drops = out.with_name(out.name.removesuffix(".jsonl") + ".drops.jsonl")
    drops.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        caption_of: Callable[[str], str | None] = lambda video: None  # noqa: E731
        if options.captions is not None:
            caption_of = stack.enter_context(open_captions(options.captions)).of
        is_question = None if options.samples is None else questions_of(options.samples)
        log = stack.enter_context(drops.open("w", encoding="utf-8"))
        note = _Notes(log, dropped)
        beside = Given(
            fallback_id="", caption_of=caption_of, is_question=is_question, columns=options.columns
        )
        records = _records(importer, source, options, beside, counts, note)
        write_atomic(out, (to_json(record) + "\n" for record in _of_one_kind(records, kinds)))
    if not counts["kept"]:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in dropped.most_common())
        if "no caption" in dropped and options.captions is None:
            reasons += "; give the captions with --captions FILE"
        raise UserError(
            f"nothing of {source!r} could be used as {name}: {reasons or 'it has no rows'}. Each "
            f"row's "
            f"reason is in {str(drops)!r}"
        )
    return Report(
        rows=counts["rows"],
        kept=counts["kept"],
        dropped=dict(dropped.most_common()),
        kind=kinds.pop(),
        out=out,
        drops=drops,
    )


def _check_options(
    name: str, importer: Importer, source: str, out: Path, options: ImportOptions
) -> None:
    """Refuse options that the format would not read, and an output that is an input."""
    for column in options.columns:
        if name != "table":
            raise UserError(
                f"--map is for the format `table`; {name} has its own field names. Leave it out"
            )
        choose(dict.fromkeys(TABLE_FIELDS), column, "field in --map")
    if options.captions is not None and importer.kind not in ("samples", None):
        raise UserError(
            f"--captions is for formats of samples; {name} has {importer.kind}. Leave it out"
        )
    if options.samples is not None and importer.kind not in ("candidates", "judgments"):
        raise UserError(
            f"--samples is for formats of candidates and judgments, and {name} is of others. Leave "
            f"it out"
        )
    if any(
        given is not None and Path(given).expanduser().resolve() == out.resolve()
        for given in (source, options.captions, options.samples)
    ):
        raise UserError(f"--out is {str(out)!r}, which is read: name another file")


def _of_one_kind(records: Iterator[Record], kinds: set[Kind]) -> Iterator[Record]:
    """Yield records, and leave their kind in `kinds`; a table of pairs in one row and samples in
    the next is wrong.
    """
    for record in records:
        kinds.add(KINDS[type(record)])
        if len(kinds) > 1:
            raise UserError(
                f"rows of two kinds in one file, {' and '.join(sorted(kinds))}: import them apart"
            )
        yield record


@dataclass(frozen=True, slots=True)
class _Notes:
    """Where drops are written down."""

    log: TextIO
    dropped: Counter[str]

    def add(self, where: str, reason: str, detail: str) -> None:
        self.dropped[reason] += 1
        self.log.write(
            json.dumps({"where": where, "reason": reason, "detail": detail}, ensure_ascii=False)
            + "\n"
        )


def _records(
    importer: Importer,
    source: str,
    options: ImportOptions,
    beside: Given,
    counts: Counter[str],
    note: _Notes,
) -> Iterator[Record]:
    """Yield what the rows of a file become, ids unique and videos under the root."""
    seen = Seen()
    for where, row in read_rows(source):
        counts["rows"] += 1
        given = replace(beside, fallback_id=f"row{counts['rows']}")
        try:
            for record in importer.read(row, given):
                try:
                    yield seen.take(_placed(record, options))
                    counts["kept"] += 1
                except Dropped as error:
                    note.add(where, error.reason, error.detail)
        except Dropped as error:
            note.add(where, error.reason, error.detail)
        except BadRow as error:
            if not options.skip_bad:
                raise UserError(
                    f"{where}: {error}. With --skip-bad such rows are counted and left out"
                ) from error
            note.add(where, "not of the format", str(error))


def _placed(record: Record, options: ImportOptions) -> Record:
    """Return a record with its videos under the root."""
    if isinstance(record, Candidate | Judgment) or options.root is None:
        return record
    place = partial(place_video, root=options.root, check=options.check_videos)
    if isinstance(record, Sample) or record.rejected_video is None:
        return replace(record, video=place(record.video))
    return replace(record, video=place(record.video), rejected_video=place(record.rejected_video))


def place_video(video: str | list[str], root: Path, *, check: bool) -> str | list[str]:
    """Return a clip's path relative to `root`; one outside of it, or, with `check`, one that is not
    there, is dropped.

    `..` and absolute paths cannot leave the root; links that lie inside it are followed. A name
    without a suffix is a folder of frames or the video file of that name.
    """
    if not isinstance(video, str):
        return [_place(name, root, check=check) for name in video]
    return _place(video, root, check=check)


def _place(name: str, root: Path, *, check: bool) -> str:
    if REMOTE.match(name):
        raise Dropped("remote video", name[:80])
    if not name.strip():
        raise Dropped("no video")
    top = os.path.abspath(root)
    path = os.path.normpath(os.path.join(top, name))
    if os.path.commonpath([top, path]) != top or path == top:
        raise Dropped("video outside the root", name[:120])
    found = (
        path if not check else next((one for one in _spellings(path) if os.path.exists(one)), None)
    )
    if found is None:
        raise Dropped("no such video", name[:120])
    return os.path.relpath(found, top)


def _spellings(path: str) -> Sequence[str]:
    return (
        [path]
        if os.path.splitext(path)[1]
        else [path, *(path + suffix for suffix in VIDEO_SUFFIXES)]
    )
