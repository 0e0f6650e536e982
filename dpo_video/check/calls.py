"""How often a run asks its judge, and with how many tokens."""

from collections.abc import Sequence
from itertools import chain

from dpo_video.check.plan import CHARACTERS_PER_TOKEN, Calls, estimate_tokens
from dpo_video.core.errors import UserError
from dpo_video.core.records import Sample
from dpo_video.judge.modes.registry import calls_per_sample
from dpo_video.judge.prompt import render
from dpo_video.judge.scorer import can_be_judged, load_scorer
from dpo_video.judge.types import mode_of
from dpo_video.recipe import Recipe


def candidate_calls(recipe: Recipe, samples: Sequence[Sample]) -> Calls | None:
    """Return the calls that judge the candidates; None where the scorer cannot be loaded, which
    stands among the problems already.
    """
    if recipe.data.pairs is not None:
        return Calls(0, 0, 0)
    try:
        return judge_calls(recipe, samples, per_sample=recipe.generate.candidates_per_sample)
    except UserError:
        return None


def evaluation_calls(recipe: Recipe, heldout: Sequence[Sample]) -> Calls | None:
    """Return the calls that judge base and tuned answers by both scorers, and the answers behind
    held-out pairs; None where a scorer cannot be loaded.
    """
    if recipe.data.heldout is None:
        return Calls(0, 0, 0)
    settings = recipe.evaluate
    try:
        judged = [s for s in heldout if can_be_judged(load_scorer(recipe.judge.scorer), s)]
        requests = [
            judge_calls(recipe, heldout, per_sample=2),
            judge_calls(
                recipe, judged[: settings.pair_samples], per_sample=settings.pair_candidates
            ),
        ]
        for scorer in (settings.hallucination_scorer, settings.correctness_scorer):
            if scorer is not None:
                requests.append(judge_calls(recipe, heldout, per_sample=2, scorer=scorer))
    except UserError:
        return None
    return Calls(
        calls=sum(request.calls for request in requests),
        tokens_in=sum(request.tokens_in for request in requests),
        tokens_out=sum(request.tokens_out for request in requests),
    )


def judge_calls(
    recipe: Recipe, samples: Sequence[Sample], *, per_sample: int, scorer: str | None = None
) -> Calls:
    """Return the calls that score `per_sample` answers to each sample; answers are taken as long as
    they may be.
    """
    loaded = load_scorer(scorer or recipe.judge.scorer)
    answer = "x" * (CHARACTERS_PER_TOKEN * recipe.generate.max_new_tokens)
    prompts = [
        render(
            loaded,
            caption=sample.caption,
            question=sample.prompt,
            answer=answer,
            other=answer,
            reference=sample.answer,
        )
        for sample in samples
        if can_be_judged(loaded, sample)
        and (sample.answer is not None or not loaded.needs_reference)
    ]
    messages = chain.from_iterable(prompts)
    prompt_tokens = sum(estimate_tokens(message["content"]) for message in messages)
    sample_calls = calls_per_sample(recipe.judge, loaded, per_sample)
    calls = sample_calls * len(prompts)
    reply = 1 if mode_of(recipe.judge, loaded) == "labels" else recipe.judge.max_tokens
    return Calls(calls=calls, tokens_in=sample_calls * prompt_tokens, tokens_out=calls * reply)
