"""`dpo-video push`; `app.py` puts it beside the stages."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import typer

from dpo_video.cli.arguments import AsJson, Overrides, RunFolder, run_path
from dpo_video.cli.output import only_json, print_json
from dpo_video.core.progress import print_line
from dpo_video.recipe.file import change_recipe


def push(  # noqa: PLR0913 - options of a command
    run_folder: RunFolder,
    repo: Annotated[str, typer.Option("--repo", help="OWNER/NAME on the hub, or NAME of yours.")],
    overrides: Overrides = None,
    what: Annotated[
        Literal["adapter", "merged", "pairs"],
        typer.Option(help="The adapter, the merged model in RUN/merged, or the pairs."),
    ] = "adapter",
    public: Annotated[
        bool, typer.Option("--public", help="Make a public repository; else a private one.")
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Replace the files of an earlier push.")
    ] = False,
    export_format: Annotated[
        str, typer.Option("--format", help="Of pairs: see `dpo-video list formats`.")
    ] = "trl",
    with_clips: Annotated[
        bool, typer.Option("--with-clips", help="Send the clips along with the pairs.")
    ] = False,
    confirmed: Annotated[
        bool, typer.Option("--yes", help="Send. Without it all is shown and nothing is sent.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send a run's adapter, merged model or pairs to the hub, privately; without --yes show every
    file and the card and send nothing. The token is that of HF_TOKEN.
    """
    from dpo_video.cards.export import export_with_card
    from dpo_video.cards.push import PushOptions, model_upload, pairs_upload, send
    from dpo_video.run import recipe_of

    folder = run_path(run_folder)
    recipe = change_recipe(recipe_of(folder), overrides or [])
    with TemporaryDirectory(prefix="dpo-video-push-") as scratch:
        if what == "pairs":
            pairs = Path(scratch) / "pairs"
            out = pairs if with_clips else pairs / "pairs.jsonl"
            made = export_with_card(folder, recipe, export_format, out, with_clips=with_clips)
            upload = pairs_upload(pairs, repo, card=made.card)
        else:
            upload = model_upload(folder, recipe, what, repo)
        with only_json(as_json):
            _show(upload)
            sent = send(upload, PushOptions(public=public, update=update)) if confirmed else None
            kind = f"{'public' if public else 'private'} {upload.repo_type} repository {repo!r}"
            print_line(
                f"sent: {sent}"
                if sent
                else f"dry run: nothing was sent. --yes sends {len(upload.files)} files to the "
                f"{kind}"
            )
        if as_json:
            files = [{"name": file.name, "bytes": file.num_bytes} for file in upload.files]
            print_json({"repo": repo, "files": files, "notes": list(upload.notes), "sent": sent})


def _show(upload: Any) -> None:
    """Print the files of a push, its card and what one should know."""
    from dpo_video.runs.clean import size_text

    for file in upload.files:
        print_line(f"{size_text(file.num_bytes):>9}  {file.name}")
    print_line(f"\n{upload.card}")
    for note in upload.notes:
        print_line(f"note: {note}")
