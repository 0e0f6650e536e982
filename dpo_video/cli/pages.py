"""Commands that show a run: the report. `app.py` puts them beside the stages."""

from typing import Annotated

import typer

from dpo_video.cli.arguments import RunFolder, run_path
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
