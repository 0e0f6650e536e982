"""Commands that look before anything is paid for: the plan of a run, the frames of a clip. `app.py`
puts them beside the stages.
"""

from pathlib import Path
from typing import Annotated

import typer

from dpo_video.cli.arguments import AsJson, Overrides, RecipeName
from dpo_video.cli.output import only_json, print_json
from dpo_video.core.errors import UserError
from dpo_video.core.imports import large_imports
from dpo_video.core.names import choose
from dpo_video.core.progress import open_terminal, print_line
from dpo_video.recipe import ModelSettings
from dpo_video.recipe.file import load_recipe, load_video_settings

COLUMNS = 100
"""Of a plan where the output is no terminal."""


def check(
    recipe: RecipeName,
    overrides: Overrides = None,
    no_judge: Annotated[
        bool, typer.Option("--no-judge", help="Do not ask the judge a first prompt.")
    ] = False,
    no_sample: Annotated[
        bool,
        typer.Option(
            "--no-sample",
            help="Do not answer and train on a few samples, which is done where the model is on "
            "this disk and small enough, to tell how long a run takes.",
        ),
    ] = False,
    gpu: Annotated[
        str, typer.Option(help="Estimate the times for this GPU; see `dpo-video list gpus`.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Validate everything and print tokens and frames per clip, memory, steps, judge calls with
    their cost, and how long each stage takes; train nothing.
    """
    settings = load_recipe(recipe, overrides or [])
    from dpo_video.check.data import load_data

    try:
        data = load_data(settings)  # first: wrong data need no model to be seen
    except UserError as error:
        if as_json:
            problems = str(error).splitlines()
            print_json({"recipe": settings.name, "problems": problems})
        raise
    with large_imports():
        from dpo_video.check.command import CheckOptions
        from dpo_video.check.command import check as make_plan
        from dpo_video.check.plan import plan_row, plan_text

    options = CheckOptions(ask_judges=not no_judge, measure=not no_sample, gpu=gpu)
    with only_json(as_json):
        plan = make_plan(settings, data, options)
    if as_json:
        print_json(plan_row(plan))
    else:
        print_line(plan_text(plan, width=open_terminal(width=COLUMNS).width))
    if plan.problems:
        raise UserError(
            f"{len(plan.problems)} problem(s) {'' if as_json else 'above '}stand in the way of "
            f"`dpo-video run {recipe}`"
        )


def frames(
    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEO... [video.KEY=VALUE]...",
            help="Video files or folders of frames, and settings that replace the recipe's.",
        ),
    ],
    recipe: Annotated[str, typer.Option(help="Recipe whose model and video settings count.")] = "",
    family: Annotated[
        str, typer.Option(help="Model family, with a well-known checkpoint's numbers.")
    ] = "",
    model: Annotated[str, typer.Option(help="Checkpoint: a folder, a hub id or toy:NAME.")] = "",
    start: Annotated[
        float | None, typer.Option(help="Seconds into the file where the clip begins.")
    ] = None,
    end: Annotated[
        float | None, typer.Option(help="Seconds into the file where the clip ends.")
    ] = None,
    sheet_file: Annotated[
        str,
        typer.Option(
            "--out",
            help="Contact sheet; when left out <clip>.frames.png, of several clips frames.png.",
        ),
    ] = "",
) -> None:
    """Show which frames of clips a model will see, and what they cost; write them as a contact
    sheet.
    """
    from dpo_video.models.names import FAMILY_NAMES, resolve_model

    clips, overrides = _clips_and_settings(videos)
    if sum(map(bool, (recipe, family, model))) != 1:
        raise UserError(
            "say whose eyes to look through: one of --family F, --model NAME, --recipe RECIPE"
        )
    if recipe:
        loaded = load_recipe(recipe, overrides)
        policy, settings = loaded.model, loaded.video
    else:
        settings = load_video_settings(overrides)
        policy = ModelSettings(name=model)
    if family:
        choose(dict.fromkeys(FAMILY_NAMES), family, "family")
    else:
        resolve_model(policy.name)
    sheet = _sheet_path(clips, sheet_file)
    for clip in clips:
        _check_clip(clip, start, end)
    with large_imports():
        from dpo_video.check.preview import frames_of_clips, published_model

    policy = published_model(family) if family else policy
    printed = frames_of_clips(clips, policy, settings, sheet=sheet, start=start, end=end)
    paragraphs = ["\n".join(f"{name:<15}{text}" for name, text in rows) for rows in printed]
    print_line("\n\n".join(paragraphs))


def _clips_and_settings(words: list[str]) -> tuple[list[Path], list[str]]:
    """Return the clips, each once, and the settings among the words of a command; a file may have
    an equals sign in its name.
    """
    clips: dict[Path, None] = {}
    settings = []
    for word in words:
        if "=" in word and not Path(word).exists():
            settings.append(word)
        else:
            clips[Path(word)] = None
    if not clips:
        raise UserError("name a video file or a folder of frames beside the settings")
    return list(clips), settings


def _sheet_path(clips: list[Path], name: str) -> Path:
    """Return where the sheet goes: as told, or into the current folder, under the clip's name."""
    from dpo_video.video.images import is_image

    first = clips[0].stem if clips[0].is_file() else clips[0].name
    path = Path(name or (f"{first}.frames.png" if len(clips) == 1 else "frames.png"))
    if not is_image(path):
        raise UserError(f"--out is {name!r}: name a picture, such as sheet.png")
    if not path.parent.is_dir():
        raise UserError(f"no folder {str(path.parent)!r} to write the sheet to")
    return path


def _check_clip(video: Path, start: float | None, end: float | None) -> None:
    if not video.exists():
        raise UserError(f"no clip at {str(video)!r}: name a video file or a folder of frames")
    if (start or 0.0) < 0 or (end is not None and end <= (start or 0.0)):
        raise UserError("--start must be 0 or later, and --end after it")
