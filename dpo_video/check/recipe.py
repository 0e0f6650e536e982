"""What in a recipe stands in the way of a run, or will disappoint: found from settings and samples,
without a model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dpo_video.core.errors import UserError
from dpo_video.core.records import Sample
from dpo_video.judge.backends.openai import api_key
from dpo_video.judge.modes.claims import check_split_examples
from dpo_video.judge.modes.jury import family_warnings
from dpo_video.judge.modes.pairwise import pairwise_scorer
from dpo_video.judge.prices import open_spending
from dpo_video.judge.scorer import Scorer, load_scorer
from dpo_video.judge.verdict import check_examples
from dpo_video.models.hub import resolve_model
from dpo_video.pair.stage import read_rewards
from dpo_video.recipe import Recipe
from dpo_video.train.dpo_config import dpo_config

FEW_CLIPS = 30
"""Held-out clips below which an interval over clips is wide and unsteady."""
HEADROOM = 1.1
"""GPU memory beyond the estimate for the CUDA context and fragmentation."""


@dataclass(frozen=True, slots=True)
class Findings:
    """Lists that the parts of a check add to."""

    assumptions: list[str]
    problems: list[str]
    warnings: list[str]

    def collect(self, do: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a call returns; a UserError becomes a problem, and None is returned."""
        try:
            return do(*arguments)
        except UserError as error:
            self.problems.extend(str(error).splitlines())
            return None

    def check_clusters(self, videos: Sequence[str | list[str]]) -> None:
        """Say where held-out clips are too few for intervals over clips."""
        clips = {str(video) for video in videos}
        if len(clips) < 2:
            self.warnings.append("only one held-out clip: there will be no intervals")
        elif len(clips) < FEW_CLIPS:
            self.warnings.append(
                f"only {len(clips)} held-out clips: intervals over clips will be wide"
            )

    def check_memory(self, gib: float, recipe: Recipe) -> None:
        """Hold the largest estimate in GiB against the GPU here."""
        if recipe.model.device == "cpu":
            return
        if not torch.cuda.is_available():
            self.warnings.append(
                f"no GPU is visible here; the run needs one with about {gib * HEADROOM:.0f} GiB"
            )
            return
        size = torch.cuda.get_device_properties(0).total_memory / (1 << 30)
        if gib * HEADROOM > size:
            self.warnings.append(
                f"about {gib * HEADROOM:.0f} GiB of GPU memory are needed, this GPU has "
                f"{size:.0f}: "
                "set model.quantize=nf4, or lower batch sizes, frames or video.max_pixels"
            )


def check_recipe(
    recipe: Recipe, samples: Sequence[Sample], heldout: Sequence[Sample], findings: Findings
) -> None:
    """Add to the findings what is wrong or doubtful with judge, sampling, pairs, training settings
    and evaluation.

    Where `data.pairs` is given nothing is sampled, and without held-out samples nothing is judged
    either.
    """
    pairs_given = recipe.data.pairs is not None
    if not pairs_given or recipe.data.heldout is not None:
        scorer = _check_judge(recipe, findings)
        if scorer is not None and scorer.needs_reference and not pairs_given:
            _check_references(scorer, samples, findings)
        if recipe.pair.tie_break is not None:
            findings.collect(pairwise_scorer, recipe.pair.tie_break, "pair.tie_break")
    if not pairs_given:
        _check_rewards(recipe, findings)
        _check_sampling(recipe, findings)
    findings.collect(
        partial(
            dpo_config,
            recipe,
            output_dir=recipe.run_folder / "checkpoints",
            precision="no",
            use_cpu=recipe.model.device == "cpu",
        )
    )
    _check_evaluation(recipe, heldout, findings)


