"""The stages in order: what each reads and writes, what makes its result stale, and
manifest.json.
"""

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import as_row, read_jsonl, write_atomic
from dpo_video.core.progress import print_line
from dpo_video.core.records import Judgment, Pair, Sample
from dpo_video.evaluate.report import MEASURES
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.stage import judge
from dpo_video.pair.stage import pair, with_noise
from dpo_video.recipe import Recipe
from dpo_video.recipe.affects import key_settings
from dpo_video.run import Run, StageResult
from dpo_video.store import content_hash, row_key

VERSIONS_OF = (
    "dpo-video",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "bitsandbytes",
    "av",
    "decord",
    "openai",
)


def _generate(run: Run) -> StageResult:
    from dpo_video.generate.stage import generate  # here: it needs torch, as the next two do

    return generate(run)


def _train(run: Run) -> StageResult:
    from dpo_video.train.stage import train

    return train(run)


def _evaluate(run: Run) -> StageResult:
    from dpo_video.evaluate.stage import evaluate

    return evaluate(run)


def _nothing_else(run: Run) -> dict[str, Any]:
    return {}


def _judge_inputs(run: Run) -> dict[str, Any]:
    return {"scorer": load_scorer(run.recipe.judge.scorer).version}


def _pairing_inputs(run: Run) -> dict[str, Any]:
    """Return what pairs are built with: the scorer's version, the margin with the measured noise,
    the tie break's version.
    """
    settings = run.recipe.pair
    inputs = _judge_inputs(run) | {"min_margin": with_noise(settings, run.folder).min_margin}
    if settings.tie_break is not None:
        inputs["tie_break"] = load_scorer(settings.tie_break).version
    return inputs


def _pair_inputs(run: Run) -> dict[str, Any]:
    settings = run.recipe.pair
    inputs: dict[str, Any] = {}
    if run.recipe.data.pairs is None:
        inputs |= _pairing_inputs(run)
    else:
        inputs["pairs"] = content_hash(Path(run.recipe.data.pairs).expanduser())
        if settings.video_negatives:
            inputs["video_negatives"] = [settings.video_negatives, run.recipe.seed]
    if settings.implicit_rewards:
        rewards = Path(settings.implicit_rewards).expanduser()
        inputs["rewards"] = content_hash(rewards) if rewards.is_file() else None
    return inputs


