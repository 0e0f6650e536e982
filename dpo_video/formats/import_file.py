"""`dpo-video import`: foreign rows to our records, row by row in flat memory, with every drop
counted and kept.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TextIO
from urllib.parse import unquote, urlsplit

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import to_json, write_atomic
from dpo_video.core.names import choose
from dpo_video.core.records import Candidate, Judgment, Sample, Vote
from dpo_video.data.lines import is_inline
from dpo_video.formats.captions import open_captions
from dpo_video.formats.context import ImportContext, Video
from dpo_video.formats.fields import BadRow, Dropped, ReadRow
from dpo_video.formats.foreign_samples import TABLE_FIELDS
from dpo_video.formats.ids import UniqueIds, questions_of
from dpo_video.formats.importers import (
    IMPORTERS,
    KINDS,
    ImportedRecord,
    Importer,
    RecordKind,
)
from dpo_video.formats.rows import read_foreign_rows
from dpo_video.video.sources import REMOTE, path_outside

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
class ImportReport:
    """What an import made."""

    num_rows: int
    num_kept: int
    dropped: Mapping[str, int]
    """What could not be used, by reason."""
    unread: Mapping[str, int]
    """Fields of the rows that nothing here reads, with the rows that have them."""
    kind: RecordKind
    out_path: Path
    drops_path: Path


class DroppedRow(NamedTuple):
    """A row, or a part of one, that is left out."""

    where: str
    reason: str
    detail: str


class RowDone(NamedTuple):
    """The end of a row, with the fields that nothing here has read."""

    fields_unread: Sequence[str]


class _ImportLog:
    """What comes out of the rows, counted; drops are written down as they come."""

    def __init__(self, drops: TextIO) -> None:
        self._drops = drops
        self.num_rows = self.num_kept = 0
        self.dropped: Counter[str] = Counter()
        self.unread: Counter[str] = Counter()
        self.kind: RecordKind | None = None

    def lines(self, outcomes: Iterator[ImportedRecord | DroppedRow | RowDone]) -> Iterator[str]:
        """Yield the records among the outcomes as lines of JSON; note everything.

        Raises UserError for a table of pairs in one row and samples in the next.
        """
        for outcome in outcomes:
            if isinstance(outcome, DroppedRow):
                self.dropped[outcome.reason] += 1
                self._drops.write(strict_json.dumps(outcome._asdict(), ensure_ascii=False) + "\n")
            elif isinstance(outcome, RowDone):
                self.num_rows += 1
                self.unread.update(outcome.fields_unread)
            else:
                kind = KINDS[type(outcome)]
                if self.kind not in (None, kind):
                    raise UserError(
                        f"rows of two kinds in one file, {self.kind} and {kind}: import them apart"
                    )
                self.kind = kind
                self.num_kept += 1
                yield to_json(outcome) + "\n"


def import_file(name: str, source: str, out_path: Path, options: ImportOptions) -> ImportReport:
    """Import a file into `out_path`, a JSONL of our records; `<out>.drops.jsonl` says for each row
    dropped where and why.

    Raises UserError for an unknown format, a file that cannot be read, or the first row that is not
    of the format.
    """
    importer = choose(IMPORTERS, name, "format")
    _check_options(name, importer, source, out_path, options)
    if options.root is not None and not options.root.is_dir():
        raise UserError(f"no folder at --video-root {str(options.root)!r}")
    drops_path = out_path.with_name(out_path.name.removesuffix(".jsonl") + ".drops.jsonl")
    drops_path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        context = _context(stack, options)
        log = _ImportLog(stack.enter_context(drops_path.open("w", encoding="utf-8")))
        outcomes = _outcomes(importer, source, options, context)
        write_atomic(out_path, log.lines(outcomes))
    if log.kind is None:
        raise UserError(_why_nothing(name, source, log.dropped, options, drops_path))
    return ImportReport(
        num_rows=log.num_rows,
        num_kept=log.num_kept,
        dropped=dict(log.dropped.most_common()),
        unread=dict(log.unread.most_common()),
        kind=log.kind,
        out_path=out_path,
        drops_path=drops_path,
    )


def _context(stack: ExitStack, options: ImportOptions) -> ImportContext:
    """Return what importers have beside a row, the file of captions open as long as the stack."""
    caption_of: Callable[[str], str | None] = lambda video: None  # noqa: E731
    if options.captions is not None:
        caption_of = stack.enter_context(open_captions(options.captions)).of
    return ImportContext(
        fallback_id="",
        caption_of=caption_of,
        is_question=None if options.samples is None else questions_of(options.samples),
        columns=options.columns,
    )


def _why_nothing(
    name: str, source: str, dropped: Counter[str], options: ImportOptions, drops_path: Path
) -> str:
    reasons = ", ".join(f"{reason} ({count})" for reason, count in dropped.most_common())
    if "no caption" in dropped and options.captions is None:
        reasons += "; give the captions with --captions FILE"
    return (
        f"nothing of {source!r} could be used as {name}: {reasons or 'it has no rows'}. Each row's "
        f"reason is in {str(drops_path)!r}"
    )


def _check_options(
    name: str, importer: Importer, source: str, out_path: Path, options: ImportOptions
) -> None:
    """Refuse options that the format would not read, and an output that is an input."""
    for column in options.columns:
        if name != "table":
            raise UserError(
                f"--map is for the format `table`; {name} has its own field names. Leave it out"
            )
        choose(dict.fromkeys(TABLE_FIELDS), column, "field in --map")
    if importer.read_benchmark is not None and (options.captions or options.skip_bad):
        raise UserError(
            f"{name} is a benchmark, whose questions need no captions and whose files are read "
            "whole: leave out --captions and --skip-bad"
        )
    if options.captions is not None and importer.kind not in ("samples", None):
        raise UserError(
            f"--captions is for formats of samples; {name} has {importer.kind}. Leave it out"
        )
    if options.samples is not None and importer.kind not in ("candidates", "judgments"):
        raise UserError(
            f"--samples is for formats of candidates and judgments, and {name} is of others. Leave "
            f"it out"
        )
    if importer.kind == "votes" and out_path.exists():
        raise UserError(
            f"--out {str(out_path)!r} is there, and votes are never written over: name a new file. "
            "Its lines may be added to a run's votes.jsonl; a vote that stands twice counts once"
        )
    if any(
        path is not None and Path(path).expanduser().resolve() == out_path.resolve()
        for path in (source, options.captions, options.samples)
    ):
        raise UserError(f"--out is {str(out_path)!r}, which is read: name another file")


def _outcomes(
    importer: Importer, source: str, options: ImportOptions, context: ImportContext
) -> Iterator[ImportedRecord | DroppedRow | RowDone]:
    """Yield what the rows of a file become, ids unique and videos under the root."""
    unique = UniqueIds()
    if importer.read_benchmark is not None:
        for sample in importer.read_benchmark(Path(source).expanduser(), options.root):
            yield _placed_once(sample, f"question {sample.id}", options, unique)
            yield RowDone(())
        return
    assert importer.read is not None, "a format reads rows, or the files of a benchmark"
    for number, (where, foreign_row) in enumerate(read_foreign_rows(source), start=1):
        row = ReadRow(foreign_row)
        try:
            for record in importer.read(row, replace(context, fallback_id=f"row{number}")):
                yield _placed_once(record, where, options, unique)
        except Dropped as error:
            yield DroppedRow(where, error.reason, error.detail)
        except BadRow as error:
            if not options.skip_bad:
                raise UserError(
                    f"{where}: {error}. With --skip-bad such rows are counted and left out"
                ) from error
            yield DroppedRow(where, "not of the format", str(error))
        yield RowDone(row.fields_unread())


def _placed_once(
    record: ImportedRecord | Dropped, where: str, options: ImportOptions, unique: UniqueIds
) -> ImportedRecord | DroppedRow:
    """Return a record with its videos under the root, or why it is left out."""
    try:
        if isinstance(record, Dropped):
            raise record
        return unique.take(_placed(record, options))
    except Dropped as error:
        return DroppedRow(where, error.reason, error.detail)


def _placed(record: ImportedRecord, options: ImportOptions) -> ImportedRecord:
    """Return a record with its videos under the root."""
    if isinstance(record, Candidate | Judgment | Vote):
        return record
    relative: Callable[[Video], Video]
    if options.root is None:
        relative = _outside_of_a_root
    else:
        relative = partial(place_video, root=options.root, check=options.check_videos)
    if isinstance(record, Sample) or record.rejected_video is None:
        return replace(record, video=relative(record.video))
    return replace(
        record, video=relative(record.video), rejected_video=relative(record.rejected_video)
    )


def _outside_of_a_root(video: Video) -> Video:
    """Return a clip's path as it stands, but for a clip that stands in the row itself."""
    for name in [video] if isinstance(video, str) else video:
        _refuse_inline(name)
    return video


