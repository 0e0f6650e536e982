"""Run the conformance suite and write its outcomes as the tables of docs/families.md.

    python scripts/families_table.py            prints the tables
    python scripts/families_table.py --write    puts them between the markers in docs/families.md

Tokens, context and memory are planned from the configs of published checkpoints
(dpo_video/models/published/).
"""

import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dpo_video.models.families import FAMILIES, Family
from dpo_video.models.hub import model_spec, published_names
from dpo_video.models.memory import PeakLoad, count_parameters, estimate_training
from dpo_video.models.tokens import video_tokens, vision_patches
from dpo_video.recipe import ModelSettings, TrainSettings, VideoSettings

ROOT = Path(__file__).parent.parent
SUITE = ("tests/models/test_families.py", "tests/models/test_families_training.py")
PAGE = ROOT / "docs" / "families.md"
BEGIN = "<!-- begin: scripts/families_table.py --write -->"
END = "<!-- end -->"
FRAMES, HEIGHT, WIDTH = 16, 720, 1280
TEXT_TOKENS, ANSWER_TOKENS = 100, 128


@dataclass
class Outcomes:
    """A pytest plugin that keeps what came of each check of each family."""

    by_family: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the worst outcome of a check's variants."""
        found = re.fullmatch(r".*::test_(\w+)\[(.+)\]", report.nodeid)
        if found is None or (report.when != "call" and report.passed):
            return
        check = found[1].replace("_", " ")
        family = next((part for part in found[2].split("-") if part in FAMILIES), None)
        if family is not None and self.by_family[family].get(check, "passed") == "passed":
            self.by_family[family][check] = report.outcome


def run_suite() -> Outcomes:
    """Return the outcomes of the suite, run here."""
    outcomes = Outcomes()
    code = pytest.main(
        [*(str(ROOT / path) for path in SUITE), "-q", "-p", "no:cacheprovider"], plugins=[outcomes]
    )
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        sys.exit(f"the conformance suite did not run: pytest exited with {code!r}")
    return outcomes


def works(checks: dict[str, str]) -> str:
    """Return how many checks passed, and which did not."""
    passed = sum(outcome == "passed" for outcome in checks.values())
    others = [
        f"{check} {outcome}" for check, outcome in sorted(checks.items()) if outcome != "passed"
    ]
    return "; ".join([f"{passed} of {len(checks)}", *others])


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
    memory = [
        estimate_training(spec, ModelSettings(name=name, quantize=quantize), TrainSettings(), load)[
            "total"
        ]
        for quantize in ("nf4", "none")
    ]
    return [
        f"{family.formula}: {tokens:,}",
        f"{family.context_length(spec.config):,}",
        f"{name.split('/')[1]}, {counts[name] / 1e9:.2f} B",
        " / ".join(f"{gib:.1f}" for gib in memory),
    ]


def table(rows: list[list[str]]) -> str:
    """Return rows as a Markdown table, the first one its head."""
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


def page(outcomes: Outcomes) -> str:
    """Return what stands between the markers."""
    families = [FAMILIES[name] for name in sorted(FAMILIES)]
    checks = sorted({check for found in outcomes.by_family.values() for check in found})
    head = [
        "family",
        "checks passed",
        f"video tokens of a clip: for {FRAMES} frames of {WIDTH}x{HEIGHT}",
        "context",
        "planned for",
        "GiB to train, 4 bit / 16 bit",
    ]
    rows = [
        [f"`{row.name}`", works(outcomes.by_family[row.name]), *planned(row)] for row in families
    ]
    quirks = [
        f"- `{row.name}`: {row.title}. {row.quirks}{'' if row.shared_prefix else NOT_SHARED}"
        for row in families
    ]
    return "\n\n".join(
        [
            table([head, *rows]),
            f"F frames of H x W pixels after resizing. GiB: the estimate of `dpo-video check` for "
            f"one pair, LoRA of rank "
            f"{TrainSettings().lora.rank}, questions of {TEXT_TOKENS} and answers of "
            f"{ANSWER_TOKENS} tokens. The checks: "
            f"{'; '.join(checks)}.",
            "\n".join(quirks),
        ]
    )


def write(text: str) -> None:
    """Put the text between the page's markers."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END, maxsplit=1)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


NOT_SHARED = (
    " Answers do not share their prompt's computation (`train.share_prefix` has no effect)."
)

if __name__ == "__main__":
    made = page(run_suite())
    if "--write" in sys.argv[1:]:
        write(made)
    else:
        print(made)
