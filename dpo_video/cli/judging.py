"""Commands that measure a judge, the pairs that it made, and the rewards of what was trained on
them. `app.py` puts them beside the stages.
"""

from pathlib import Path
from typing import Annotated

import typer

from dpo_video.cli.arguments import AsJson, Overrides, RunFolder, run_path
from dpo_video.cli.output import fail, only_json, print_json, print_json_file
from dpo_video.core.imports import large_imports
from dpo_video.core.progress import open_terminal, print_line


def agree(
    run_folder: RunFolder,
    overrides: Overrides = None,
    gold: Annotated[
        str, typer.Option(help="JSONL of gold labels, or toy:train, toy:heldout in the toy world.")
    ] = "",
    against: Annotated[
        str,
        typer.Option(
            help="A second judge: judge.model=...,judge.scorer=..., or the folder of another run."
        ),
    ] = "",
    require: Annotated[
        str,
        typer.Option(
            help="What must hold, else the exit code is 1: 'pair_accuracy>=0.75,ece<=0.08'."
        ),
    ] = "",
    precision: Annotated[float | None, typer.Option(help="In place of agree.precision.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the judge: against gold labels, against itself, and on probes made from the
    captions.
    """
    from dpo_video.agree.command import REPORT, agree_command

    precision_override = [] if precision is None else [f"agree.precision={precision}"]
    folder = run_path(run_folder)
    with only_json(as_json):
        unmet = agree_command(
            folder,
            [*(overrides or []), *precision_override],
            gold=gold or None,
            against=_second_judge(against),
            require=require,
        )
    if as_json:
        print_json_file(folder / REPORT)
    if unmet:
        fail("; ".join(unmet), 1)


def _second_judge(text: str) -> str | None:
    """Return the settings of a second judge as they are given, or the folder of the run named."""
    if not text or "=" in text:
        return text or None
    return str(run_path(text))


def audit(run_folder: RunFolder, as_json: AsJson = False) -> None:
    """Show length, position, sampler and margin statistics of a run's pairs; write RUN/audit.json
    and audit.html.
    """
    from dpo_video.evaluate.summary import WIDTH
    from dpo_video.pair.audit import audit as audit_run
    from dpo_video.pair.audit_page import audit_table

    folder = run_path(run_folder)
    report = audit_run(folder)
    if as_json:
        print_json_file(folder / "audit.json")
        return
    terminal = open_terminal(width=WIDTH)
    terminal.print(audit_table(report))
    terminal.print(f"audit: {folder / 'audit.json'}, {folder / 'audit.html'}", soft_wrap=True)


def rewards(
    run_folder: RunFolder,
    adapter: Annotated[
        str, typer.Option(help="Folder of the tuned adapter; RUN/adapter when left out.")
    ] = "",
    out_file: Annotated[
        str, typer.Option("--out", help="JSONL to write; RUN/rewards.jsonl when left out.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Compute the tuned policy's implicit reward of every candidate, for pair.implicit_rewards."""
    from dpo_video.run import open_run, recipe_of

    with large_imports():
        from dpo_video.train.rewards import write_rewards

    folder = run_path(run_folder)
    with only_json(as_json), open_run(recipe_of(folder)) as opened:
        summary = write_rewards(
            opened,
            adapter=Path(adapter) if adapter else folder / "adapter",
            out=Path(out_file) if out_file else folder / "rewards.jsonl",
        )
    if as_json:
        print_json(summary)
        return
    print_line("rewards: " + ", ".join(f"{name} {value}" for name, value in summary.items()))
