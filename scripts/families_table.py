"""Run the conformance suite and write its outcomes as the tables of docs/families.md.

    python scripts/families_table.py            prints the tables
    python scripts/families_table.py --write    puts them between the markers in docs/families.md
    python scripts/families_table.py --own-code [--write]    only that of repositories' own code
    python scripts/families_table.py --own-layout [--write]  only that of layouts of their own

Tokens, context and memory are planned from the configs of published checkpoints
(dpo_video/models/published/).
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from dpo_video.family.run import CHECKS, Outcome, check_name, run_checks
from dpo_video.family.subject import Subject
from dpo_video.models.families import FAMILIES, Family
from dpo_video.models.hub import model_spec, published_names
from dpo_video.models.memory import PeakLoad, count_parameters, estimate_training
from dpo_video.models.shared_prefix.packed_rows import why_answered_alone
from dpo_video.models.tokens import video_tokens, vision_patches
from dpo_video.recipe import ModelSettings, TrainSettings, VideoSettings

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "families.md"
BEGIN = "<!-- begin: scripts/families_table.py --write -->"
BEGIN_OWN_CODE = "<!-- begin: scripts/families_table.py --own-code --write -->"
BEGIN_OWN_LAYOUT = "<!-- begin: scripts/families_table.py --own-layout --write -->"
END = "<!-- end -->"
FRAMES, HEIGHT, WIDTH = 16, 720, 1280
TEXT_TOKENS, ANSWER_TOKENS = 100, 128
READ_ONCE = "a prompt is read once for all its answers in"


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What came of the suite for a family."""

    family: Family
    outcomes: list[Outcome]
    why_answered_alone: str | None
    """Why its answers are not written on trees."""


def run_suite() -> dict[str, Suite]:
    """Return what came of each family's checks, run here."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))  # where the tiny models are
    from family_cases import subject_of

    suites = {}
    for name in sorted(FAMILIES):
        suites[name] = suite_of(subject_of(name))
        subject_of.cache_clear()
    return suites


def run_own_code() -> dict[str, Suite]:
    """Return what came of the checks on each stand-in of a system in its authors' own code."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from stand_ins.checkpoints import STAND_INS
    from tiny_models import write_tiny

    suites = {}
    for name in sorted(STAND_INS):
        with tempfile.TemporaryDirectory() as folder:
            write_tiny(STAND_INS[name], Path(folder) / name)
            settings = ModelSettings(
                name=str(Path(folder) / name), device="cpu", trust_remote_code=True
            )
            suites[name] = suite_of(Subject(settings=settings))
    return suites


def suite_of(subject: Subject) -> Suite:
    """Return what came of a checkpoint's checks."""
    return Suite(
        family=subject.family,
        outcomes=list(run_checks(subject)),
        why_answered_alone=why_answered_alone(subject.plain),
    )


