"""How long the stages of a plan take: which of them are measured, estimated or not to be known."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from dpo_video.check.calls import judges_of
from dpo_video.check.data import Data
from dpo_video.check.devices import DEFAULT_GPU, GPUS, Gpu, gpu_here
from dpo_video.check.findings import Findings, attempt, warn
from dpo_video.check.hours import (
    TimedWork,
    WorkLoad,
    answer_work,
    basis_of_estimates,
    estimated,
    evaluate_work,
    generate_work,
    judge_work,
    measured,
    served,
    train_work,
    unknown,
)
from dpo_video.check.kept import evaluated_clips
from dpo_video.check.lengths import ClipLengths
from dpo_video.check.measured import MeasuredSample, can_be_measured, device_here
from dpo_video.check.plan import Calls, KeptClips, StageTime
from dpo_video.check.work import ModelSize, model_size
from dpo_video.core.names import choose
from dpo_video.models.dtypes import DTYPES
from dpo_video.models.hub import ModelSpec
from dpo_video.models.memory import (
    NF4_BYTES,
    Parameters,
    answers_at_once,
    count_parameters,
    uses_checkpointing,
)
from dpo_video.models.names import local_file
from dpo_video.recipe import ModelSettings, Recipe


@dataclass(frozen=True, kw_only=True)
class TimeInputs:
    """What the times of a plan follow from."""

    recipe: Recipe
    spec: ModelSpec
    data: Data
    lengths: ClipLengths
    kept: KeptClips
    pairs: int
    judge: Calls | None
    evaluation_judge: Calls | None
    latencies: tuple[float, ...] = ()
    """Seconds of the replies of the judges that were asked."""
    memory_gib: float
    """The most that a stage takes."""
    gpu: str = ""
    """The GPU to estimate for; empty is the one here, else a common one."""
    may_measure: bool


def stage_times(inputs: TimeInputs) -> tuple[tuple[StageTime, ...], Findings]:
    """Return the times of the stages of a run in their order, and what they take for granted."""
    recipe, spec = inputs.recipe, inputs.spec
    parameters = count_parameters(spec, recipe.train.tune, experts=recipe.train.lora.experts)
    gpu, is_here = _gpu(inputs)
    load = work_load(inputs, parameters, gpu)
    policy = _policy_size(recipe.model, spec, parameters)
    sample, findings = _sample(inputs, parameters)
    times: list[StageTime] = []
    if load.questions:
        times.append(_policy_time(inputs, "generate", policy, load, sample, gpu))
    elif recipe.data.pairs is None:
        times.append(unknown("generate", "generate.engine is openai: its server sets the pace"))
    if inputs.judge is not None and inputs.judge.calls:
        times.append(_judge_time(inputs, "judge", inputs.judge, sample, gpu))
    times.append(_policy_time(inputs, "train", policy, load, sample, gpu))
    if load.evaluated:
        times.append(_policy_time(inputs, "evaluate", policy, load, sample, gpu))
    if inputs.evaluation_judge is not None and inputs.evaluation_judge.calls:
        times.append(_judge_time(inputs, "evaluate, judge", inputs.evaluation_judge, sample, gpu))
    if gpu is not None and any(time.basis == "estimate" for time in times):
        findings += Findings(assumptions=(basis_of_estimates(gpu, is_here=is_here),))
    return tuple(times), findings


def work_load(inputs: TimeInputs, parameters: Parameters, gpu: Gpu | None) -> WorkLoad:
    """Return the counts that the operations of a recipe's stages follow from."""
    recipe, data, lengths = inputs.recipe, inputs.data, inputs.lengths
    writes = recipe.data.pairs is None and recipe.generate.engine != "openai"
    asked = [data.heldout.samples, *data.sets]
    evaluated = sum(map(len, asked))
    choices = sum(bool(sample.options) for samples in asked for sample in samples)
    settings, train = recipe.evaluate, recipe.train
    drawn = 0 if recipe.data.heldout is None else settings.pair_samples * settings.pair_candidates
    chosen_tokens = (
        choices * settings.choice_max_new_tokens + (evaluated - choices) * settings.max_new_tokens
    )
    steps = train.max_steps
    passes = train.epochs
    if steps is not None and inputs.pairs:
        passes = steps * train.batch_size * train.gradient_accumulation / inputs.pairs
    return WorkLoad(
        questions=len(data.train.samples) if writes else 0,
        clips=data.train.num_clips,
        candidates=recipe.generate.candidates_per_sample,
        pairs=inputs.pairs,
        passes=passes,
        evaluated=evaluated,
        evaluated_clips=max(1, evaluated_clips(data)),
        drawn=min(drawn, settings.pair_candidates * evaluated),
        patches=lengths.patches.mean,
        video_tokens=lengths.video_tokens.mean,
        question_tokens=lengths.question_tokens.mean,
        answer_tokens=recipe.generate.max_new_tokens,
        evaluated_tokens=chosen_tokens / max(evaluated, 1),
        pair_tokens=lengths.answer_tokens,
        at_once=_at_once(inputs, parameters, gpu),
        shared=inputs.spec.family.shared_prefix and train.share_prefix,
        computes_again=uses_checkpointing(train, parameters.total),
        trains_tower="vision" in train.tune,
        keeps_features=inputs.kept.kept == "features" and inputs.kept.share == 1,
    )


