"""`dpo-video check`: the plan of a run from configs and a few decoded clips, before anything is
generated, paid for or trained; and what stands in its way.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dpo_video.check.calls import candidate_calls, evaluation_calls
from dpo_video.check.clips import Clip, read_clips
from dpo_video.check.data import Data, SplitData, load_data
from dpo_video.check.findings import Findings, attempt, join, problem, warn
from dpo_video.check.plan import Plan, Spread, estimate_tokens
from dpo_video.check.recipe import check_clusters, check_memory, check_recipe
from dpo_video.core.errors import UserError
from dpo_video.judge.probe import probe_judges
from dpo_video.models.hub import ModelSpec, model_spec
from dpo_video.models.memory import (
    PeakLoad,
    answers_at_once,
    count_parameters,
    estimate_generation,
    estimate_training,
)
from dpo_video.models.tokens import frames_within, video_tokens, vision_patches
from dpo_video.pair.video_negatives import add_negatives
from dpo_video.recipe import Recipe

TEMPLATE_TOKENS = 32
"""Chat template around a question."""
DEVICES = (2, 4, 8)
"""Numbers of devices that optimizer steps are planned for beside one."""


def check(recipe: Recipe, data: Data | None = None, *, ask_judges: bool = False) -> Plan:
    """Return what a run of the recipe would do, and all that stands in its way; train and generate
    nothing.

    Args:
        ask_judges: ask each judge one prompt by each scorer that the run will use.

    Raises UserError where nothing can be planned: the data are wrong, the model is unknown, or a
    frame cannot fit the settings.
    """
    data = data or load_data(recipe)
    train, heldout = data.train, data.heldout
    findings = data.findings + check_recipe(recipe, train.samples, heldout.samples)
    if heldout.root is not None:
        findings += check_clusters(heldout.samples)
    spec = model_spec(recipe.model)
    clips, decoded, clip_findings = read_clips(recipe, spec, train)
    lengths = _lengths(recipe, spec, train, clips)
    memory = _memory(recipe, spec, lengths.peak)
    context, context_findings = _check_context(recipe, spec, lengths)
    findings += clip_findings + lengths.findings + context_findings
    if ask_judges and not findings.problems:
        findings += _ask_judges(recipe)
    findings += check_memory(max(sizes["total"] for sizes in memory.values()), recipe)
    parameters = count_parameters(spec, recipe.train.tune)
    pairs = _most_pairs(recipe, train)
    return Plan(
        recipe=recipe.name,
        model=recipe.model.name,
        family=spec.family.name,
        questions=len(train.samples),
        clips=train.num_clips,
        heldout_questions=len(heldout.samples),
        heldout_clips=heldout.num_clips,
        frames=lengths.frames,
        frames_taken=lengths.frames_taken,
        video_tokens=lengths.video_tokens,
        sequence=lengths.sequence,
        context=context,
        parameters=parameters.total,
        trainable=parameters.lora_per_rank * recipe.train.lora.rank,
        memory=memory,
        pairs=pairs,
        pairs_given=recipe.data.pairs is not None,
        steps=optimizer_steps(recipe, pairs),
        steps_on={count: optimizer_steps(recipe, pairs, devices=count) for count in DEVICES},
        step_pairs=recipe.train.batch_size * recipe.train.gradient_accumulation,
        judge=candidate_calls(recipe, train.samples),
        evaluation_judge=evaluation_calls(recipe, heldout.samples),
        decoded=decoded,
        assumptions=findings.assumptions,
        problems=findings.problems,
        warnings=findings.warnings,
    )


def _ask_judges(recipe: Recipe) -> Findings:
    warnings, findings = attempt(probe_judges, recipe)
    return findings + join(map(warn, warnings or ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lengths:
    """Frames and tokens of the clips that were looked at, with the data's questions and answers."""

    frames: Spread
    frames_taken: Spread
    video_tokens: Spread
    sequence: Spread
    peak: PeakLoad
    """The longest sequence there can be."""
    findings: Findings


