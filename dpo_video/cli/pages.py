"""Commands that show a run: the report, and the review of its pairs. `app.py` puts them beside the
stages.
"""

from typing import Annotated, Literal

import typer

from dpo_video.cli.arguments import RunFolder, run_path
from dpo_video.core.errors import UserError
from dpo_video.core.progress import print_line


def report(
    run_folder: RunFolder,
    no_video: Annotated[
        bool, typer.Option("--no-video", help="Frames of the clips only, no videos.")
    ] = False,
    clips: Annotated[int, typer.Option(min=0, help="Clips shown with pictures.")] = 200,
    megabytes: Annotated[
        float, typer.Option(min=0, help="Most MB of videos; clips after that show frames only.")
    ] = 200.0,
) -> None:
    """Write RUN/report/report.html: what got better and worse, the funnel, the judge, pairs and
    answers with their clips.
    """
    from dpo_video.pages.clips import ClipLimits
    from dpo_video.pages.report import write_report

    limits = ClipLimits(most=clips, megabytes=megabytes, with_video=not no_video)
    print_line(f"report: {write_report(run_path(run_folder), limits)}")


def review(
    run_folder: RunFolder,
    annotator: Annotated[
        list[str] | None,
        typer.Option(help="Who votes; may be given several times. The user's name when left out."),
    ] = None,
    order: Annotated[
        Literal["doubt", "random", "stratified"],
        typer.Option(help="Pairs that the judge is least sure of first, random, or by category."),
    ] = "doubt",
    n: Annotated[int, typer.Option("--n", min=0, help="Pairs to vote on; 0 for all.")] = 0,
    overlap: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the pairs that everybody votes on, and twice."),
    ] = 0.1,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 0,
    seed: Annotated[
        int | None, typer.Option(help="Draws sides and random pairs; the recipe's when left out.")
    ] = None,
) -> None:
    """Open a page on 127.0.0.1 to vote between the answers of pairs by keys; votes go to
    RUN/votes.jsonl.
    """
    try:
        from dpo_video.review.command import ReviewOptions
        from dpo_video.review.command import review as open_review
    except ModuleNotFoundError as error:
        raise UserError(
            "the review page needs starlette and uvicorn: pip install 'dpo-video[review]' "
            f"({error})"
        ) from error
    options = ReviewOptions(
        annotators=tuple(annotator or ()),
        order=order,
        num_pairs=n,
        overlap=overlap,
        port=port,
        seed=seed,
    )
    open_review(run_path(run_folder), options)
