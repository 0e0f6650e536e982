"""The command line: one command a stage, `run` for all five, and one line for every error a user
can cause.
"""

import errno
import os
import sys
from collections.abc import Callable, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from dpo_video import __version__
from dpo_video.cli.arguments import AsJson, Overrides, RecipeName
from dpo_video.cli.data import export, import_, score
from dpo_video.cli.doctor import doctor
from dpo_video.cli.examples import add_examples
from dpo_video.cli.family import family
from dpo_video.cli.judging import agree, audit, rewards
from dpo_video.cli.looking import check, frames
from dpo_video.cli.output import fail, only_json, print_json_file
from dpo_video.cli.pages import report, review
from dpo_video.cli.publishing import push
from dpo_video.cli.recipes import init, list_, show
from dpo_video.cli.runs import clean, compare, runs, status
from dpo_video.cli.serving import merge, parity
from dpo_video.core.errors import UserError
from dpo_video.core.library_warnings import quiet_libraries
from dpo_video.core.progress import print_line
from dpo_video.core.ranks import is_main_process, world_size
from dpo_video.recipe import Recipe
from dpo_video.recipe.file import load_recipe

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Preference tuning (DPO) for video language models: generate -> judge -> pair -> train -> "
    "evaluate.",
)

Replace = Annotated[
    bool,
    typer.Option(
        "--replace", help="Let training replace a finished adapter of other settings or data."
    ),
]


def _version(is_wanted: bool) -> None:
    """Print the version and end, where that is wanted."""
    if is_wanted:
        print_line(f"dpo-video {__version__}")
        raise typer.Exit


