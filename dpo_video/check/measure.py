"""A short sample of a run, done for real where its weights are on this disk and its device is this
machine's: a few answers, a few judged prompts, two steps of training.
"""

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dpo_video.check.data import SplitData
from dpo_video.check.measured import MeasuredSample, device_here, weights_are_here
from dpo_video.core.errors import UserError
from dpo_video.core.records import Candidate, Pair, Sample
from dpo_video.generate.jobs import GenerationJob
from dpo_video.generate.stage import make_candidates, training_sampler
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.prompt import question_of, render
from dpo_video.judge.scorer import can_be_judged, load_scorer
from dpo_video.models.load import Policy, load_policy
from dpo_video.recipe import ModelSettings, Recipe
from dpo_video.run import Run
from dpo_video.store import RunStore
from dpo_video.tracking import start_tracking
from dpo_video.train.run_trainer import TrainingJob, train_adapter
from dpo_video.train.selection import select_pairs
from dpo_video.video import clip_key

QUESTIONS = 12
"""Questions that are answered."""
PROMPTS = 16
"""Prompts that a judge reads."""
STEPS = 2


def measure_sample(recipe: Recipe, data: SplitData) -> MeasuredSample:
    """Do a sample of the run in a folder that is removed again; UserError where that fails."""
    try:
        return _measure(recipe, data)
    except torch.OutOfMemoryError as error:
        raise UserError("out of GPU memory in a sample of a few questions") from error


def _measure(recipe: Recipe, data: SplitData) -> MeasuredSample:
    assert data.root is not None, "a sample needs data"
    samples = list(data.samples[:QUESTIONS])
    with TemporaryDirectory(prefix="dpo-video-check-") as folder:
        recipe = _small_recipe(recipe, Path(folder))
        with _opened(recipe, samples, data.root) as run:
            policy = load_policy(recipe.model, adapter=recipe.start_adapter)
            answer_seconds, candidates = _answer(run, policy)
            prompts, prompt_seconds = _judge(run, candidates)
            del policy  # training changes it, and loads its own
            _free()
            pairs = list(data.pairs) or _pairs(samples, candidates)
            pairs = pairs[: STEPS * recipe.train.batch_size * recipe.train.gradient_accumulation]
            step_seconds = _train(run, pairs) if pairs else 0.0
    return MeasuredSample(
        questions=len(samples),
        clips=len({clip_key(sample) for sample in samples}),
        answers=len(candidates),
        answer_seconds=answer_seconds,
        pairs=len(pairs),
        pair_clips=len({clip_key(pair) for pair in pairs}),
        step_seconds=step_seconds,
        prompts=prompts,
        prompt_seconds=prompt_seconds,
        device=device_here(recipe),
    )


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _small_recipe(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with another folder, and no more than a few steps."""
    train = recipe.train.model_copy(
        update={
            "max_steps": STEPS,
            "gradient_accumulation": min(2, recipe.train.gradient_accumulation),
            "reference_folder": None,
        }
    )
    return recipe.model_copy(
        update={
            "runs_folder": str(folder),
            "name": "sample",
            "store": None,
            "train": train,
            "tracking": recipe.tracking.model_copy(update={"to": "none"}),
        }
    )


@contextmanager
def _opened(recipe: Recipe, samples: list[Sample], root: Path) -> Iterator[Run]:
    with RunStore(recipe.run_folder) as store, start_tracking(recipe) as tracker:
        yield Run(
            recipe=recipe,
            store=store,
            samples=samples,
            heldout=[],
            video_root=root,
            heldout_root=root,
            tracker=tracker,
        )


def _answer(run: Run, policy: Policy) -> tuple[float, list[Candidate]]:
    """Return how long the candidates of the samples take, and them."""
    job = GenerationJob(
        samples=run.samples,
        root=run.video_root,
        num_candidates=run.recipe.generate.candidates_per_sample,
        sampler=training_sampler(run.recipe.generate),
        title="sample: answers",
        load=lambda: policy,
    )
    began = time.perf_counter()
    result = make_candidates(run, job)
    return time.perf_counter() - began, result.candidates


def _judge(run: Run, candidates: Sequence[Candidate]) -> tuple[int, float]:
    """Return how many prompts a local judge read, and how long it took; none of another judge."""
    settings = run.recipe.judge
    if settings.backend != "local" or settings.engine != "here" or settings.jury:
        return 0, 0.0
    if not weights_are_here(ModelSettings(name=settings.model, revision=settings.revision)):
        return 0, 0.0
    scorer = load_scorer(settings.scorer)
    samples = {sample.id: sample for sample in run.samples}
    prompts = [
        render(
            scorer,
            caption=sample.caption,
            question=question_of(sample),
            answer=candidate.text,
            other=candidates[0].text,
            reference=sample.answer,
        )
        for candidate in candidates
        if can_be_judged(scorer, sample := samples[candidate.sample_id])
        and (sample.answer is not None or not scorer.needs_reference)
    ][:PROMPTS]
    if not prompts:
        return 0, 0.0
    replies: dict[int, Any] = {}
    with open_judge(settings) as judge:
        judge.ask(scorer, prompts[:1], replies.__setitem__)  # loads it
        began = time.perf_counter()
        judge.ask(scorer, prompts, replies.__setitem__)
        return len(prompts), time.perf_counter() - began


def _pairs(samples: Sequence[Sample], candidates: Sequence[Candidate]) -> list[Pair]:
    """Return a pair of each sample's first two different answers: whatever they say, it takes as
    long.
    """
    texts: dict[str, dict[str, None]] = {}
    for candidate in candidates:
        if candidate.text.strip():
            texts.setdefault(candidate.sample_id, {})[candidate.text] = None
    return [
        Pair(
            sample_id=sample.id,
            video=sample.video,
            start=sample.start,
            end=sample.end,
            prompt=sample.prompt,
            history=sample.history,
            chosen=answers[0],
            rejected=answers[1],
            source="sample",
            chosen_id=f"{sample.id}#0",
            rejected_id=f"{sample.id}#1",
        )
        for sample in samples
        if len(answers := list(texts.get(sample.id, {}))) > 1
    ]


class _StepSeconds(TrainerCallback):
    """Adds up the time of the steps."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop it, once the device is done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - self._began


def _train(run: Run, pairs: Sequence[Pair]) -> float:
    """Return how long the steps over the pairs take."""

    def stop(clip: str, error: Exception) -> None:
        raise error

    policy = load_policy(run.recipe.model)
    selection = select_pairs(policy, run.recipe, pairs, root=run.video_root, on_bad_clip=stop)
    if not selection.pairs:
        return 0.0
    clock = _StepSeconds()
    job = TrainingJob(
        selection=selection,
        checkpoints=run.folder / "checkpoints",
        resume=None,
        bad_clips={},
        reference={},
    )
    train_adapter(policy, run.recipe, job, on_bad_clip=stop, callbacks=[clock])
    return clock.seconds