def _evaluate_inputs(run: Run) -> dict[str, Any]:
    pairwise = run.recipe.evaluate.pairwise_scorer
    hallucination = run.recipe.evaluate.hallucination_scorer
    return _pairing_inputs(run) | {
        "pairwise_scorer": pairwise and load_scorer(pairwise).version,
        "hallucination_scorer": hallucination and load_scorer(hallucination).version,
        "beta": run.recipe.train.beta,  # scales the held-out margins
        "measures": MEASURES,
    }


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage: the function that does it, its files, and what determines its result."""

    run: Callable[[Run], StageResult]
    reads: tuple[str, ...]
    writes: str
    sections: tuple[str, ...]
    """Sections of the recipe that determine the result."""
    inputs: Callable[[Run], dict[str, Any]]
    """Returns what determines the result beyond `sections`, the samples and the files that the
    stage reads.
    """


STAGES: dict[str, Stage] = {
    "generate": Stage(
        run=_generate,
        reads=(),
        writes="candidates.jsonl",
        sections=("model", "video", "generate", "seed"),
        inputs=_nothing_else,
    ),
    "judge": Stage(
        run=judge,
        reads=("candidates.jsonl",),
        writes="judgments.jsonl",
        sections=("clean", "judge"),
        inputs=_judge_inputs,
    ),
    "pair": Stage(
        run=pair,
        reads=("candidates.jsonl", "judgments.jsonl"),
        writes="pairs.jsonl",
        sections=("judge", "pair", "seed"),
        inputs=_pair_inputs,
    ),
    "train": Stage(
        run=_train,
        reads=("pairs.jsonl",),
        writes="adapter",
        sections=("model", "video", "train", "seed"),
        inputs=_nothing_else,
    ),
    "evaluate": Stage(
        run=_evaluate,
        reads=("adapter",),
        writes="metrics.json",
        sections=("model", "video", "generate", "judge", "pair", "evaluate", "seed"),
        inputs=_evaluate_inputs,
    ),
}


def stage_of(recipe: Recipe, name: str) -> Stage:
    """Return a stage of a recipe; pairs that the data brings need no candidates and judgments."""
    stage = STAGES[name]
    if name == "pair" and recipe.data.pairs is not None:
        return replace(stage, reads=(), sections=())
    return stage


def stages_of(recipe: Recipe) -> list[str]:
    """Return the stages of a whole run, in order."""
    left_out: set[str] = set()
    if recipe.data.pairs is not None:
        left_out |= {"generate", "judge"}
    if not recipe.data.heldout:
        left_out.add("evaluate")
    return [name for name in STAGES if name not in left_out]


def do_stages(
    run: Run,
    names: Sequence[str],
    *,
    instead: Mapping[str, Callable[[Run], StageResult]] | None = None,
) -> list[str]:
    """Do the named stages in order, each unless it is finished with these settings; return those
    done.

    `instead` holds other functions that do a stage; they do it again where it is finished.
    """
    done = []
    for name in names:
        stage = stage_of(run.recipe, name)
        stage_function = (instead or {}).get(name)
        _check_inputs(run, stage)
        key = fingerprint(run, name)
        if stage_function is None and _is_finished(run, name, key):
            print_line(f"{name}: finished before, nothing to do ({run.folder / stage.writes})")
            continue
        begin = time.monotonic()
        result = (stage_function or stage.run)(replace(run, stage_began=begin))
        seconds = time.monotonic() - begin
        if result.complete:
            run.store.finish(name, fingerprint=key, seconds=seconds, summary=result.counts)
        _track(run, name, result.counts, seconds)
        print_line(
            f"{name}: {_counts(result.counts)}; {seconds:.0f} s; {run.folder / stage.writes}"
        )
        if not result.complete:
            print_line(
                f"{name}: not finished: {result.incomplete_because}; the same command goes on"
            )
        done.append(name)
        _write_manifest(run)
    return done


def _check_inputs(run: Run, stage: Stage) -> None:
    """Raise UserError where a file that the stage reads is not there."""
    for file in stage.reads:
        if not (run.folder / file).exists():
            maker = next(name for name, row in STAGES.items() if row.writes == file)
            raise UserError(
                f"no {file} in {str(run.folder)!r}; make it first: dpo-video {maker} RECIPE"
            )


def _is_finished(run: Run, name: str, key: str) -> bool:
    """Return whether a stage was finished under this fingerprint and its result is still there."""
    before = run.store.finished(name)
    return (
        before is not None
        and (run.folder / STAGES[name].writes).exists()
        and before["fingerprint"] in (key, fingerprint(run, name, defaults=False))
    )


def _track(run: Run, name: str, summary: Mapping[str, Any], seconds: float) -> None:
    """Log a finished stage: its counts, a table of pairs, and what it made as an artifact."""
    run.tracker.log_stage(name, summary, seconds)
    if run.tracker.wandb_run is None:
        return
    if name == "pair":
        from dpo_video.pair.tracked_table import tracked_rows

        judged = run.folder / "judgments.jsonl"
        judgments = (
            {row.candidate_id: row for row in read_jsonl(judged, Judgment)}
            if judged.exists()
            else {}
        )
        pairs = list(read_jsonl(run.folder / "pairs.jsonl", Pair))
        run.tracker.log_pairs(
            tracked_rows(
                pairs,
                judgments,
                root=run.video_root,
                video=run.recipe.video,
                count=run.recipe.tracking.pair_table_rows,
                seed=run.recipe.seed,
            )
        )
    kinds = {
        "pair": ("pairs", []),
        "train": ("adapter", ["pairs"]),
        "evaluate": ("metrics", ["adapter"]),
    }
    if name in kinds:
        kind, uses = kinds[name]
        run.tracker.log_artifact(run.folder / STAGES[name].writes, kind=kind, uses=uses)


def _counts(summary: Mapping[str, Any]) -> str:
    """Return the counts of a summary on one line; nested ones in brackets, statistics stay in the
    manifest.
    """
    parts = []
    for name, value in summary.items():
        if isinstance(value, dict):
            inner = ", ".join(
                f"{key} {count}" for key, count in value.items() if isinstance(count, int)
            )
            parts.extend([f"{name} ({inner})"] if inner else [])
        elif isinstance(value, float):
            parts.append(f"{name} {value:.3g}")
        elif isinstance(value, int | str):
            parts.append(f"{name} {value}")
    return ", ".join(parts).replace("_", " ")


def fingerprint(run: Run, name: str, *, defaults: bool = True) -> str:
    """Hash the settings, samples and input files that determine a stage's result.

    `defaults` as in `key_settings`: False gives the hash that a stage was finished under before
    some of its settings were found to touch no result.
    """
    stage = stage_of(run.recipe, name)
    settings = key_settings(run.recipe, defaults=defaults)
    parts: dict[str, Any] = {section: settings[section] for section in stage.sections}
    parts["data"] = {"max_bad_fraction": run.recipe.data.max_bad_fraction}
    samples = [*run.samples, *run.heldout] if name == "evaluate" else run.samples
    parts["samples"] = (_determining(sample) for sample in samples)
    parts["files"] = {file: content_hash(run.folder / file) for file in stage.reads}
    return row_key(**parts, **stage.inputs(run))


def _determining(sample: Sample) -> dict[str, Any]:
    """Return what a sample's results depend on: all of it but `meta`."""
    row = as_row(sample)
    del row["meta"]
    return row


def _write_manifest(run: Run) -> None:
    """Write manifest.json: the resolved recipe, versions, and what each finished stage did."""
    versions = {"python": platform.python_version()}
    for package in VERSIONS_OF:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    manifest = {
        "recipe": run.recipe.model_dump(),
        "versions": versions,
        "bad_clips": run.bad_clips,
        "cleaned": dict(run.cleaned),
        "stages": {name: run.store.finished(name) for name in STAGES},
    }
    write_atomic(
        run.folder / "manifest.json",
        json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    )