def _refuse_inline(name: str) -> None:
    if is_inline(name):
        raise Dropped("video inside the row", f"{name[:40]}... ({len(name)} characters)")


def place_video(video: Video, root: Path, *, check: bool) -> Video:
    """Return a clip's path relative to `root`; one outside of it, or, with `check`, one that is not
    there, is dropped.

    `..`, absolute paths and links cannot leave the root, as they cannot in a run. A name
    without a suffix is a folder of frames or the video file of that name.
    """
    if not isinstance(video, str):
        return [_place(name, root, check=check) for name in video]
    return _place(video, root, check=check)


def _place(name: str, root: Path, *, check: bool) -> str:
    _refuse_inline(name)
    name = _local_name(name)
    if not name.strip():
        raise Dropped("no video")
    top = os.path.abspath(root)
    path = os.path.normpath(os.path.join(top, name))
    if os.path.commonpath([top, path]) != top or path == top:
        raise Dropped("video outside the root", name[:120])
    existing = [spelling for spelling in _spellings(path) if os.path.exists(spelling)]
    if check and not existing:
        raise Dropped("no such video", name[:120])
    found = existing[0] if check else path
    if path_outside(Path(found), root) is not None:
        raise Dropped("video outside the root", name[:120])
    return os.path.relpath(found, top)


def _local_name(name: str) -> str:
    """Return a path, or that of a `file://` address of this machine; other addresses are
    dropped.
    """
    if not REMOTE.match(name):
        return name
    address = urlsplit(name)
    if address.scheme.lower() != "file" or address.netloc not in ("", "localhost"):
        raise Dropped("remote video", name[:80])
    return unquote(address.path)


def _spellings(path: str) -> Sequence[str]:
    """Return the paths that a name may mean: as it stands and in either form of Unicode, each with
    a video's suffix where it has none; `lesson.part1` has none.
    """
    forms = (unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
    names = list(dict.fromkeys((path, *forms)))
    if os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES:
        return names
    return [name + suffix for suffix in ("", *VIDEO_SUFFIXES) for name in names]