def _lengths(recipe: Recipe, spec: ModelSpec, train: SplitData, clips: Sequence[Clip]) -> _Lengths:
    sizes, findings = _sizes(recipe, spec, clips)
    losing = [(size.num_taken, size.num_frames) for size in sizes if size.num_lost]
    if losing:
        num_taken, num_seen = max(losing)
        findings += warn(
            f"{len(losing)} of {len(clips)} clips looked at are over their budget of tokens and "
            f"lose frames, evenly: of {num_taken} frames the model sees {num_seen}. Lower "
            "video.max_pixels to show it more of them"
        )
    tokens = [size.tokens for size in sizes]
    questions = [
        estimate_tokens(record.prompt) + TEMPLATE_TOKENS for record in train.pairs or train.samples
    ]
    answers = [
        max(estimate_tokens(pair.chosen), estimate_tokens(pair.rejected)) for pair in train.pairs
    ] or [recipe.generate.max_new_tokens]
    return _Lengths(
        frames=Spread.of([size.num_frames for size in sizes]),
        frames_taken=Spread.of([size.num_taken for size in sizes]),
        video_tokens=Spread.of(tokens),
        sequence=_added(tokens, questions, answers),
        peak=PeakLoad(
            sequences=1,
            prompt_tokens=max(tokens) + max(questions),
            answer_tokens=max(answers),
            patches=max(size.patches for size in sizes),
        ),
        findings=findings,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """What a clip costs after `video.max_tokens`."""

    num_taken: int
    """Frames that the policy takes."""
    num_frames: int
    """Frames that are left within the budget of tokens."""
    tokens: int
    patches: int

    @property
    def num_lost(self) -> int:
        """Frames that the budget has no room for."""
        return self.num_taken - self.num_frames


def _sizes(recipe: Recipe, spec: ModelSpec, clips: Sequence[Clip]) -> tuple[list[_Size], Findings]:
    """Return the sizes of the clips that the model's processor takes; UserError where it takes
    none.
    """
    sizes, refusals = [], []
    for clip in clips:
        try:
            sizes.append(_size(recipe, spec, clip))
        except UserError as error:
            refusals.append(error)
    if not sizes:
        raise refusals[0]
    if not refusals:
        return sizes, Findings()
    return sizes, warn(
        f"{len(refusals)} of {len(clips)} clips looked at will be set aside; first: {refusals[0]}"
    )


def _size(recipe: Recipe, spec: ModelSpec, clip: Clip) -> _Size:
    shape = {"height": clip.height, "width": clip.width}
    num_frames = frames_within(spec, recipe.video, num_frames=clip.num_frames, **shape)
    return _Size(
        num_taken=clip.num_frames,
        num_frames=num_frames,
        tokens=video_tokens(spec, recipe.video, num_frames=num_frames, **shape),
        patches=vision_patches(spec, recipe.video, num_frames=num_frames, **shape),
    )


def _check_context(recipe: Recipe, spec: ModelSpec, lengths: _Lengths) -> tuple[int, Findings]:
    """Return the longest sequence that training takes, and what does not fit it, or the context."""
    shortest_clip, longest = lengths.video_tokens.minimum, lengths.sequence.maximum
    context = spec.family.context_length(spec.config)
    limit = min(context, recipe.train.max_length or context)
    writes = _writes_answers(recipe)
    findings = Findings()
    shorten = (
        "lower video.num_frames, video.max_pixels or video.max_tokens, or set video.policy=fit"
    )
    if writes is not None and shortest_clip + writes[1] > context:
        findings += problem(
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
        findings += problem(
            f"no pair can be trained on: the shortest clip looked at takes {shortest_clip:,} "
            f"tokens, and {room}"
        )
    elif longest > limit:
        findings += warn(
            f"sequences of up to {longest:,.0f} tokens do not fit the {limit:,} there is room "
            "for: such samples and pairs are set aside and counted. Shorten questions, or lower "
            "video.max_tokens, video.num_frames or generate.max_new_tokens"
        )
    return limit, findings


def _added(*parts: Sequence[int]) -> Spread:
    """Return the spread of sums of one value of each part."""
    return Spread(
        sum(map(min, parts)), sum(sum(part) / len(part) for part in parts), sum(map(max, parts))
    )


def _memory(recipe: Recipe, spec: ModelSpec, load: PeakLoad) -> dict[str, Mapping[str, float]]:
    """Return GiB by stage and part: of training, and of the first stage whose answers are written
    here.
    """
    memory: dict[str, Mapping[str, float]] = {}
    writes = _writes_answers(recipe)
    if writes is not None:
        stage, longest = writes
        sequences = answers_at_once(
            recipe.generate.batch_size,
            spec,
            recipe.model,
            shared=spec.family.shared_prefix,
            answer_tokens=longest,
            free_bytes=None,
        )
        answering = replace(load, sequences=sequences, answer_tokens=longest)
        shared_by = recipe.generate.candidates_per_sample if stage == "generate" else 1
        memory[stage] = estimate_generation(
            spec, recipe.model, answering, answers_per_clip=shared_by
        )
    return {**memory, "train": estimate_training(spec, recipe.model, recipe.train, load)}


def _writes_answers(recipe: Recipe) -> tuple[str, int] | None:
    """Return the first stage of a run that writes answers with a policy of ours, and the most
    tokens of one.
    """
    if recipe.data.pairs is None and recipe.generate.engine != "openai":
        return "generate", recipe.generate.max_new_tokens
    return None if recipe.data.heldout is None else ("evaluate", recipe.evaluate.max_new_tokens)


def _most_pairs(recipe: Recipe, data: SplitData) -> int:
    """Return the most pairs that there will be: those given, or those that can be made, and their
    video negatives.
    """
    if data.pairs:
        return len(add_negatives(data.pairs, recipe.pair.video_negatives, seed=recipe.seed).pairs)
    per_sample = 1
    if recipe.data.pairs is None and recipe.pair.rule == "all_pairs":
        per_sample = min(
            recipe.pair.max_pairs_per_sample, math.comb(recipe.generate.candidates_per_sample, 2)
        )
    elif recipe.data.pairs is None and recipe.pair.rule == "across":
        rejected = [row for row in recipe.generate.mix if row.name in recipe.pair.rejected_samplers]
        num_rejected = sum(sampler.num_candidates for sampler in rejected)
        per_sample = min(recipe.pair.max_pairs_per_sample, num_rejected)
    return len(data.samples) * (per_sample + len(set(recipe.pair.video_negatives)))


def optimizer_steps(recipe: Recipe, pairs: int, *, devices: int = 1) -> int:
    """Return the optimizer steps of training on that many pairs, as transformers' Trainer counts
    them; every device takes `train.batch_size` pairs at a time.
    """
    train = recipe.train
    batches = math.ceil(math.ceil(pairs / devices) / train.batch_size)
    per_epoch = max(math.ceil(batches / train.gradient_accumulation), 1)
    steps = math.ceil(train.epochs * per_epoch)
    return steps if train.max_steps is None else train.max_steps
