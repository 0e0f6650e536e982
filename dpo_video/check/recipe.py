"""What in a recipe stands in the way of a run, or will disappoint: found from settings and samples,
without a model.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from dpo_video.check.findings import Findings, attempt, join_findings, problem, warn
from dpo_video.check.plan import memory_text
from dpo_video.check.training import check_dpo_config
from dpo_video.core.records import Sample
from dpo_video.judge.backends.openai import api_key
from dpo_video.judge.modes.claims import check_split_examples
from dpo_video.judge.modes.jury import family_warnings
from dpo_video.judge.modes.pairwise import pairwise_scorer
from dpo_video.judge.prices import open_spending
from dpo_video.judge.scorer import Scorer, load_scorer
from dpo_video.judge.verdict import check_examples
from dpo_video.models.names import resolve_model
from dpo_video.models.start import check_start
from dpo_video.pair.stage import noise_file, read_rewards
from dpo_video.recipe import Recipe

FEW_CLIPS = 30
"""Held-out clips below which an interval over clips is wide and unsteady."""
HEADROOM = 1.1
"""GPU memory beyond the estimate for the CUDA context and fragmentation."""


def check_recipe(recipe: Recipe, samples: Sequence[Sample], heldout: Sequence[Sample]) -> Findings:
    """Return what is wrong or doubtful with judge, sampling, pairs, training settings and
    evaluation.

    Where `data.pairs` is given nothing is sampled, and without held-out samples nothing is judged
    either.
    """
    pairs_given = recipe.data.pairs is not None
    findings = Findings()
    if recipe.rounds is not None:
        num_rounds = recipe.rounds.count
        findings += Findings(
            assumptions=(
                f"all numbers are of the first round, of {num_rounds} at most; a text that an "
                "earlier round has judged is not judged again",
            )
        )
    if not pairs_given or recipe.data.heldout is not None:
        scorer, judge_findings = _check_judge(recipe)
        findings += judge_findings
        if scorer is not None and scorer.needs_reference and not pairs_given:
            findings += _check_references(scorer, samples)
        if recipe.pair.tie_break is not None:
            findings += attempt(pairwise_scorer, recipe.pair.tie_break, "pair.tie_break")[1]
    if not pairs_given:
        findings += _check_rewards(recipe) + _check_sampling(recipe)
    findings += attempt(check_dpo_config, recipe)[1] + attempt(check_start, recipe)[1]
    return findings + _check_evaluation(recipe, heldout)


def check_clusters(heldout: Sequence[Sample]) -> Findings:
    """Return a warning where held-out clips are too few for intervals over clips."""
    clips = {str(sample.video) for sample in heldout}
    if len(clips) < 2:
        return warn("only one held-out clip: there will be no intervals")
    if len(clips) < FEW_CLIPS:
        return warn(f"only {len(clips)} held-out clips: intervals over clips will be wide")
    return Findings()


def check_memory(gib: float, recipe: Recipe) -> Findings:
    """Return a warning where the largest estimate in GiB is more than the GPU here has."""
    if recipe.model.device == "cpu":
        return Findings()
    needed = memory_text(gib * HEADROOM)
    if not torch.cuda.is_available():
        return warn(f"no GPU is visible here; the run needs one with about {needed}")
    size = torch.cuda.get_device_properties(0).total_memory / (1 << 30)
    if gib * HEADROOM <= size:
        return Findings()
    return warn(
        f"about {needed} of GPU memory are needed, this GPU has {memory_text(size)}: set "
        "model.quantize=nf4, or lower batch sizes, frames or video.max_pixels"
    )


def _check_judge(recipe: Recipe) -> tuple[Scorer | None, Findings]:
    """Return the scorer, or None where it cannot be loaded, and what is wrong with the judge."""
    scorer, findings = attempt(load_scorer, recipe.judge.scorer)
    if scorer is not None:
        findings += attempt(check_examples, scorer)[1]
        findings += attempt(check_split_examples, scorer)[1]
        findings += _check_pairing(recipe, scorer)
    if recipe.judge.backend == "openai":
        findings += attempt(api_key, recipe.judge)[1]
        findings += attempt(open_spending, recipe.judge)[1]
    else:
        findings += attempt(resolve_model, recipe.judge.model)[1]
    if recipe.judge.model == recipe.model.name:
        findings += warn("judge.model is the policy itself: a model favours its own answers")
    else:
        findings += join_findings(map(warn, family_warnings(recipe.judge, recipe.model.name)))
    return scorer, findings


def _check_pairing(recipe: Recipe, scorer: Scorer) -> Findings:
    settings, reach = recipe.pair, scorer.high - scorer.low
    findings = Findings()
    if settings.rule == "hound":
        threshold = scorer.threshold if settings.threshold is None else settings.threshold
        if not scorer.low < threshold <= scorer.high:
            findings += problem(
                f"pair.threshold {threshold:g} leaves no answer on one side: {scorer.name} scores "
                f"from {scorer.low:g} to {scorer.high:g}"
            )
    elif settings.min_margin > reach:
        findings += problem(
            f"pair.min_margin {settings.min_margin:g} is wider than the scores of {scorer.name} "
            f"({scorer.low:g} to {scorer.high:g}): no pair could be made"
        )
    floor = settings.min_rejected_score
    if floor is not None and floor >= scorer.high:
        findings += problem(
            f"pair.min_rejected_score {floor:g} leaves no rejected answer: {scorer.name} scores "
            f"from {scorer.low:g} to {scorer.high:g}"
        )
    return findings + _check_noise(recipe)


def _check_noise(recipe: Recipe) -> Findings:
    """Warn where the judge's noise is still to be measured: of several rounds in the first."""
    folder = recipe.run_folder if recipe.rounds is None else recipe.run_folder / "rounds" / "1"
    file = noise_file(recipe.pair, folder)
    if recipe.pair.noise_margins is None or file.is_file():
        return Findings()
    return warn(
        "pair.noise_margins needs the judge's measured noise: once the candidates are judged, "
        f"run dpo-video agree {file.parent}, and then this run again"
    )