def _check_judge(recipe: Recipe, findings: Findings) -> Scorer | None:
    """Return the scorer, or None where it cannot be loaded."""
    scorer: Scorer | None = findings.collect(load_scorer, recipe.judge.scorer)
    if scorer is not None:
        findings.collect(check_examples, scorer)
        findings.collect(check_split_examples, scorer)
        _check_pairing(recipe, scorer, findings)
    if recipe.judge.backend == "openai":
        findings.collect(api_key, recipe.judge)
        findings.collect(open_spending, recipe.judge)
    else:
        findings.collect(resolve_model, recipe.judge.model)
    if recipe.judge.model == recipe.model.name:
        findings.warnings.append(
            "judge.model is the policy itself: a model favours its own answers"
        )
    else:
        findings.warnings.extend(family_warnings(recipe.judge, recipe.model.name))
    return scorer


def _check_pairing(recipe: Recipe, scorer: Scorer, findings: Findings) -> None:
    settings, reach = recipe.pair, scorer.high - scorer.low
    if settings.rule == "hound":
        threshold = scorer.threshold if settings.threshold is None else settings.threshold
        if not scorer.low < threshold <= scorer.high:
            findings.problems.append(
                f"pair.threshold {threshold:g} leaves no answer on one side: {scorer.name} scores "
                f"from {scorer.low:g} to {scorer.high:g}"
            )
    elif settings.min_margin > reach:
        findings.problems.append(
            f"pair.min_margin {settings.min_margin:g} is wider than the scores of {scorer.name} "
            f"({scorer.low:g} to {scorer.high:g}): no pair could be made"
        )
    floor = settings.min_rejected_score
    if floor is not None and floor >= scorer.high:
        findings.problems.append(
            f"pair.min_rejected_score {floor:g} leaves no rejected answer: {scorer.name} scores "
            f"from {scorer.low:g} to {scorer.high:g}"
        )
    if settings.noise_margins is not None and not (recipe.run_folder / "agreement.json").is_file():
        findings.warnings.append(
            "pair.noise_margins needs the judge's measured noise: once the candidates are judged, "
            f"run dpo-video agree {recipe.run_folder}"
        )


def _check_rewards(recipe: Recipe, findings: Findings) -> None:
    rewards = recipe.pair.implicit_rewards
    if rewards is not None and not Path(rewards).expanduser().is_file():
        findings.warnings.append(
            f"pair.implicit_rewards: no file at {rewards!r} yet; it is needed once the candidates "
            "are judged"
        )
    else:
        findings.collect(read_rewards, recipe.pair)


def _check_references(scorer: Scorer, samples: Sequence[Sample], findings: Findings) -> None:
    without = sum(not sample.answer for sample in samples)
    if without:
        where = findings.problems if without == len(samples) else findings.warnings
        where.append(
            f"{without} of {len(samples)} samples have no gold `answer`, which {scorer.name} "
            f"compares with: "
            "their candidates stay unscored"
        )


def _check_sampling(recipe: Recipe, findings: Findings) -> None:
    settings = recipe.generate
    if settings.candidates_per_sample < 2:
        findings.problems.append(
            "generate.num_candidates is 1: a pair needs two answers to a question"
        )
    elif settings.temperature == 0:
        findings.problems.append(
            "generate.temperature is 0: all candidates of a question would be the same answer"
        )
    if settings.engine == "openai" and settings.base_url is None:
        findings.problems.append("generate.engine is openai and generate.base_url is not set")


def _check_evaluation(recipe: Recipe, heldout: Sequence[Sample], findings: Findings) -> None:
    settings = recipe.evaluate
    if settings.pairwise_scorer is not None:
        findings.collect(pairwise_scorer, settings.pairwise_scorer, "evaluate.pairwise_scorer")
    if recipe.data.heldout is None:
        findings.warnings.append(
            "data.heldout is not set: the run ends without numbers before and after"
        )
        return
    if settings.hallucination_scorer is not None:
        other = findings.collect(load_scorer, settings.hallucination_scorer)
        if other is not None:
            findings.collect(check_examples, other)
    if not any(sample.answer is not None for sample in heldout):
        findings.warnings.append(
            "no held-out sample has a gold `answer`: accuracy cannot be measured"
        )
