"""The plan of a run from configs and a few decoded clips, before anything is generated, paid for or trained.

Data that are not there are planned for with the assumptions below, and the plan says so. That is a problem (exit code
2), except at the example paths of the shipped recipes, which everyone replaces by their own.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from dpo_video.check_recipe import Findings, check_recipe
from dpo_video.cleaned import describe
from dpo_video.data import check_disjoint, load_samples
from dpo_video.errors import UserError
from dpo_video.judges.backends import mode_of
from dpo_video.judges.modes import calls_per_sample
from dpo_video.judges.scorer import load_scorer
from dpo_video.judges.scorer import render as render_prompt
from dpo_video.models.checkpoints import Blueprint, blueprint
from dpo_video.models.memory import Load, count_parameters, estimate_generation, estimate_training
from dpo_video.models.tokens import frames_within, video_tokens, vision_patches
from dpo_video.names import shipped_names
from dpo_video.plan import Calls, Plan, Spread, render
from dpo_video.recipe import Recipe
from dpo_video.recipe_file import load_recipe
from dpo_video.records import Sample
from dpo_video.video import ClipRequest, FramePool, VideoError, clip_key, clip_request, plan_indices

__all__ = ["Plan", "check", "render"]

NOMINAL_CLIP = (1280, 720, 30.0, 30.0)
"""Width and height in pixels, seconds, frames per second: of a clip where there is no data."""
NOMINAL_SAMPLE = Sample(id="nominal", video="nominal.mp4", prompt="x" * 80, caption="x" * 1000, answer="x" * 80)
NOMINAL_QUESTIONS = {"samples": 1000, "heldout": 200}
"""Questions of a split where there is no data, one per clip."""
DECODED_CLIPS = 8
"""Clips decoded for a plan, evenly spread over the data."""
CHARACTERS_PER_TOKEN = 4
TEMPLATE_TOKENS = 32
"""Chat template around a question."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip as read: its frames, their size on disk in pixels."""

    num_frames: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Data:
    """The samples of a split; `root` is None where they are assumed."""

    samples: Sequence[Sample]
    root: Path | None

    @property
    def num_clips(self) -> int:
        """How many different clips; every assumed question has one of its own."""
        return len(self.samples) if self.root is None else len({clip_key(sample) for sample in self.samples})


def check(recipe: Recipe) -> Plan:
    """Return what a run of the recipe would do, and all that stands in its way; train and generate nothing.

    Raises UserError only where nothing can be planned: the model is unknown, or a frame cannot fit the settings.
    """
    findings = Findings([], [], [])
    heldout = _load(recipe, "heldout", findings)
    train = _load(recipe, "samples", findings, heldout=() if heldout.root is None else heldout.samples)
    if train.root is not None and heldout.root is not None:
        apart = partial(check_disjoint, video_root=train.root, heldout_root=heldout.root)
        findings.collect(apart, train.samples, heldout.samples)
    check_recipe(recipe, train.samples, heldout.samples, findings)
    if heldout.root is not None:
        findings.check_clusters([sample.video for sample in heldout.samples])
    plan = blueprint(recipe.model)
    clips = _read_clips(recipe, plan, train, findings)
    return _plan(recipe, plan, [train, heldout], clips, findings)


def _load(recipe: Recipe, split: Literal["samples", "heldout"], findings: Findings, *,
          heldout: Sequence[Sample] = ()) -> Data:
    source = recipe.data.samples if split == "samples" else recipe.data.heldout
    if source is None:
        return Data([], None)
    number = NOMINAL_QUESTIONS[split]
    assumed = f"{number:,} questions about as many clips"
    missing = not source.startswith("toy:") and not Path(source).expanduser().exists()
    try:
        samples, root, cleaned = load_samples(recipe, split, heldout=heldout)
        if cleaned:
            findings.warnings.append(f"cleaning: {describe(len(samples), cleaned)}")
        return Data(samples, root)
    except UserError as error:
        if missing and source in _example_paths():
            assumed += f" ({source!r} is the example path of the shipped recipes: put your own samples there)"
        else:
            findings.problems.append(str(error))
    findings.assumptions.append(f"data.{split}: {assumed}")
    return Data([NOMINAL_SAMPLE] * number, None)


def _example_paths() -> set[str | None]:
    shipped = [load_recipe(name).data for name in shipped_names("recipes")]
    return {path for data in shipped for path in (data.samples, data.heldout)}