def _check_rewards(recipe: Recipe) -> Findings:
    rewards = recipe.pair.implicit_rewards
    if rewards is not None and not Path(rewards).expanduser().is_file():
        return warn(
            f"pair.implicit_rewards: no file at {rewards!r} yet; it is needed once the candidates "
            "are judged"
        )
    return attempt(read_rewards, recipe.pair)[1]


def _check_references(scorer: Scorer, samples: Sequence[Sample]) -> Findings:
    without = sum(not sample.answer for sample in samples)
    if not without:
        return Findings()
    sentence = (
        f"{without} of {len(samples)} samples have no gold `answer`, which {scorer.name} "
        "compares with: their candidates stay unscored"
    )
    return problem(sentence) if without == len(samples) else warn(sentence)


def _check_sampling(recipe: Recipe) -> Findings:
    settings = recipe.generate
    findings = Findings()
    if settings.candidates_per_sample < 2:
        findings += problem("generate.num_candidates is 1: a pair needs two answers to a question")
    elif settings.temperature == 0:
        findings += problem(
            "generate.temperature is 0: all candidates of a question would be the same answer"
        )
    if settings.engine == "openai" and settings.base_url is None:
        findings += problem("generate.engine is openai and generate.base_url is not set")
    return findings


def _check_evaluation(recipe: Recipe, heldout: Sequence[Sample]) -> Findings:
    settings = recipe.evaluate
    findings = Findings()
    if settings.pairwise_scorer is not None:
        name = "evaluate.pairwise_scorer"
        findings += attempt(pairwise_scorer, settings.pairwise_scorer, name)[1]
    for scorer_name in (settings.hallucination_scorer, settings.correctness_scorer):
        if scorer_name is not None and (recipe.data.heldout is not None or settings.sets):
            scorer, scorer_findings = attempt(load_scorer, scorer_name)
            findings += scorer_findings
            if scorer is not None:
                findings += attempt(check_examples, scorer)[1]
    if recipe.data.heldout is None:
        warning = "data.heldout is not set: the run ends without numbers before and after"
        return findings if settings.sets else findings + warn(warning)
    if not any(sample.answer is not None for sample in heldout):
        findings += warn("no held-out sample has a gold `answer`: accuracy cannot be measured")
    return findings
