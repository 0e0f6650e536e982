"""All findings of the doctor, and how they are shown."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from dpo_video.doctor.bench import BenchResult
from dpo_video.doctor.finding import CheckVerdict, Finding, looked_at
from dpo_video.doctor.kernels import attention_findings, bf16_finding, four_bit_findings
from dpo_video.doctor.machine import (
    decoder_finding,
    disk_findings,
    gpu_findings,
    port_finding,
    software_findings,
)
from dpo_video.doctor.services import hub_findings, judge_finding, tracker_finding
from dpo_video.models.load import choose_device
from dpo_video.recipe import ModelSettings, Recipe

STYLES: dict[CheckVerdict, str] = {"right": "green", "wrong": "bold red", "not checked": "yellow"}


def examine(recipe: Recipe | None) -> Iterator[Finding]:
    """Yield what is right, wrong and not checked on this machine, for a recipe or by itself."""
    wanted = "auto" if recipe is None else recipe.model.device
    yield from software_findings()
    yield from gpu_findings(wanted)
    device = choose_device(ModelSettings(name="-", device="cpu" if wanted == "cpu" else "auto"))
    yield bf16_finding(device)
    yield from attention_findings(device)
    yield from four_bit_findings(device)
    yield decoder_finding()
    yield from disk_findings(Path("runs" if recipe is None else recipe.runs_folder).expanduser())
    yield looked_at("ports", port_finding, "allow listening on 127.0.0.1")
    yield from hub_findings(recipe)
    yield tracker_finding(recipe)
    yield judge_finding(recipe)


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return the findings as a table, a line each."""
    table = Table(box=box.SIMPLE)
    table.add_column("", no_wrap=True)
    table.add_column("looked at")
    table.add_column("seen; what to do", overflow="fold")
    for finding in findings:
        fix = f"\n-> {finding.fix}" if finding.fix else ""
        verdict = Text(finding.verdict, style=STYLES[finding.verdict])
        table.add_row(verdict, finding.name, Text(f"{finding.text}{fix}"))
    return table


def counts_line(findings: Sequence[Finding]) -> str:
    """Return how many there are of each verdict."""
    counts = Counter(finding.verdict for finding in findings)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in STYLES)


def bench_line(result: BenchResult) -> str:
    """Return what was timed, in a line."""
    memory = "" if result.peak_gib is None else f", {result.peak_gib:.1f} GiB at most"
    return (
        f"bench: {result.pairs_per_second:.2f} pairs a second, {result.parameters / 1e6:,.1f} "
        f"million parameters of the language model with random weights, two rows of "
        f"{result.tokens} tokens{memory}. Training shares what the rows have in common and is "
        "faster; the vision tower is not in it"
    )