def _at_once(inputs: TimeInputs, parameters: Parameters, gpu: Gpu | None) -> int:
    recipe, spec = inputs.recipe, inputs.spec
    free = None
    if gpu is not None:
        weights = _policy_size(recipe.model, spec, parameters).weight_bytes
        free = max(0, int(gpu.gigabytes * 1e9 - weights))
    return answers_at_once(
        recipe.generate.batch_size,
        spec,
        recipe.model,
        shared=spec.family.shared_prefix,
        answer_tokens=recipe.generate.max_new_tokens,
        free_bytes=free,
    )


def _policy_size(model: ModelSettings, spec: ModelSpec, parameters: Parameters) -> ModelSize:
    size = 2 if model.dtype == "auto" else DTYPES[model.dtype].itemsize
    return model_size(
        spec.config,
        parameters,
        bytes_of_linear=NF4_BYTES if model.quantize == "nf4" else size,
        size=size,
    )


def _gpu(inputs: TimeInputs) -> tuple[Gpu | None, bool]:
    """Return the GPU to estimate for, None where the policy is to run on a CPU or the GPU here is
    not in the table; and whether it is here.
    """
    if inputs.gpu:
        return choose(GPUS, inputs.gpu, "GPU"), False
    if inputs.recipe.model.device == "cpu":
        return None, False
    if torch.cuda.is_available():
        return gpu_here(), True
    return GPUS[DEFAULT_GPU], False


def _sample(inputs: TimeInputs, parameters: Parameters) -> tuple[MeasuredSample | None, Findings]:
    """Return a measured sample where one can be taken; a warning where it fails."""
    recipe, train = inputs.recipe, inputs.data.train
    if not inputs.may_measure or inputs.gpu or train.root is None or recipe.data.pairs is not None:
        return None, Findings()
    if not can_be_measured(recipe, parameters.total, gib=inputs.memory_gib):
        return None, Findings()
    from dpo_video.check.measure import measure_sample  # here: it needs all that trains

    sample, findings = attempt(measure_sample, recipe, train)
    if sample is None:
        return None, warn(f"no sample could be measured: {findings.problems[0]}")
    return sample, Findings()


def _policy_time(
    inputs: TimeInputs,
    stage: str,
    policy: ModelSize,
    load: WorkLoad,
    sample: MeasuredSample | None,
    gpu: Gpu | None,
) -> StageTime:
    works = {"generate": generate_work, "train": train_work, "evaluate": evaluate_work}
    work = works[stage](policy, load)
    timed = None if sample is None else _timed(stage, policy, load, sample)
    if sample is not None and timed is not None:
        return measured(stage, timed, work, device=sample.device)
    if gpu is None:
        device = device_here(inputs.recipe)
        return unknown(stage, f"no sample was measured, and {device} is in no table (--gpu NAME)")
    return estimated(stage, work, gpu)


def _timed(
    stage: str, policy: ModelSize, load: WorkLoad, sample: MeasuredSample
) -> TimedWork | None:
    """Return the part of a sample that a stage is like; None where it was not done."""
    if stage == "train":
        if not sample.step_seconds:
            return None
        steps = replace(load, clips=0, pairs=sample.pairs, passes=1.0)
        work = train_work(policy, steps, with_reference=False)
        what = f"{sample.pairs} pairs, forward and backward, took {sample.step_seconds:.2g} s"
        return TimedWork(sample.step_seconds, work, what)
    if not sample.answers:
        return None
    work = answer_work(
        policy,
        load,
        questions=sample.questions,
        clips=sample.clips,
        each=load.candidates,
        tokens=load.answer_tokens,
    )
    what = f"{sample.answers} answers about {sample.clips} clips took {sample.answer_seconds:.2g} s"
    return TimedWork(sample.answer_seconds, work, what)


def _judge_time(
    inputs: TimeInputs, stage: str, calls: Calls, sample: MeasuredSample | None, gpu: Gpu | None
) -> StageTime:
    settings = inputs.recipe.judge
    if any(judge.engine == "ray" for judge in judges_of(inputs.recipe)):
        return unknown(stage, "judge.engine is ray: its workers set the pace")
    if settings.backend == "openai":
        if not inputs.latencies:
            return unknown(stage, "no judge was asked")
        servers = settings.base_url if isinstance(settings.base_url, list) else [""]
        return served(
            stage,
            calls,
            latencies=inputs.latencies,
            in_flight=settings.concurrency * len(servers),
        )
    if sample is not None and sample.prompts:
        seconds = calls.calls * sample.prompt_seconds / sample.prompts
        note = f"{sample.prompts} prompts took {sample.prompt_seconds:.2g} s"
        return StageTime(
            stage=stage, seconds=seconds, device=sample.device, basis="measured", note=note
        )
    model = ModelSettings(name=settings.model, revision=settings.revision)
    config_file = local_file(model, "config.json")
    if config_file is None:
        return unknown(stage, "its judge is not on this disk")
    if gpu is None:
        return unknown(stage, "no sample was measured")
    size = _judge_size(config_file)
    return estimated(stage, judge_work(size, calls, at_once=settings.batch_size), gpu)


def _judge_size(config_file: Path) -> ModelSize:
    """Return the size of a local judge from its config."""
    config = AutoConfig.from_pretrained(config_file.parent, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    linear = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith("lm_head")
    )
    counted = Parameters(
        language=linear, embeddings=0, vision=0, norms_and_biases=0, lora_per_rank=0
    )
    return model_size(config, counted, bytes_of_linear=2, size=2)