@app.callback()
def show_version(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    """Take the options before the command."""


def _do(
    recipe: Recipe,
    names: list[str],
    *,
    instead: Mapping[str, Callable[..., Any]] | None = None,
    replace_adapter: bool = False,
) -> list[str]:
    from dpo_video.pipeline import do_stages
    from dpo_video.run import open_run

    if _launched() and names != ["train"]:
        raise UserError(
            "only `dpo-video train` runs under accelerate launch: do the other stages without it"
        )
    try:
        with open_run(recipe) as run:
            stages_done = do_stages(run, names, instead=instead, replace_adapter=replace_adapter)
    except KeyboardInterrupt:
        fail("stopped; finished rows are kept, the same command goes on from there", 130)
    if not stages_done and len(names) > 1:
        print_line(
            f"nothing to do: all stages of {recipe.run_folder} are finished with these settings"
        )
    return stages_done


def _launched() -> bool:
    """Return whether accelerate or torchrun started several processes."""
    return world_size() > 1


@app.command()
def generate(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Sample N candidate answers of the policy to each question."""
    _do(load_recipe(recipe, overrides or []), ["generate"])


@app.command()
def judge(
    recipe: RecipeName,
    overrides: Overrides = None,
    reparse: Annotated[
        bool,
        typer.Option(
            "--reparse", help="Read the scores again from the stored replies; no call is made."
        ),
    ] = False,
    batch_out: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Write what is not answered yet as OpenAI batch files, "
            "also for `vllm run-batch`, and stop.",
        ),
    ] = "",
    batch_in: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Take in the results of batches, then judge as usual; may be given several times.",
        ),
    ] = None,
    parquet: Annotated[
        str,
        typer.Option(
            metavar="FOLDER", help="Also write candidates and judgments as Parquet shards."
        ),
    ] = "",
) -> None:
    """Score the candidates against the captions."""
    if sum(map(bool, (reparse, batch_out, batch_in))) > 1:
        raise UserError(
            "--reparse, --batch-out and --batch-in are three ways to judge: give one of them"
        )
    settings = load_recipe(recipe, overrides or [])
    if batch_out:
        _write_batches(settings, Path(batch_out))
        return
    _do(settings, ["judge"], instead=_judge_instead(reparse=reparse, batch_in=batch_in or []))
    if parquet:
        from dpo_video.formats.parquet import write_parquet

        rows = write_parquet(settings.run_folder, Path(parquet))
        print_line(
            f"parquet: {', '.join(f'{table} {count}' for table, count in rows.items())}; {parquet}"
        )


def _judge_instead(*, reparse: bool, batch_in: list[str]) -> dict[str, Callable[..., Any]]:
    """Return what does the judge stage in place of asking; nothing without these options."""
    if not reparse and not batch_in:
        return {}
    from dpo_video.judge import offline as judge_offline

    if reparse:
        return {"judge": judge_offline.reparse}
    return {
        "judge": lambda run: judge_offline.judge_with_results(
            run, [Path(name) for name in batch_in]
        )
    }


def _write_batches(settings: Recipe, batch_file: Path) -> None:
    from dpo_video.judge.offline import write_batches
    from dpo_video.run import open_run

    with open_run(settings) as run:
        files = write_batches(run, batch_file)
    for file in files:
        print_line(f"batch: {file}")
    if not files:
        print_line("nothing to ask: the store holds a reply to every candidate")


@app.command()
def pair(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Build chosen and rejected pairs from the scores."""
    _do(load_recipe(recipe, overrides or []), ["pair"])


@app.command()
def train(recipe: RecipeName, overrides: Overrides = None, replace: Replace = False) -> None:
    """Tune the policy on the pairs with DPO; the result is a LoRA adapter."""
    settings = load_recipe(recipe, overrides or [])
    if not is_main_process():
        from dpo_video.train.stage import train_on_rank

        train_on_rank(settings)
        return
    stages_done = _do(settings, ["train"], replace_adapter=replace)
    if _launched() and not stages_done:
        from dpo_video.train.stage import release_ranks

        release_ranks()


@app.command()
def evaluate(recipe: RecipeName, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Compare the policy before and after on held-out clips; the exit code is 1 where a condition
    of evaluate.require does not hold.
    """
    settings = load_recipe(recipe, overrides or [])
    with only_json(as_json):
        _do(settings, ["evaluate"])
    show_verdict(settings, as_json=as_json)


@app.command()
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Do all five stages, skip what is finished, and end with the numbers before and after
    and a verdict (of rounds, the last one's); the exit code is 1 where a condition of
    evaluate.require does not hold.
    """
    from dpo_video.stages import stages_of

    settings = load_recipe(recipe, overrides or [])
    has_numbers = bool(settings.data.heldout or settings.evaluate.sets)
    if as_json and not has_numbers:
        raise UserError("--json prints the numbers before and after: set data.heldout for them")
    if settings.rounds is not None:
        from dpo_video.cli.rounds import run_rounds

        with only_json(as_json):
            last = run_rounds(
                settings, lambda each: _do(each, stages_of(each), replace_adapter=replace)
            )
        if as_json:
            print_json_file(last.run_folder / "metrics.json")
        if has_numbers:
            hold_requirements(last)
        return
    with only_json(as_json):
        _do(settings, stages_of(settings), replace_adapter=replace)
    if has_numbers:
        show_verdict(settings, as_json=as_json)


def show_verdict(recipe: Recipe, *, as_json: bool = False) -> None:
    """Print the numbers and the verdicts, and exit with 1 where a requirement does not hold."""
    from dpo_video.evaluate.summary import print_summary

    if as_json:
        print_json_file(recipe.run_folder / "metrics.json")
    else:
        print_summary(recipe.run_folder / "metrics.json")
    hold_requirements(recipe)


def hold_requirements(recipe: Recipe) -> None:
    """Exit with 1 where a condition of evaluate.require does not hold."""
    from dpo_video.evaluate.report import read_metrics
    from dpo_video.evaluate.require import unmet_requirements

    metrics = read_metrics(recipe.run_folder / "metrics.json")
    unmet = unmet_requirements(recipe.evaluate.require, metrics.sets, metrics.verdicts)
    if unmet:
        fail("\ndpo-video: ".join(unmet), 1)


app.command(name="agree")(agree)
app.command(name="check")(check)
app.command(name="audit")(audit)
app.command(name="rewards")(rewards)
app.command(name="doctor")(doctor)
app.command(name="report")(report)
app.command(name="review")(review)
app.command(name="frames")(frames)
app.command(name="import")(import_)
app.command(name="export")(export)
app.command(name="push")(push)
app.command(name="score")(score)
app.command(name="status")(status)
app.command(name="runs")(runs)
app.command(name="compare")(compare)
app.command(name="clean")(clean)
app.command(name="init")(init)
app.command(name="show")(show)
app.command(name="list")(list_)
app.command(name="merge")(merge)
app.command(name="parity")(parity)
app.command(name="family")(family)
add_examples(app)


def main() -> None:
    """Run the command line; a user's error is one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal may not have every character
            stream.reconfigure(errors="backslashreplace")
    try:
        with quiet_libraries():
            app()
    except UserError as error:
        fail(str(error), 2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        fail(
            f"{os.strerror(error.errno)}: "
            f"{error.filename or 'the run folder, or where stdout goes'}. Nothing stored is lost; "
            "make room or allow writing there, and run the same command again",
            2,
        )
