"""The table of stages: what each reads and writes, and what determines its result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.imports import large_imports
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.stage import judge
from dpo_video.pair.stage import pair, with_noise
from dpo_video.recipe import Recipe
from dpo_video.recipe.affects import key_settings
from dpo_video.run import Run, StageResult
from dpo_video.stale import sample_row
from dpo_video.store import content_hash, row_key


def _generate(run: Run) -> StageResult:
    with large_imports():  # here: it needs torch, as the next two do
        from dpo_video.generate.stage import generate

    return generate(run)


def _train(run: Run) -> StageResult:
    with large_imports():
        from dpo_video.train.stage import train

    return train(run)


def _evaluate(run: Run) -> StageResult:
    with large_imports():
        from dpo_video.evaluate.stage import evaluate

    return evaluate(run)


def _nothing_else(run: Run) -> dict[str, Any]:
    return {}


def _judge_inputs(run: Run) -> dict[str, Any]:
    return {"scorer": load_scorer(run.recipe.judge.scorer).version}


def _scorer_with_threshold(name: str) -> str:
    """Return a scorer's version, and of a user's file the threshold: an edit of it changes no
    score, but which answers count as good.
    """
    scorer = load_scorer(name)
    is_file = name.endswith((".yaml", ".yml"))
    return f"{scorer.version}, good from {scorer.threshold:g}" if is_file else scorer.version


def _pairing_inputs(run: Run) -> dict[str, Any]:
    """Return what pairs are built with: the scorer's version, the margin with the measured noise,
    the tie break's version.
    """
    settings = run.recipe.pair
    inputs: dict[str, Any] = {
        "scorer": _scorer_with_threshold(run.recipe.judge.scorer),
        "min_margin": with_noise(settings, run.folder).min_margin,
    }
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
    if settings.votes != "ignore":
        votes = run.folder / "votes.jsonl"
        inputs["votes"] = content_hash(votes) if votes.is_file() else None
    if settings.also is not None and run.recipe.data.pairs is None:
        earlier = Path(settings.also).expanduser()
        if not earlier.is_file():
            raise UserError(f"pair.also: no file at {settings.also!r}. Give a JSONL of Pair")
        inputs["also"] = content_hash(earlier)
    if settings.implicit_rewards:
        rewards = Path(settings.implicit_rewards).expanduser()
        inputs["rewards"] = content_hash(rewards) if rewards.is_file() else None
    return inputs


def _train_inputs(run: Run) -> dict[str, Any]:
    """Return the contents of the reference's adapter, where there is any adapter."""
    adapter = run.recipe.reference_adapter
    if adapter is None and run.recipe.start_adapter is None:
        return {}
    return {"reference": adapter and content_hash(adapter)}


def _evaluate_inputs(run: Run) -> dict[str, Any]:
    from dpo_video.evaluate.report import MEASURES  # here: it brings the measures of all sets

    pairwise = run.recipe.evaluate.pairwise_scorer
    hallucination = run.recipe.evaluate.hallucination_scorer
    correctness = run.recipe.evaluate.correctness_scorer
    return _pairing_inputs(run) | {
        "pairwise_scorer": pairwise and load_scorer(pairwise).version,
        "hallucination_scorer": hallucination and _scorer_with_threshold(hallucination),
        "correctness_scorer": correctness and _scorer_with_threshold(correctness),
        "beta": run.recipe.train.beta,  # scales the held-out margins
        "measures": MEASURES,
        **_train_inputs(run),
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
    reports: tuple[str, ...] = ()
    """Files about what the stage writes: once that is another one, they tell of what is gone."""


STAGES: dict[str, Stage] = {
    "generate": Stage(
        run=_generate,
        reads=(),
        writes="candidates.jsonl",
        sections=("model", "video", "generate", "seed"),
        inputs=_nothing_else,
        reports=("rewards.jsonl",),
    ),
    "judge": Stage(
        run=judge,
        reads=("candidates.jsonl",),
        writes="judgments.jsonl",
        sections=("clean", "judge"),
        inputs=_judge_inputs,
        reports=("agreement.json", "agreement.html", "report"),
    ),
    "pair": Stage(
        run=pair,
        reads=("candidates.jsonl", "judgments.jsonl"),
        writes="pairs.jsonl",
        sections=("judge", "pair", "seed"),
        inputs=_pair_inputs,
        reports=("audit.json", "audit.html", "report"),
    ),
    "train": Stage(
        run=_train,
        reads=("pairs.jsonl",),
        writes="adapter",
        sections=("model", "video", "train", "seed"),
        inputs=_train_inputs,
        reports=(
            "metrics.json",
            "answers.jsonl",
            "heldout_pairs.jsonl",
            "rewards.jsonl",
            "merged",
            "report",
        ),
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
    if not recipe.data.heldout and not recipe.evaluate.sets:
        left_out.add("evaluate")
    return [name for name in STAGES if name not in left_out]


def maker_of(file: str) -> str:
    """Return the stage that writes a file."""
    return next(name for name, stage in STAGES.items() if stage.writes == file)


def fingerprint(run: Run, name: str, *, defaults: bool = True) -> str:
    """Hash the settings, samples and input files that determine a stage's result.

    `defaults` as in `key_settings`: False gives the hash that a stage was finished under before
    some of its settings were found to touch no result.
    """
    return fingerprint_of(run, name, determining_parts(run, name, defaults=defaults))


def fingerprint_of(run: Run, name: str, parts: Mapping[str, Any]) -> str:
    """Return the hash of a stage whose `determining_parts` are known."""
    samples = [*run.samples, *run.evaluated] if name == "evaluate" else run.samples
    rows = (sample_row(sample, with_choice=name == "evaluate") for sample in samples)
    return row_key(**parts, samples=rows)


def determining_parts(run: Run, name: str, *, defaults: bool = True) -> dict[str, Any]:
    """Return what determines a stage's result beside the samples: settings, hashes of files, and
    the inputs of the stage's own.
    """
    stage = stage_of(run.recipe, name)
    settings = key_settings(run.recipe, defaults=defaults)
    named = {"start": run.recipe.start_adapter, "family": run.recipe.family_file}.items()
    return {
        **{section: settings[section] for section in stage.sections},
        **{part: content_hash(path) for part, path in named if path and "model" in stage.sections},
        "data": {"max_bad_fraction": run.recipe.data.max_bad_fraction},
        "files": {file: content_hash(run.folder / file) for file in stage.reads},
        **stage.inputs(run),
    }