def _read_clips(recipe: Recipe, plan: Blueprint, data: Data, findings: Findings) -> list[Clip]:
    """Return a few clips of the data as read, or the nominal one; what cannot be read is found and counted."""
    if data.root is None:
        findings.assumptions.append(f"questions of {len(NOMINAL_SAMPLE.prompt)} and captions of "
                                    f"{len(NOMINAL_SAMPLE.caption)} characters")
        return [_nominal_clip(recipe, plan, findings)]
    requests = _requests(recipe, data.samples, data.root, findings)
    step = max(1, len(requests) // DECODED_CLIPS)
    clips, errors = [], []
    with FramePool(recipe.video, multiple_of=plan.family.frames_per_step) as pool:
        for _, frames in pool.map(requests[::step][:DECODED_CLIPS]):
            if isinstance(frames, VideoError):
                errors.append(str(frames))
            else:
                clips.append(Clip(*frames.pixels.shape[:3]))
    if errors:
        findings.warnings.append(f"{len(errors)} of {len(errors) + len(clips)} clips that were tried cannot be read; "
                                 f"first: {errors[0]}")
    if not clips:
        findings.problems.append("no clip could be decoded")
    return clips or [_nominal_clip(recipe, plan, findings)]


def _nominal_clip(recipe: Recipe, plan: Blueprint, findings: Findings) -> Clip:
    """Return the clip to plan with where none is read; what is taken for granted of it stands among the findings."""
    width, height, seconds, rate = NOMINAL_CLIP
    findings.assumptions.append(f"clips of {width}x{height} pixels, {seconds:g} s at {rate:g} frames per second")
    video = recipe.video
    if video.policy in ("scene", "diff_prune"):
        findings.assumptions.append(f"video.policy {video.policy} keeps every frame that it looks at, {video.fps:g} a "
                                    "second: the most it can; what it keeps depends on what the frames show")
        video = video.model_copy(update={"policy": "fps"})
    times = np.arange(round(seconds * rate)) / rate
    return Clip(len(plan_indices(times, video, multiple_of=plan.family.frames_per_step)), height, width)


def _requests(recipe: Recipe, samples: Sequence[Sample], root: Path, findings: Findings) -> list[ClipRequest]:
    """Return one request per clip whose files exist."""
    requests, missing = [], []
    for sample in {clip_key(sample): sample for sample in samples}.values():
        try:
            request = clip_request(sample, root)
        except VideoError as error:
            missing.append(str(error))
            continue
        files = request.video if isinstance(request.video, tuple) else (request.video,)
        lost = [path for path in files if not path.exists()]
        missing += [f"no file at {str(lost[0])!r}"] if lost else []
        if not lost:
            requests.append(request)
    total = len(requests) + len(missing)
    if missing:
        stops = len(missing) > recipe.data.max_bad_fraction * total
        where = findings.problems if stops else findings.warnings
        where.append(f"{len(missing)} of {total} clips are missing; first: {missing[0]}")
    return requests


def _plan(recipe: Recipe, plan: Blueprint, data: Sequence[Data], clips: Sequence[Clip], findings: Findings) -> Plan:
    train, heldout = data
    sizes = [_size(recipe, plan, clip) for clip in clips]
    over = sum(size.num_frames < clip.num_frames for size, clip in zip(sizes, clips, strict=True))
    if over:
        findings.warnings.append(f"{over} of {len(clips)} clips looked at are over their budget of tokens and lose "
                                 "frames, evenly")
    video, answer = [size.tokens for size in sizes], recipe.generate.max_new_tokens
    questions = [_tokens(sample.prompt) + TEMPLATE_TOKENS for sample in train.samples]
    prompt = max(video) + max(questions)
    sequence = Spread(min(video) + min(questions) + answer, sum(video) / len(video) + sum(questions) / len(questions)
                      + answer, prompt + answer)
    context = plan.family.context_length(plan.config)
    context = min(context, recipe.train.max_length or context)
    if sequence.most > context:
        findings.warnings.append(f"sequences of up to {sequence.most:,.0f} tokens do not fit the {context:,} there is "
                                 "room for: such pairs are dropped and counted. Shorten questions, or lower "
                                 "video.max_tokens, video.num_frames or generate.max_new_tokens")
    parameters = count_parameters(plan, recipe.train.tune)
    load = Load(sequences=1, prompt_tokens=prompt, answer_tokens=answer,
                patches=max(size.patches for size in sizes))
    answering = Load(sequences=recipe.generate.batch_size, prompt_tokens=prompt, answer_tokens=answer,
                     patches=load.patches)
    memory = {"generate": estimate_generation(plan, recipe.model, answering),
              "train": estimate_training(plan, recipe.model, recipe.train, load)}
    if recipe.generate.engine == "openai":
        del memory["generate"]
    findings.check_memory(max(parts["total"] for parts in memory.values()), recipe)
    pairs = len(train.samples) * _pairs_per_question(recipe)
    return Plan(
        recipe=recipe.name, model=recipe.model.name, family=plan.family.name, questions=len(train.samples),
        clips=train.num_clips, heldout_questions=len(heldout.samples), heldout_clips=heldout.num_clips,
        frames=Spread.of([size.num_frames for size in sizes]), video_tokens=Spread.of(video), sequence=sequence,
        context=context, parameters=parameters.total, trainable=parameters.lora_per_rank * recipe.train.lora.rank,
        memory=memory, pairs=pairs, steps=optimizer_steps(recipe, pairs),
        judge=_if_known(lambda: judge_calls(recipe, train.samples, per_sample=recipe.generate.candidates_per_sample)),
        evaluation_judge=_if_known(lambda: _evaluation_calls(recipe, heldout.samples)),
        decoded=0 if train.root is None else len(clips), assumptions=tuple(findings.assumptions),
        problems=tuple(findings.problems), warnings=tuple(findings.warnings))


@dataclass(frozen=True, slots=True)
class _Size:
    num_frames: int
    tokens: int
    patches: int


def _size(recipe: Recipe, plan: Blueprint, clip: Clip) -> _Size:
    """Return what a clip costs after `video.max_tokens`."""
    shape = {"height": clip.height, "width": clip.width}
    fitting = frames_within(plan, recipe.video, num_frames=clip.num_frames, **shape)
    return _Size(fitting, video_tokens(plan, recipe.video, num_frames=fitting, **shape),
                 vision_patches(plan, recipe.video, num_frames=fitting, **shape))


def _tokens(text: str) -> int:
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def _pairs_per_question(recipe: Recipe) -> int:
    """Return the most pairs that are made of one question."""
    negatives = len(set(recipe.pair.video_negatives))
    if recipe.pair.rule != "all_pairs":
        return 1 + negatives
    return min(recipe.pair.max_pairs_per_sample, math.comb(recipe.generate.candidates_per_sample, 2)) + negatives


def optimizer_steps(recipe: Recipe, pairs: int) -> int:
    """Return the optimizer steps of training on that many pairs, as transformers' Trainer counts them on one device."""
    train = recipe.train
    per_epoch = max(math.ceil(math.ceil(pairs / train.batch_size) / train.gradient_accumulation), 1)
    steps = math.ceil(train.epochs * per_epoch)
    return steps if train.max_steps is None else train.max_steps


def judge_calls(recipe: Recipe, samples: Sequence[Sample], *, per_sample: int, scorer: str | None = None) -> Calls:
    """Return the calls that score `per_sample` answers to each sample; answers are taken as long as they may be."""
    loaded = load_scorer(scorer or recipe.judge.scorer)
    answer = "x" * (CHARACTERS_PER_TOKEN * recipe.generate.max_new_tokens)
    prompts = [render_prompt(loaded, caption=sample.caption, question=sample.prompt, answer=answer, other=answer,
                             reference=sample.answer) for sample in samples
               if sample.answer is not None or not loaded.needs_reference]
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
    """Return the calls that judge base and tuned answers by both scorers, and the answers behind held-out pairs."""
    settings = recipe.evaluate
    parts = [judge_calls(recipe, heldout, per_sample=2),
             judge_calls(recipe, heldout[:settings.pair_samples], per_sample=settings.pair_candidates)]
    if settings.hallucination_scorer is not None:
        parts.append(judge_calls(recipe, heldout, per_sample=2, scorer=settings.hallucination_scorer))
    return Calls(calls=sum(part.calls for part in parts), tokens_in=sum(part.tokens_in for part in parts),
                 tokens_out=sum(part.tokens_out for part in parts))