def run_own_layout() -> dict[str, Suite]:
    """Return what came of the checks on each stand-in of a system in a layout of its own."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from stand_ins.flat_checkpoints import STAND_INS

    suites = {}
    for name in sorted(STAND_INS):
        with tempfile.TemporaryDirectory() as folder:
            STAND_INS[name](Path(folder) / name)
            settings = ModelSettings(name=str(Path(folder) / name), device="cpu")
            suites[name] = suite_of(Subject(settings=settings))
    return suites


def works(checks: list[Outcome]) -> str:
    """Return how many checks passed, and which did not."""
    failed = [outcome.check for outcome in checks if outcome.reason is not None]
    return "; ".join([f"{len(checks) - len(failed)} of {len(checks)}", *failed])


def shared(suite: Suite) -> str:
    """Return which stages read a prompt once for its answers, or why none does."""
    if not suite.family.shared_prefix:
        return f"no: {suite.family.why_not_shared}"
    if suite.why_answered_alone is not None:
        return f"training; not in generation: {suite.why_answered_alone}"
    return "training, generation, evaluation"


def planned(family: Family) -> list[str]:
    """Return tokens, context and memory of the family's largest published checkpoint."""
    names = published_names(family)
    if not names:
        return [family.formula, "", "", ""]
    counts = {name: count_parameters(model_spec(ModelSettings(name=name))).total for name in names}
    name = max(names, key=lambda name: counts[name])
    spec, settings = model_spec(ModelSettings(name=name)), VideoSettings()
    shape: dict[str, Any] = {"num_frames": FRAMES, "height": HEIGHT, "width": WIDTH}
    tokens = video_tokens(spec, settings, **shape)
    load = PeakLoad(
        sequences=1,
        prompt_tokens=tokens + TEXT_TOKENS,
        answer_tokens=ANSWER_TOKENS,
        patches=vision_patches(spec, settings, **shape),
    )
    memory = {
        quantize: estimate_training(
            spec, ModelSettings(name=name, quantize=quantize), TrainSettings(), load
        )["total"]
        for quantize in ("nf4", "none")
        if quantize == "none" or family.no_4_bit is None
    }
    return [
        f"{family.formula}: {tokens:,}",
        f"{family.context_length(spec.config):,}",
        f"{name.split('/')[1]}, {counts[name] / 1e9:,.2f} B",
        f"{memory['nf4']:,.1f} / {memory['none']:,.1f}"
        if "nf4" in memory
        else f"- / {memory['none']:,.1f}",
    ]


def table(rows: list[list[str]]) -> str:
    """Return rows as a Markdown table, the first one its head."""
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


def page(suites: dict[str, Suite]) -> str:
    """Return what stands between the markers."""
    checks = sorted(map(check_name, CHECKS))
    head = [
        "family",
        "checks passed",
        READ_ONCE,
        f"video tokens of a clip: for {FRAMES} frames of {WIDTH}x{HEIGHT}",
        "context",
        "planned for",
        "GiB to train, 4 bit / 16 bit",
    ]
    rows = [
        [f"`{name}`", works(suite.outcomes), shared(suite), *planned(suite.family)]
        for name, suite in suites.items()
    ]
    return "\n\n".join(
        [
            table([head, *rows]),
            fill(
                "F frames of H x W pixels after resizing. GiB: the estimate of `dpo-video check` "
                f"for one pair, LoRA of rank "
                f"{TrainSettings().lora.rank}, questions of {TEXT_TOKENS} and answers of "
                f"{ANSWER_TOKENS} tokens. The checks: "
                f"{'; '.join(checks)}.",
                100,
            ),
            quirks([suite.family for suite in suites.values()]),
        ]
    )


def stand_ins_page(suites: dict[str, Suite]) -> str:
    """Return what stands between the markers of systems that transformers lacks."""
    head = ["stand-in", "family", "checks passed", READ_ONCE, "video tokens of a clip"]
    rows = [
        [
            f"`{name}`",
            f"`{suite.family.name}`",
            works(suite.outcomes),
            shared(suite),
            suite.family.formula,
        ]
        for name, suite in suites.items()
    ]
    families = {suite.family.name: suite.family for suite in suites.values()}
    return "\n\n".join([table([head, *rows]), quirks(list(families.values()))])


def quirks(families: list[Family]) -> str:
    """Return a list of what users of the families should know."""
    return "\n".join(
        fill(f"- `{row.name}`: {row.title}. {row.quirks}", 100, subsequent_indent="  ")
        for row in families
    )


def write(text: str, begin: str) -> None:
    """Put the text between the page's markers."""
    before, rest = PAGE.read_text(encoding="utf-8").split(begin)
    after = rest.split(END, maxsplit=1)[1]
    PAGE.write_text(f"{before}{begin}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    only = {"--own-code", "--own-layout"}.intersection(sys.argv[1:])
    made = {}
    if not only or "--own-code" in only:
        made[BEGIN_OWN_CODE] = stand_ins_page(run_own_code())
    if not only or "--own-layout" in only:
        made[BEGIN_OWN_LAYOUT] = stand_ins_page(run_own_layout())
    if not only:
        made[BEGIN] = page(run_suite())
    for begin, text in made.items():
        if "--write" in sys.argv[1:]:
            write(text, begin)
        else:
            print(text)
