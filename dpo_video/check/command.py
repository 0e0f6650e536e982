"""The plan of a run from configs and a few decoded clips, before anything is generated, paid for or
trained.

Data that are not there are planned for with the assumptions of check_data.py, and the plan says so.
That is a problem (exit code 2), except at the example paths of the shipped recipes, which everyone
replaces by their own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from dpo_video.check.data import Clip, Data, load_data, read_clips
from dpo_video.check.plan import Calls, Plan, Spread, render
from dpo_video.check.recipe import Findings, check_recipe
from dpo_video.core.errors import UserError
from dpo_video.core.records import Sample
from dpo_video.data.samples import check_disjoint
from dpo_video.judge.modes.registry import calls_per_sample
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.scorer import render as render_prompt
from dpo_video.judge.types import mode_of
from dpo_video.models.hub import ModelSpec, model_spec
from dpo_video.models.memory import (
    PeakLoad,
    count_parameters,
    estimate_generation,
    estimate_training,
)
from dpo_video.models.tokens import frames_within, video_tokens, vision_patches
from dpo_video.pair.video_negatives import add_negatives
from dpo_video.recipe import Recipe

__all__ = ["Plan", "check", "render"]

CHARACTERS_PER_TOKEN = 4
TEMPLATE_TOKENS = 32
"""Chat template around a question."""


def check(recipe: Recipe) -> Plan:
    """Return what a run of the recipe would do, and all that stands in its way; train and generate
    nothing.

    Raises UserError only where nothing can be planned: the model is unknown, or a frame cannot fit
    the settings.
    """
    findings = Findings([], [], [])
    heldout = load_data(recipe, "heldout", findings)
    train = load_data(
        recipe, "samples", findings, heldout=() if heldout.root is None else heldout.samples
    )
    if train.root is not None and heldout.root is not None:
        apart = partial(check_disjoint, video_root=train.root, heldout_root=heldout.root)
        findings.collect(apart, train.samples, heldout.samples)
    check_recipe(recipe, train.samples, heldout.samples, findings)
    if heldout.root is not None:
        findings.check_clusters([sample.video for sample in heldout.samples])
    plan = model_spec(recipe.model)
    clips = read_clips(recipe, plan, train, findings)
    return _plan(recipe, plan, [train, heldout], clips, findings)


def _plan(
    recipe: Recipe, plan: ModelSpec, data: Sequence[Data], clips: Sequence[Clip], findings: Findings
) -> Plan:
    train, heldout = data
    sizes = [_size(recipe, plan, clip) for clip in clips]
    over = sum(size.num_frames < clip.num_frames for size, clip in zip(sizes, clips, strict=True))
    if over:
        findings.warnings.append(
            f"{over} of {len(clips)} clips looked at are over their budget of tokens and lose "
            "frames, evenly"
        )
    video = [size.tokens for size in sizes]
    questions = [
        _tokens(record.prompt) + TEMPLATE_TOKENS for record in train.pairs or train.samples
    ]
    answers = [max(_tokens(pair.chosen), _tokens(pair.rejected)) for pair in train.pairs]
    sequence = _added(video, questions, answers or [recipe.generate.max_new_tokens])
    context = _check_context(recipe, plan, min(video), sequence.most, findings)
    load = PeakLoad(
        sequences=1,
        prompt_tokens=max(video) + max(questions),
        answer_tokens=max(answers, default=recipe.generate.max_new_tokens),
        patches=max(size.patches for size in sizes),
    )
    parameters, memory = count_parameters(plan, recipe.train.tune), _memory(recipe, plan, load)
    findings.check_memory(max(parts["total"] for parts in memory.values()), recipe)
    pairs = _most_pairs(recipe, train)
    per_sample = recipe.generate.candidates_per_sample
    return Plan(
        recipe=recipe.name,
        model=recipe.model.name,
        family=plan.family.name,
        questions=len(train.samples),
        clips=train.num_clips,
        heldout_questions=len(heldout.samples),
        heldout_clips=heldout.num_clips,
        frames=Spread.of([size.num_frames for size in sizes]),
        video_tokens=Spread.of(video),
        sequence=sequence,
        context=context,
        parameters=parameters.total,
        trainable=parameters.lora_per_rank * recipe.train.lora.rank,
        memory=memory,
        pairs=pairs,
        pairs_given=recipe.data.pairs is not None,
        steps=optimizer_steps(recipe, pairs),
        judge=(
            Calls(0, 0, 0)
            if recipe.data.pairs is not None
            else _if_known(lambda: judge_calls(recipe, train.samples, per_sample=per_sample))
        ),
        evaluation_judge=(
            Calls(0, 0, 0)
            if recipe.data.heldout is None
            else _if_known(lambda: _evaluation_calls(recipe, heldout.samples))
        ),
        decoded=0 if train.root is None else len(clips),
        assumptions=tuple(findings.assumptions),
        problems=tuple(findings.problems),
        warnings=tuple(findings.warnings),
    )


@dataclass(frozen=True, slots=True)
class _Size:
    num_frames: int
    tokens: int
    patches: int


def _size(recipe: Recipe, plan: ModelSpec, clip: Clip) -> _Size:
    """Return what a clip costs after `video.max_tokens`."""
    shape = {"height": clip.height, "width": clip.width}
    fitting = frames_within(plan, recipe.video, num_frames=clip.num_frames, **shape)
    return _Size(
        fitting,
        video_tokens(plan, recipe.video, num_frames=fitting, **shape),
        vision_patches(plan, recipe.video, num_frames=fitting, **shape),
    )


def _check_context(
    recipe: Recipe, plan: ModelSpec, shortest_clip: int, longest: float, findings: Findings
) -> int:
    """Return the longest sequence that training takes; add to the findings what does not fit it, or
    the context.
    """
    context = plan.family.context_length(plan.config)
    limit = min(context, recipe.train.max_length or context)
    writes = _writes_answers(recipe)
    shorten = (
        "lower video.num_frames, video.max_pixels or video.max_tokens, or set video.policy=fit"
    )
    if writes is not None and shortest_clip + writes[1] > context:
        findings.problems.append(
            f"no answer can be written: the shortest clip looked at takes {shortest_clip:,} "
            f"tokens, an answer up to {writes[1]:,} ({writes[0]}.max_new_tokens), and the model's "
            f"context is {context:,}. Lower that number, or {shorten}"
        )
    if shortest_clip >= limit:
        room = (
            f"the model's context is {limit:,}: {shorten}"
            if limit == context
            else f"train.max_length is {limit:,}. Raise it, or {shorten}"
        )
        findings.problems.append(
            f"no pair can be trained on: the shortest clip looked at takes {shortest_clip:,} "
            f"tokens, and {room}"
        )
    elif longest > limit:
        findings.warnings.append(
            f"sequences of up to {longest:,.0f} tokens do not fit the {limit:,} there is room "
            "for: such samples and pairs are set aside and counted. Shorten questions, or lower "
            "video.max_tokens, video.num_frames or generate.max_new_tokens"
        )
    return limit


def _added(*parts: Sequence[int]) -> Spread:
    """Return the spread of sums of one value of each part."""
    return Spread(
        sum(map(min, parts)), sum(sum(part) / len(part) for part in parts), sum(map(max, parts))
    )


def _memory(recipe: Recipe, plan: ModelSpec, load: PeakLoad) -> dict[str, Mapping[str, float]]:
    """Return GiB by stage and part: of training, and of the first stage whose answers are written
    here.
    """
    memory: dict[str, Mapping[str, float]] = {}
    writes = _writes_answers(recipe)
    if writes is not None:
        stage, longest = writes
        answering = replace(load, sequences=recipe.generate.batch_size, answer_tokens=longest)
        memory[stage] = estimate_generation(plan, recipe.model, answering)
    return {**memory, "train": estimate_training(plan, recipe.model, recipe.train, load)}


def _writes_answers(recipe: Recipe) -> tuple[str, int] | None:
    """Return the first stage of a run that writes answers with a policy of ours, and the most
    tokens of one.
    """
    if recipe.data.pairs is None and recipe.generate.engine != "openai":
        return "generate", recipe.generate.max_new_tokens
    return None if recipe.data.heldout is None else ("evaluate", recipe.evaluate.max_new_tokens)


def _tokens(text: str) -> int:
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def _most_pairs(recipe: Recipe, data: Data) -> int:
    """Return the most pairs that there will be: those given, or those that can be made, and their
    video negatives.
    """
    if data.pairs:
        return len(add_negatives(data.pairs, recipe.pair.video_negatives, seed=recipe.seed).pairs)
    made = 1
    if recipe.data.pairs is None and recipe.pair.rule == "all_pairs":
        made = min(
            recipe.pair.max_pairs_per_sample, math.comb(recipe.generate.candidates_per_sample, 2)
        )
    return len(data.samples) * (made + len(set(recipe.pair.video_negatives)))


def optimizer_steps(recipe: Recipe, pairs: int) -> int:
    """Return the optimizer steps of training on that many pairs, as transformers' Trainer counts
    them on one device.
    """
    train = recipe.train
    per_epoch = max(math.ceil(math.ceil(pairs / train.batch_size) / train.gradient_accumulation), 1)
    steps = math.ceil(train.epochs * per_epoch)
    return steps if train.max_steps is None else train.max_steps


def judge_calls(
    recipe: Recipe, samples: Sequence[Sample], *, per_sample: int, scorer: str | None = None
) -> Calls:
    """Return the calls that score `per_sample` answers to each sample; answers are taken as long as
    they may be.
    """
    loaded = load_scorer(scorer or recipe.judge.scorer)
    answer = "x" * (CHARACTERS_PER_TOKEN * recipe.generate.max_new_tokens)
    prompts = [
        render_prompt(
            loaded,
            caption=sample.caption,
            question=sample.prompt,
            answer=answer,
            other=answer,
            reference=sample.answer,
        )
        for sample in samples
        if sample.answer is not None or not loaded.needs_reference
    ]
    tokens = sum(_tokens(message["content"]) for prompt in prompts for message in prompt)
    each = calls_per_sample(recipe.judge, loaded, per_sample)
    calls = each * len(prompts)
    reply = 1 if mode_of(recipe.judge, loaded) == "labels" else recipe.judge.max_tokens
    return Calls(calls=calls, tokens_in=each * tokens, tokens_out=calls * reply)


def _if_known(count: Callable[[], Calls]) -> Calls | None:
    """Return None where a scorer cannot be loaded; that stands among the problems already."""
    try:
        return count()
    except UserError:
        return None


def _evaluation_calls(recipe: Recipe, heldout: Sequence[Sample]) -> Calls:
    """Return the calls that judge base and tuned answers by both scorers, and the answers behind
    held-out pairs.
    """
    settings = recipe.evaluate
    parts = [
        judge_calls(recipe, heldout, per_sample=2),
        judge_calls(recipe, heldout[: settings.pair_samples], per_sample=settings.pair_candidates),
    ]
    if settings.hallucination_scorer is not None:
        parts.append(
            judge_calls(recipe, heldout, per_sample=2, scorer=settings.hallucination_scorer)
        )
    return Calls(
        calls=sum(part.calls for part in parts),
        tokens_in=sum(part.tokens_in for part in parts),
        tokens_out=sum(part.tokens_out for part in parts),
    )
