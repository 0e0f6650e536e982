"""Commands about data: formats in and out, answers scored. `app.py` puts them beside the stages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from dpo_video.cli.arguments import Overrides, RunFolder, run_path
from dpo_video.core.errors import UserError
from dpo_video.core.progress import print_line
from dpo_video.core.text import shortened
from dpo_video.recipe.file import change_recipe

MAX_UNREAD_FIELDS = 20
"""Fields of imported rows that are named; of more the number is told."""


def import_(  # noqa: PLR0913 - options of a command
    name: Annotated[str, typer.Argument(metavar="FORMAT", help="See `dpo-video list formats`.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="JSONL, JSON, CSV, TSV, Parquet, a saved dataset's folder, or hf:NAME[:SPLIT]; "
            "of a benchmark one of its files, or the folder of them.",
        ),
    ],
    out_file: Annotated[str, typer.Option("--out", help="JSONL to write.")],
    video_root: Annotated[
        str, typer.Option(help="Folder of the clips; rows with others are dropped.")
    ] = "",
    captions: Annotated[str, typer.Option(help="File of captions, for formats without.")] = "",
    samples: Annotated[
        str, typer.Option(help="Imported questions, for hound_predictions and hound_judgments.")
    ] = "",
    columns: Annotated[
        str, typer.Option("--map", help="Column map of `table`: prompt=question,chosen=good.")
    ] = "",
    skip_bad: Annotated[
        bool, typer.Option(help="Count rows that are not of the format instead of stopping.")
    ] = False,
    check_videos: Annotated[bool, typer.Option(help="Drop rows whose clip is not there.")] = True,
) -> None:
    """Import samples, candidates, judgments, pairs or votes from another project's format; every
    drop is counted.
    """
    from dpo_video.formats.import_file import ImportOptions, import_file

    report = import_file(
        name,
        source,
        Path(out_file),
        ImportOptions(
            root=Path(video_root).expanduser() if video_root else None,
            captions=captions or None,
            samples=Path(samples).expanduser() if samples else None,
            columns=_column_map(columns),
            skip_bad=skip_bad,
            check_videos=check_videos,
        ),
    )
    reasons = ", ".join(f"{reason} {count}" for reason, count in report.dropped.items()) or "none"
    print_line(
        f"{report.num_rows} rows read, {report.num_kept} {report.kind} kept; dropped: {reasons}; "
        f"{report.out_path}, reasons in {report.drops_path}"
    )
    _tell_unread(report.unread)


def _column_map(text: str) -> dict[str, str]:
    """Return the columns that `--map` gives our fields."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    if not all(ours and theirs for ours, _, theirs in pairs):
        raise UserError(
            f"--map is {text!r}: write it as our_field=column, e.g. prompt=question,chosen=good"
        )
    return {ours: theirs for ours, _, theirs in pairs}


def _tell_unread(counts: Mapping[str, int]) -> None:
    """Say which fields nothing read, and in how many rows each stands."""
    if not counts:
        return
    shown = list(counts.items())[:MAX_UNREAD_FIELDS]
    fields = ", ".join(f"{shortened(name)} ({count})" for name, count in shown)
    if len(counts) > MAX_UNREAD_FIELDS:
        fields += f" and {len(counts) - MAX_UNREAD_FIELDS} more"
    print_line(f"not read, by field (rows): {fields}")


def export(
    name: Annotated[str, typer.Argument(metavar="FORMAT", help="See `dpo-video list formats`.")],
    run_folder: RunFolder,
    out_file: Annotated[
        str,
        typer.Option(
            "--out",
            help="File to write: .json is a JSON list, any other has an object a line. With "
            "--with-clips a new folder.",
        ),
    ],
    overrides: Overrides = None,
    threshold: Annotated[
        float | None, typer.Option(help="Least score of a best answer; else the scorer's.")
    ] = None,
    with_clips: Annotated[
        bool,
        typer.Option("--with-clips", help="Write a folder with the clips, as `datasets` loads it."),
    ] = False,
) -> None:
    """Export a run's pairs for another trainer or for votes, or its best answers as SFT data, with
    a card that tells what they are.
    """
    from dpo_video.cards.export import export_with_card
    from dpo_video.run import recipe_of

    folder = run_path(run_folder)
    made = export_with_card(
        folder,
        change_recipe(recipe_of(folder), overrides or []),
        name,
        Path(out_file),
        threshold=threshold,
        with_clips=with_clips,
    )
    dropped = made.report.dropped
    reasons = ", ".join(f"{reason} {count}" for reason, count in dropped.items()) or "none"
    print_line(
        f"{made.report.num_rows} rows written; dropped: {reasons}; {out_file}; card: {made.card}"
    )


def score(
    samples: Annotated[
        str, typer.Argument(metavar="SAMPLES", help="Questions, as `dpo-video import` writes them.")
    ],
    answer_files: Annotated[
        list[str],
        typer.Argument(
            metavar="ANSWERS...",
            help="JSONL with id and answer, or predictions as the benchmark's authors publish "
            "them; several files are put together.",
        ),
    ],
    parser: Annotated[
        str, typer.Option(help="The rule whose numbers come first: strict or published.")
    ] = "strict",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    refuse_missing: Annotated[
        bool, typer.Option(help="Stop where a question has no answer instead of counting it wrong.")
    ] = False,
    judge: Annotated[
        str,
        typer.Option(
            help="Who rates answers in words: a recipe, or judge.model=NAME,judge.base_url=URL."
        ),
    ] = "",
    replies: Annotated[
        str,
        typer.Option(help="Folder that keeps the judge's replies; else ANSWERS.replies."),
    ] = "",
) -> None:
    """Score answers that were made elsewhere, by the strict rule and by the benchmark's own."""
    from dpo_video.benchmarks.command import ScoreOptions, score_command

    score_command(
        Path(samples).expanduser(),
        [Path(name).expanduser() for name in answer_files],
        ScoreOptions(
            parser=parser,
            as_json=as_json,
            refuse_missing=refuse_missing,
            judge=judge,
            replies=Path(replies).expanduser() if replies else None,
        ),
    )
