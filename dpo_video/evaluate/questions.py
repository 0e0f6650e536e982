"""The questions of an evaluation: those of all sets together, as the models are asked them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dpo_video.benchmarks.sets import benchmark_of
from dpo_video.core.records import Sample
from dpo_video.data.choices import LABEL, LETTERS, labelled_options, stands_alone
from dpo_video.data.samples import EvaluationSet, LoadedSamples
from dpo_video.recipe.evaluate import HELDOUT
from dpo_video.run import Run
from dpo_video.video import VideoError, resolve_video

ASKS_LETTER = "Answer with the option's letter from the given choices directly."
ASKS_YES_NO = "Please answer yes or no."


@dataclass(frozen=True, slots=True, kw_only=True)
class SetQuestion:
    """One question of one set."""

    set: str
    sample: Sample
    """As its file has it."""
    asked: Sample
    """With an id that no other set has, the prompt that the models are given, and the clip's path
    from the folder of the held-out clips, so that questions of several sets share a clip.
    """


def evaluation_sets(run: Run) -> list[EvaluationSet]:
    """Return the sets that a run is evaluated on, that of `data.heldout` first."""
    loaded = LoadedSamples(samples=run.heldout, root=run.heldout_root, removed=[])
    heldout = [EvaluationSet(name=HELDOUT, loaded=loaded)] if run.heldout else []
    return [*heldout, *run.sets]


def evaluation_questions(run: Run) -> list[SetQuestion]:
    """Return the questions of all sets, set by set."""
    questions: list[SetQuestion] = []
    for evaluation_set in evaluation_sets(run):
        name, root = evaluation_set.name, evaluation_set.loaded.root
        for sample in evaluation_set.loaded.samples:
            asked = replace(sample, prompt=asked_prompt(sample))
            if name != HELDOUT:
                asked = replace(
                    asked,
                    id=f"{sample.id} of set {name}",
                    video=_from(run.heldout_root, sample.video, root),
                )
            questions.append(SetQuestion(set=name, sample=sample, asked=asked))
    return questions


def asked_prompt(sample: Sample) -> str:
    """Return what a model is asked: the prompt, with what is to be chosen from where it is not in
    it.

    A `letter` prompt that does not show its options with their letters gets them a line each, and
    `Answer with the option's letter from the given choices directly.` (the wording of LLaVA-1.5,
    which lmms-eval gives LongVideoBench); a `yes_no` prompt without the words yes and no gets
    `Please answer yes or no.` What `dpo-video import` took from a benchmark is asked as published,
    and a sample with `ask_as_it_stands` in its `meta` as it stands.
    """
    if benchmark_of(sample) is not None or stands_alone(sample):
        return sample.prompt
    if sample.answer_kind == "letter":
        options = labelled_options(sample.options or [])
        if _shows(sample.prompt, options):
            return sample.prompt
        return "\n".join([sample.prompt, *options, ASKS_LETTER])
    if sample.answer_kind == "yes_no":
        words = set(re.findall(r"[a-z]+", sample.prompt.lower()))
        return sample.prompt if {"yes", "no"} <= words else f"{sample.prompt}\n{ASKS_YES_NO}"
    return sample.prompt


def _shows(prompt: str, options: Sequence[str]) -> bool:
    """Return whether every option stands in a prompt behind its letter."""
    for letter, option in zip(LETTERS, options, strict=False):
        label = LABEL.match(option)
        assert label is not None, "options are labelled"
        content = re.escape(option[label.end() - 1 :].strip())
        if not re.search(rf"(?<![A-Za-z])\(?{letter}[.):]\s*{content}", prompt):
            return False
    return True


def _from(folder: Path, video: str | list[str], root: Path) -> str | list[str]:
    """Return a clip's path from another folder than `root`, absolute where it lies outside."""
    try:
        paths = resolve_video(video, root)
    except VideoError:  # an address: its reason is told where it is read
        return video
    base = folder.absolute()
    names: list[str] = []
    for path in paths if isinstance(paths, list) else [paths]:
        absolute = path.absolute()
        is_inside = absolute.is_relative_to(base)
        names.append(str(absolute.relative_to(base) if is_inside else absolute))
    return names if isinstance(video, list) else names[0]
