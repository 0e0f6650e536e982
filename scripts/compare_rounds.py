"""Compare ways of training in the toy world, each over several seeds.

    python scripts/compare_rounds.py [--out FOLDER] [--seeds 3] [--clips 32] [--heldout 40]
        [--steps 15] [--only rounds|corrupted|anchored] [--json FILE]

A seed is another toy world: clips, questions, draws. In each, all arms see the same clips, take
equally many optimizer steps, and differ in the settings below alone; they share one store, so that
an answer is written, and a text judged, once for all of them. A number is the change from training
on held-out clips, in points; the difference of two arms is taken within a seed, and its 95 %
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
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from scipy.stats import t as student  # noqa: E402

from dpo_video.cli.rounds import run_rounds  # noqa: E402
from dpo_video.core.jsonl import read_jsonl, write_atomic  # noqa: E402
from dpo_video.core.library_warnings import quiet_libraries  # noqa: E402
from dpo_video.core.records import Candidate  # noqa: E402
from dpo_video.evaluate.answer_rows import FILE, EvaluatedAnswer  # noqa: E402
from dpo_video.pipeline import do_stages  # noqa: E402
from dpo_video.recipe import Recipe  # noqa: E402
from dpo_video.recipe.file import load_recipe  # noqa: E402
from dpo_video.run import open_run  # noqa: E402
from dpo_video.stages import stages_of  # noqa: E402
from dpo_video.toy.clips import read_scenes, write_split  # noqa: E402
from dpo_video.toy.question_sets import write_question_set  # noqa: E402
from dpo_video.toy.questions import all_questions  # noqa: E402

IN_TIME = ("order", "motion")
"""Kinds of questions that one frame does not answer."""
ALL, TIME = "samples", "in_time"
"""Files of questions beside the training clips: three a clip, and those of them of IN_TIME."""
SETS = ("choices", "yes_no")
"""The toy world's regression sets."""
COMMON = (
    "tracking.to=none",
    "train.batch_size=8",
    "train.learning_rate=4e-4",
    "train.warmup_ratio=0",
    "evaluate.hallucination_scorer=null",
    "evaluate.pair_samples=0",
    "evaluate.bootstrap=200",
)
PLAIN = "plain"
"""The arm that the others of a comparison are compared with, where it has no name of its own."""
MIX = (
    "generate.mix=[{name: clean, num_candidates: 4},"
    " {name: reverse, num_candidates: 2, clip: reverse},"
    " {name: shuffle, num_candidates: 2, clip: shuffle}]",
    "pair.rule=across",
    "pair.chosen_samplers=[clean]",
    "pair.rejected_samplers=[reverse, shuffle]",
)
ANCHOR, SFT = "train.loss=[sigmoid, bco_pair]", "train.loss=[sigmoid, sft]"
FAST = "train.learning_rate=1.2e-3"
"""Three times the rate of the other arms."""
Arms = Mapping[str, Sequence[str]]
COMPARISONS: dict[str, tuple[str, Sequence[str], Arms]] = {
    "rounds": (
        ALL,
        ("text", "choices"),
        {
            "one round": ["generate.num_candidates=12"],
            "three rounds": ["generate.num_candidates=4", "rounds.count=3"],
        },
    ),
    "corrupted": (
        ALL,
        ("motion", "order"),
        {
            PLAIN: [],
            "negatives in training": ["pair.video_negatives=[reverse]"],
            "answers to corrupted clips": MIX,
        },
    ),
    "anchored": (
        TIME,
        ("text", "choices", "yes_no"),
        {
            PLAIN: [],
            "bco_pair": [ANCHOR],
            f"{PLAIN}, fast": [FAST],
            "bco_pair, fast": [FAST, ANCHOR],
            "sft, fast": [FAST, SFT],
        },
    ),
}
"""By name: the questions that are trained on, what is measured, and the settings of each arm; all
others are compared with the first, and those that end on `fast` with the first of these.
"""


def write_world(folder: Path, *, seed: int, clips: int, heldout: int) -> Path:
    """Write the clips of a seed: to train on, three questions a clip, and those IN_TIME of these in
    a file of their own; held out, every question of IN_TIME and the sets.
    """
    train = write_split("train", folder / "train", num_clips=clips, seed=seed)
    kinds = {
        (video, question.prompt): question.kind
        for video, scene in read_scenes(train.parent).items()
        for question in all_questions(scene)
    }
    rows = [json.loads(line) for line in train.read_text().splitlines()]
    in_time = [row for row in rows if kinds[row["video"], row["prompt"]] in IN_TIME]
    _write_rows(folder / "train" / f"{TIME}.jsonl", in_time)
    held = write_split("heldout", folder / "heldout", num_clips=heldout, seed=seed)
    rows = [json.loads(line) for line in held.read_text().splitlines()]
    captions = {row["video"]: row["caption"] for row in rows}
    questions = [
        {
            "id": f"{Path(video).stem}-{question.kind}{index}",
            "video": video,
            "prompt": question.prompt,
            "answer": question.answer,
            "caption": captions[video],
            "category": question.kind,
        }
        for video, scene in read_scenes(held.parent).items()
        for index, question in enumerate(all_questions(scene))
        if question.kind in IN_TIME
    ]
    _write_rows(folder / "heldout" / f"{TIME}.jsonl", questions)
    for name in SETS:
        write_question_set(name, held.parent)  # type: ignore[arg-type]
    return folder


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    if not path.exists():
        write_atomic(path, (json.dumps(row) + "\n" for row in rows))


