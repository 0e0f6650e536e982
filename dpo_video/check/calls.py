"""How often a run asks its judge, and with how many tokens."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from dpo_video.check.findings import Findings, problem
from dpo_video.check.plan import CHARACTERS_PER_TOKEN, Calls, dollars_text, estimate_tokens
from dpo_video.core.errors import UserError
from dpo_video.core.records import Sample
from dpo_video.judge.modes.jury import jurors
from dpo_video.judge.modes.registry import calls_per_sample
from dpo_video.judge.prices import load_prices
from dpo_video.judge.prompt import question_of, render
from dpo_video.judge.scorer import can_be_judged, load_scorer
from dpo_video.judge.types import MILLION, mode_of
from dpo_video.recipe import JudgeSettings, Recipe


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
        scorer = load_scorer(recipe.judge.scorer)
        judged = [sample for sample in heldout if can_be_judged(scorer, sample)]
        requests = [
            judge_calls(recipe, heldout, per_sample=2),
            judge_calls(
                recipe, judged[: settings.pair_samples], per_sample=settings.pair_candidates
            ),
        ]
        for name in (settings.hallucination_scorer, settings.correctness_scorer):
            if name is not None:
                requests.append(judge_calls(recipe, heldout, per_sample=2, scorer=name))
    except UserError:
        return None
    return Calls(
        calls=sum(request.calls for request in requests),
        tokens_in=sum(request.tokens_in for request in requests),
        tokens_out=sum(request.tokens_out for request in requests),
    )


def most_dollars(recipe: Recipe, calls: Calls | None) -> float | None:
    """Return the most that calls cost by `judge.prices`; None where there is no price of a judge,
    or no calls are known. Several judges get the same share of the calls; a local one costs none.
    """
    if calls is None or recipe.judge.prices is None:
        return None
    prices = load_prices(Path(recipe.judge.prices).expanduser())
    judges = judges_of(recipe)
    dollars = 0.0
    for judge in judges:
        if judge.backend == "local":
            continue
        if judge.model not in prices:
            return None
        price, share = prices[judge.model], 1 / len(judges)
        dollars += share * (calls.tokens_in * price.input + calls.tokens_out * price.output)
    return dollars / MILLION


def check_cost(recipe: Recipe, dollars: float | None, *, of: str) -> Findings:
    """Return a problem where judging may cost more than `judge.max_cost` allows."""
    limit = recipe.judge.max_cost
    if dollars is None or limit is None or dollars <= limit:
        return Findings()
    return problem(
        f"judging {of} may cost up to {dollars_text(dollars)}, and judge.max_cost is {limit:g}: "
        "the run would stop there. Raise judge.max_cost, or lower judge.max_tokens, "
        "generate.num_candidates, generate.max_new_tokens or data.limit"
    )


def judges_of(recipe: Recipe) -> list[JudgeSettings]:
    """Return the settings of every judge that is asked: of the jury, the cascade, or the one."""
    own = recipe.judge.model_copy(update={"jury": None, "cascade": None})
    if recipe.judge.cascade is not None:
        return [recipe.judge.first_judge(), own]
    return jurors(recipe.judge) or [own]


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
            question=question_of(sample),
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
