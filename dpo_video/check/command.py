"""`dpo-video check`: the plan of a run from configs and a few decoded clips, before anything is
generated, paid for or trained; and what stands in its way.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dpo_video.check.calls import candidate_calls, check_cost, evaluation_calls, most_dollars
from dpo_video.check.clips import read_clips
from dpo_video.check.data import Data, SplitData, load_data
from dpo_video.check.findings import Findings, attempt, join_findings, problem, warn
from dpo_video.check.kept import kept_clips
from dpo_video.check.lengths import ClipLengths, lengths_of
from dpo_video.check.plan import Calls, Plan
from dpo_video.check.recipe import check_clusters, check_memory, check_recipe
from dpo_video.check.sharing import check_sharing
from dpo_video.check.times import TimeInputs, stage_times
from dpo_video.check.turns import check_history
from dpo_video.core.errors import UserError
from dpo_video.judge.probe import probe_judges
from dpo_video.models.decoding import UNHEARD, hearing_word, size_rule
from dpo_video.models.hub import ModelSpec, model_spec
from dpo_video.models.memory import (
    PeakLoad,
    answers_at_once,
    count_parameters,
    estimate_generation,
    estimate_training,
)
from dpo_video.pair.video_negatives import add_negatives
from dpo_video.recipe import Recipe
from dpo_video.recipe.file import settings_of_round

DEVICES = (2, 4, 8)
"""Numbers of devices that optimizer steps are planned for beside one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """What a check may do beside looking."""

    ask_judges: bool = False
    """Ask each judge one prompt by each scorer that the run will use."""
    measure: bool = False
    """Answer and train on a few samples, where the model is here and small enough."""
    gpu: str = ""
    """The GPU that times are estimated for; empty is the one here, else a common one."""


LOOK_ONLY = CheckOptions()


def check(recipe: Recipe, data: Data | None = None, options: CheckOptions = LOOK_ONLY) -> Plan:
    """Return what a run of the recipe would do, and all that stands in its way; train and generate
    nothing.

    Raises UserError where nothing can be planned: the data are wrong, the model is unknown, or a
    frame cannot fit the settings.
    """
    data, recipe = data or load_data(recipe), settings_of_round(recipe, 1)
    train, heldout = data.train, data.heldout
    findings = data.findings + check_recipe(recipe, train.samples, heldout.samples)
    findings += check_history(recipe, data)
    if heldout.root is not None:
        findings += check_clusters(heldout.samples)
    spec = model_spec(recipe.model)
    findings += attempt(size_rule, spec, recipe.video)[1]
    read, unreadable = attempt(read_clips, recipe, spec, train)
    if read is None:
        raise UserError("\n".join((*unreadable.problems, *findings.problems)))
    clips, decoded, clip_findings = read
    lengths = lengths_of(recipe, spec, train, clips)
    memory = _memory(recipe, spec, lengths.peak)
    most_gib = max(sizes["total"] for sizes in memory.values())
    context, context_findings = _check_context(recipe, spec, lengths)
    context_findings += _check_hearing(recipe, spec)
    pairs = _most_pairs(recipe, train)
    kept, kept_findings = kept_clips(recipe, spec, data, lengths)
    calls = candidate_calls(recipe, train.samples)
    judged = evaluation_calls(recipe, heldout.samples)
    dollars, cost_findings = _costs(recipe, calls, judged)
    findings += clip_findings + lengths.findings + context_findings + cost_findings
    findings += check_sharing(recipe, spec, lengths.peak) + kept_findings
    ask_judges = options.ask_judges and not findings.problems
    latencies, judge_findings = _ask_judges(recipe) if ask_judges else ((), Findings())
    findings += judge_findings
    inputs = TimeInputs(
        recipe=recipe,
        spec=spec,
        data=data,
        lengths=lengths,
        kept=kept,
        pairs=pairs,
        judge=calls,
        evaluation_judge=judged,
        latencies=latencies,
        memory_gib=most_gib,
        gpu=options.gpu,
        may_measure=options.measure and not findings.problems,
    )
    return _plan(inputs, findings, decoded=decoded, memory=memory, context=context, dollars=dollars)


def _plan(
    inputs: TimeInputs,
    findings: Findings,
    *,
    decoded: int,
    memory: Mapping[str, Mapping[str, float]],
    context: int,
    dollars: tuple[float | None, float | None],
) -> Plan:
    recipe, spec, lengths, pairs = inputs.recipe, inputs.spec, inputs.lengths, inputs.pairs
    train, heldout = inputs.data.train, inputs.data.heldout
    times, time_findings = stage_times(inputs)
    findings += check_memory(inputs.memory_gib, recipe) + time_findings
    parameters = count_parameters(spec, recipe.train.tune, experts=recipe.train.lora.experts)
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
        sound_tokens=lengths.sound_tokens,
        clips_with_sound=lengths.clips_with_sound,
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
        judge=inputs.judge,
        evaluation_judge=inputs.evaluation_judge,
        dollars=dollars[0],
        evaluation_dollars=dollars[1],
        frame_classes=lengths.classes,
        times=times,
        kept=inputs.kept,
        decoded=decoded,
        assumptions=findings.assumptions,
        problems=findings.problems,
        warnings=findings.warnings,
    )


def _ask_judges(recipe: Recipe) -> tuple[tuple[float, ...], Findings]:
    """Return the seconds of the judges' replies, and what is wrong with them."""
    probed, findings = attempt(probe_judges, recipe)
    if probed is None:
        return (), findings
    return tuple(probed.latencies), join_findings(map(warn, probed.warnings))


def _costs(
    recipe: Recipe, calls: Calls | None, judged: Calls | None
) -> tuple[tuple[float | None, float | None], Findings]:
    """Return the most US dollars of judging the candidates and the evaluation, and where that is
    more than is allowed.
    """
    dollars, findings = attempt(lambda: (most_dollars(recipe, calls), most_dollars(recipe, judged)))
    if dollars is None:  # told of with the other problems of the judge
        return (None, None), Findings()
    findings = check_cost(recipe, dollars[0], of="the candidates")
    return dollars, findings + check_cost(recipe, dollars[1], of="the evaluation")


def _check_context(recipe: Recipe, spec: ModelSpec, lengths: ClipLengths) -> tuple[int, Findings]:
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


def _check_hearing(recipe: Recipe, spec: ModelSpec) -> Findings:
    by_server = recipe.data.pairs is None and recipe.generate.engine == "openai"
    is_unheard = by_server and hearing_word(spec, recipe.video) == "heard"
    return warn(UNHEARD) if is_unheard else Findings()


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