def recipe_of(arm: str, *, comparison: str, world: Path, seed: int, steps: int) -> Recipe:
    """Return the recipe of an arm in the world of a seed."""
    trained, _, arms = COMPARISONS[comparison]
    num_rounds = 3 if any("rounds." in setting for setting in arms[arm]) else 1
    sets = ", ".join(f"{{name: {name}, samples: {world}/heldout/{name}.jsonl}}" for name in SETS)
    return load_recipe(
        "quickstart",
        [
            *(f"runs_folder={world}", f"name={comparison}/{arm}", "store=../../store"),
            *(f"seed={seed}", f"data.samples={world}/train/{trained}.jsonl"),
            *(f"data.heldout={world}/heldout/{TIME}.jsonl", f"evaluate.sets=[{sets}]"),
            f"train.max_steps={steps // num_rounds}",
            *(*COMMON, *arms[arm]),
        ],
    )


def do(recipe: Recipe) -> list[Path]:
    """Run a recipe; return the folders of its rounds."""
    folders: list[Path] = []

    def stages(settings: Recipe) -> None:
        with open_run(settings) as run:
            do_stages(run, stages_of(settings))
        folders.append(settings.run_folder)

    if recipe.rounds is None:
        stages(recipe)
    else:
        run_rounds(recipe, stages)
    return folders


def shares(folder: Path, model: str) -> dict[str, float]:
    """Return the share of right answers of one model, in percent, by kind of question and by
    set.
    """
    right: dict[str, list[bool]] = {}
    for row in read_jsonl(folder / FILE, EvaluatedAnswer):
        is_right = row.exact_match if row.kind == "text" else row.correct
        if row.model != model or is_right is None:
            continue
        if row.set == "heldout":
            right.setdefault("text", []).append(is_right)
            right.setdefault(row.category or "", []).append(is_right)
        else:
            right.setdefault(row.set, []).append(is_right)
    return {name: 100 * statistics.fmean(answers) for name, answers in right.items()}


def measured(folders: Sequence[Path]) -> dict[str, float]:
    """Return the changes of an arm in points, what it began with, and its judge calls and pairs."""
    before, after = shares(folders[0], "before"), shares(folders[-1], "after")
    texts = {
        (row.sample_id, row.text)
        for folder in folders
        for row in read_jsonl(folder / "candidates.jsonl", Candidate)
    }
    pairs = sum(1 for folder in folders for _ in (folder / "pairs.jsonl").open())
    return {
        **{f"{name} before": before[name] for name in before},
        **{name: after[name] - before[name] for name in before},
        "judge calls": len(texts),
        "pairs": pairs,
    }


def mean_text(values: Sequence[float]) -> str:
    """Return a mean with its 95 % interval, of Student's t."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:+.1f}"
    spread = statistics.stdev(values) / math.sqrt(len(values))
    half = float(student.ppf(0.975, len(values) - 1)) * spread
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def table(comparison: str, seeds_of: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """Return the lines of a comparison: a row an arm and measure, over the seeds that all arms
    have.
    """
    _, measures, arms = COMPARISONS[comparison]
    num_seeds = min(len(seeds_of.get(arm, ())) for arm in arms)
    if not num_seeds:
        return [f"{comparison}: no seed has all arms"]
    lines = [
        f"| {comparison}, {num_seeds} seeds | judge calls | pairs | measure | before | change "
        "| by seed | against |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm, measure in product(arms, measures):
        rows = seeds_of[arm][:num_seeds]
        first = next(each for each in arms if each.endswith("fast") is arm.endswith("fast"))
        values = [row[measure] for row in rows]
        plain = [row[measure] for row in seeds_of[first][:num_seeds]]
        gains = [value - other for value, other in zip(values, plain, strict=True)]
        against = "" if arm == first else mean_text(gains)
        calls, pairs = (
            f"{statistics.fmean(row[name] for row in rows):.0f}"
            for name in ("judge calls", "pairs")
        )
        before = f"{statistics.fmean(row[f'{measure} before'] for row in rows):.1f} %"
        by_seed = ", ".join(f"{value:+.1f}" for value in values)
        lines.append(
            f"| {arm} | {calls} | {pairs} | {measure} | {before} | {mean_text(values)} | {by_seed} "
            f"| {against} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/compare_rounds"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--heldout", type=int, default=40)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--only", choices=COMPARISONS, action="append")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    for seed, comparison in product(range(options.seeds), options.only or COMPARISONS):
        world = write_world(
            options.out / f"seed{seed}", seed=seed, clips=options.clips, heldout=options.heldout
        )
        for arm in COMPARISONS[comparison][2]:
            recipe = recipe_of(
                arm, comparison=comparison, world=world, seed=seed, steps=options.steps
            )
            with quiet_libraries():
                row = measured(do(recipe))
            results.setdefault(comparison, {}).setdefault(arm, []).append(row)
            if options.json:
                write_atomic(options.json, [json.dumps(results, indent=2) + "\n"])
        print("\n".join(["", *table(comparison, results[comparison])]), flush=True)


if __name__ == "__main__":
    main()
