"""Compare ways of training in the toy world, each over several seeds.

    python scripts/compare_rounds.py [--out FOLDER] [--seeds 3] [--clips 24] [--heldout 40]
        [--only rounds|corrupted|anchored] [--json FILE]

A seed is another toy world: clips, questions, draws. In each, the arms of a comparison see the same
clips and differ in the settings below alone. A number is the change of the exact match on held-out
questions from training, in points; the difference of two arms is taken within a seed, and its 95 %
interval is that of Student's t over the seeds. What is finished in FOLDER is not done again.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from scipy.stats import t as student  # noqa: E402

from dpo_video.cli.rounds import run_rounds  # noqa: E402
from dpo_video.core.library_warnings import quiet_libraries  # noqa: E402
from dpo_video.evaluate.report import read_metrics  # noqa: E402
from dpo_video.pipeline import do_stages, stages_of  # noqa: E402
from dpo_video.recipe import Recipe  # noqa: E402
from dpo_video.recipe.file import load_recipe  # noqa: E402
from dpo_video.run import open_run  # noqa: E402
from dpo_video.toy.clips import read_scenes, write_split  # noqa: E402
from dpo_video.toy.questions import all_questions  # noqa: E402

IN_TIME = ("order", "motion")
"""Kinds of questions that one frame does not answer."""
COMMON = (
    "tracking.to=none",
    "generate.num_candidates=4",
    "train.batch_size=4",
    "video.cache=frames",
    "train.epochs=2",
    "evaluate.hallucination_scorer=null",
    "evaluate.pair_samples=0",
    "evaluate.bootstrap=200",
)
ALL, TIME, OTHER = "samples", "in_time", "other"
"""Files of questions beside the clips: all, those of IN_TIME, and the others."""
Arms = Mapping[str, Sequence[str]]
COMPARISONS: dict[str, tuple[str, str, Arms]] = {
    "rounds": (
        ALL,
        ALL,
        {
            "one round": ["generate.num_candidates=12", "train.epochs=6"],
            "three rounds": ["rounds.count=3"],
        },
    ),
    "corrupted": (
        ALL,
        TIME,
        {
            "plain pairs": [],
            "with reversed clips": ["pair.video_negatives=[reverse]"],
        },
    ),
    "anchored": (
        TIME,
        OTHER,
        {
            "sigmoid": ["train.epochs=6"],
            "sigmoid + bco_pair": ["train.epochs=6", "train.loss=[sigmoid,bco_pair]"],
        },
    ),
}
"""By name: the questions that are trained on, those that are evaluated on, and the settings of each
arm; all others are compared with the first. 12 candidates in one round, or 4 in each of three; and
6 epochs over one round's pairs, or 2 over each of three.
"""


def write_world(folder: Path, *, seed: int, clips: int, heldout: int) -> Path:
    """Write the clips of a seed, with the questions of each file."""
    for split, num_clips in (("train", clips), ("heldout", heldout)):
        samples = write_split(split, folder / split, num_clips=num_clips, seed=seed)  # type: ignore[arg-type]
        kinds = {
            (video, question.prompt): question.kind
            for video, scene in read_scenes(folder / split).items()
            for question in all_questions(scene)
        }
        lines = samples.read_text().splitlines(keepends=True)
        for name, is_in_time in ((TIME, True), (OTHER, False)):
            rows = [(line, json.loads(line)) for line in lines]
            wanted = [
                line
                for line, row in rows
                if (kinds[row["video"], row["prompt"]] in IN_TIME) is is_in_time
            ]
            (folder / split / f"{name}.jsonl").write_text("".join(wanted))
    return folder


def change(recipe: Recipe) -> float:
    """Run a recipe; return the exact match after training less that before, in points."""
    folders: list[Path] = []

    def do(settings: Recipe) -> None:
        with open_run(settings) as run:
            do_stages(run, stages_of(settings))
        folders.append(settings.run_folder)

    if recipe.rounds is None:
        do(recipe)
    else:
        run_rounds(recipe, do)
    metrics = [read_metrics(folder / "metrics.json") for folder in folders]
    before, after = metrics[0].before.exact_match.value, metrics[-1].after.exact_match.value
    assert before is not None and after is not None, "every toy question has a gold answer"
    return 100 * (after - before)


def mean_text(values: Sequence[float]) -> str:
    """Return a mean with its 95 % interval, of Student's t."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:+.1f}"
    spread = statistics.stdev(values) / math.sqrt(len(values))
    half = float(student.ppf(0.975, len(values) - 1)) * spread
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/compare_rounds"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--heldout", type=int, default=40)
    parser.add_argument("--only", choices=COMPARISONS, action="append")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    changes: dict[str, dict[str, list[float]]] = {}
    with quiet_libraries():
        for name, seed in product(options.only or COMPARISONS, range(options.seeds)):
            world = write_world(
                options.out / f"seed{seed}", seed=seed, clips=options.clips, heldout=options.heldout
            )
            trained, evaluated, arms = COMPARISONS[name]
            for arm, overrides in arms.items():
                settings = [
                    *(f"runs_folder={world}", f"name={name}/{arm}", "store=../store"),
                    *(f"seed={seed}", f"data.samples={world}/train/{trained}.jsonl"),
                    f"data.heldout={world}/heldout/{evaluated}.jsonl",
                ]
                recipe = load_recipe("quickstart", [*settings, *COMMON, *overrides])
                changes.setdefault(name, {}).setdefault(arm, []).append(change(recipe))
                if options.json:
                    options.json.write_text(json.dumps(changes, indent=2) + "\n")
    for name, of_arm in changes.items():
        _, evaluated, arms = COMPARISONS[name]
        first = next(iter(arms))
        print(f"\n| {name}, evaluated on {evaluated} | by seed | mean | against {first} |")
        print("|---|---|---|---|")
        for arm, values in of_arm.items():
            against = [value - plain for value, plain in zip(values, of_arm[first], strict=True)]
            seeds = ", ".join(f"{value:+.1f}" for value in values)
            difference = "" if arm == first else mean_text(against)
            print(f"| {arm} | {seeds} | {mean_text(values)} | {difference} |")


if __name__ == "__main__":
    main()
