"""The stages in order: what each reads and writes, what makes its result stale, and
manifest.json.
"""

import importlib
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
from dpo_video.core.records import Judgment, Pair
from dpo_video.judge.types import NO_REPLY
from dpo_video.recipe import Recipe
from dpo_video.run import Run
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


SPEED_ONLY = frozenset(
    {
        "video.preset",  # a name for settings that stand beside it
        "video.workers",
        "video.timeout",
        "video.cache",
        "video.cache_gb",
        "video.cache_folder",
        "generate.base_url",
        "generate.batch_size",
        "generate.concurrency",
        "generate.timeout",
        "generate.retries",
        "generate.api_key_env",
        "judge.base_url",
        "judge.api_key_env",
        "judge.batch_size",
        "judge.concurrency",
        "judge.timeout",
        "judge.retries",
        "judge.max_failed_fraction",
        "judge.engine",
        "judge.answers_as",
        "judge.prices",
        "judge.max_cost",
        "train.save_steps",
        "train.logging_steps",
        "train.reference_folder",
    }
)
"""Settings that change how fast a result comes, not the result: changing them redoes nothing."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage's files and the recipe sections that determine its result."""

    reads: tuple[str, ...]
    writes: str
    sections: tuple[str, ...]


STAGES: dict[str, Stage] = {
    "generate": Stage(
        reads=(), writes="candidates.jsonl", sections=("model", "video", "generate", "seed")
    ),
    "judge": Stage(
        reads=("candidates.jsonl",), writes="judgments.jsonl", sections=("clean", "judge")
    ),
    "pair": Stage(
        reads=("candidates.jsonl", "judgments.jsonl"),
        writes="pairs.jsonl",
        sections=("judge", "pair", "seed"),
    ),
    "train": Stage(
        reads=("pairs.jsonl",), writes="adapter", sections=("model", "video", "train", "seed")
    ),
    "evaluate": Stage(
        reads=("adapter",),
        writes="metrics.json",
        sections=("model", "video", "generate", "judge", "pair", "evaluate", "seed"),
    ),
}


def stage_of(recipe: Recipe, name: str) -> Stage:
    """Return a stage's files and sections; pairs that are given need no judgments."""
    stage = STAGES[name]
    if name == "pair" and recipe.data.pairs is not None:
        return replace(stage, reads=(), sections=())
    return stage


def stages_of(recipe: Recipe) -> list[str]:
    """Return the stages of a whole run, in order."""
    given = recipe.data.pairs is not None
    without = {
        *(("generate", "judge") if given else ()),
        *(() if recipe.data.heldout else ("evaluate",)),
    }
    return [name for name in STAGES if name not in without]


def do_stages(
    run: Run,
    names: Sequence[str],
    *,
    instead: Mapping[str, Callable[[Run], dict[str, Any]]] | None = None,
) -> list[str]:
    """Do the named stages in order, each unless it is finished with these settings; return those
    done.

    `instead` holds other functions that do a stage; they do it again where it is finished.
    """
    done, given = [], instead or {}
    for name in names:
        stage = stage_of(run.recipe, name)
        for file in stage.reads:
            if not (run.folder / file).exists():
                maker = next(other for other, row in STAGES.items() if row.writes == file)
                raise UserError(
                    f"no {file} in {str(run.folder)!r}; make it first: dpo-video {maker} RECIPE"
                )
        fingerprint = _fingerprint(run, name)
        before = run.store.finished(name)
        same = (
            before is not None
            and before["fingerprint"] == fingerprint
            and (run.folder / stage.writes).exists()
        )
        if same and name not in given:
            print(f"{name}: finished before, nothing to do ({run.folder / stage.writes})")
            continue
        begin = time.monotonic()
        summary = (
            given.get(name) or getattr(importlib.import_module(f"dpo_video.{name}.stage"), name)
        )(run)
        seconds = time.monotonic() - begin
        # failed rows, and those that were not asked, are tried by the next run
        if not summary.get("failed") and not summary.get("reasons", {}).get(NO_REPLY):
            run.store.finish(name, fingerprint=fingerprint, seconds=seconds, summary=summary)
        _track(run, name, summary, seconds)
        print(f"{name}: {_counts(summary)}; {seconds:.0f} s; {run.folder / stage.writes}")
        done.append(name)
        _write_manifest(run)
    return done


def _track(run: Run, name: str, summary: dict[str, Any], seconds: float) -> None:
    """Log a finished stage: its counts, a table of pairs, and what it made as an artifact."""
    run.tracker.log_stage(name, summary, seconds)
    if run.tracker.wandb_run is None:
        return
    if name == "pair":
        from dpo_video.pair.tracked_table import pair_rows

        judged = run.folder / "judgments.jsonl"
        judgments = (
            {row.candidate_id: row for row in read_jsonl(judged, Judgment)}
            if judged.exists()
            else {}
        )
        pairs = list(read_jsonl(run.folder / "pairs.jsonl", Pair))
        run.tracker.log_pairs(
            pair_rows(
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


def _counts(summary: dict[str, Any]) -> str:
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


def _fingerprint(run: Run, name: str) -> str:
    """Hash the settings, samples and input files that determine a stage's result."""
    from dpo_video.judge.scorer import load_scorer
    from dpo_video.pair.stage import with_noise

    stage = stage_of(run.recipe, name)
    settings = run.recipe.model_dump()
    for dotted in SPEED_ONLY:
        section, key = dotted.split(".")
        settings[section].pop(key)
    parts: dict[str, Any] = {section: settings[section] for section in stage.sections}
    parts["data"] = {"max_bad_fraction": run.recipe.data.max_bad_fraction}
    samples = [*run.samples, *run.heldout] if name == "evaluate" else run.samples
    parts["samples"] = (as_row(sample) for sample in samples)
    parts["files"] = {file: content_hash(run.folder / file) for file in stage.reads}
    if name == "pair" and run.recipe.data.pairs is not None:
        parts["pairs"] = content_hash(Path(run.recipe.data.pairs).expanduser())
        if run.recipe.pair.video_negatives:
            parts["video_negatives"] = [run.recipe.pair.video_negatives, run.recipe.seed]
    if "judge" in stage.sections:
        parts["scorer"] = load_scorer(run.recipe.judge.scorer).version
    if "pair" in stage.sections:
        parts["min_margin"] = with_noise(run.recipe.pair, run.folder).min_margin
    if name == "pair" and run.recipe.pair.implicit_rewards:
        rewards = Path(run.recipe.pair.implicit_rewards).expanduser()
        parts["rewards"] = content_hash(rewards) if rewards.is_file() else None
    if "pair" in stage.sections and run.recipe.pair.tie_break is not None:
        parts["tie_break"] = load_scorer(run.recipe.pair.tie_break).version
    if name == "evaluate":
        pairwise = run.recipe.evaluate.pairwise_scorer
        parts["pairwise_scorer"] = pairwise and load_scorer(pairwise).version
        hallucination = run.recipe.evaluate.hallucination_scorer
        parts["hallucination_scorer"] = hallucination and load_scorer(hallucination).version
        parts["beta"] = run.recipe.train.beta  # scales the held-out margins
    return row_key(**parts)


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
        run.folder / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    )
