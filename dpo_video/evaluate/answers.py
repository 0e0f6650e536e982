"""What the base and the tuned model answer to the questions of all sets, and the implicit rewards
of the base's answers.

Each model is loaded once, and not at all where everything it would be asked for is stored.
"""

import gc
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch

from dpo_video.core.records import Candidate, Sample
from dpo_video.core.text import normalised_text
from dpo_video.data.choices import LETTERS, has_several, option_texts, stands_alone
from dpo_video.evaluate.questions import SetQuestion
from dpo_video.generate.jobs import READ, Choose, GenerationJob, GenerationResult, add_counts
from dpo_video.generate.stage import make_candidates_together, training_sampler
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.sampling import Sampler
from dpo_video.run import Run
from dpo_video.store import content_hash, row_key
from dpo_video.train.logps import answer_logps
from dpo_video.train.rewards import candidate_rewards

KIND = "reward"
"""Rows of the run store: {"reward": beta x nats} of a sampled answer under an adapter."""


class ModelAnswers(NamedTuple):
    """What the models say about the clips of all sets."""

    before: list[Candidate]
    """The base model's answer to each question, ids `<id as asked>#before`."""
    after: list[Candidate]
    """The tuned model's, ids `<id as asked>#after`."""
    sampled: list[Candidate]
    """Sampled answers of the base model, to build held-out pairs from."""
    rewards: dict[str, float]
    """Implicit reward of each sampled answer that can be paired, by candidate id; none where the
    clip cannot be read.
    """
    read: Mapping[str, int]
    """What reading the prompts of both models took, as the generate stage counts it; nothing where
    all answers were stored.
    """


def model_answers(
    run: Run, questions: Sequence[SetQuestion], paired: Sequence[Sample]
) -> ModelAnswers:
    """Have the base model answer and sample, then the tuned one answer and score what was sampled.

    Args:
        paired: the held-out samples that answers are sampled to.
    """
    before, sampled = _base_answers(run, questions, paired)
    _free_memory()
    after, rewards = _tuned_answers(run, questions, paired, sampled.candidates)
    _free_memory()
    return ModelAnswers(
        before=_rename(_candidates(before), "before"),
        after=_rename(_candidates(after), "after"),
        sampled=sampled.candidates,
        rewards=rewards,
        read=_read([*before, sampled, *after]),
    )


def _base_answers(
    run: Run, questions: Sequence[SetQuestion], paired: Sequence[Sample]
) -> tuple[list[GenerationResult], GenerationResult]:
    start = run.recipe.start_adapter
    load = cache(partial(load_policy, run.recipe.model, adapter=start))
    jobs = _answer_jobs(run, questions, adapter=start, title="answers before", load=load)
    over = run.recipe.pair_sampler
    sampling = GenerationJob(
        samples=paired,
        adapter=start,
        root=run.heldout_root,
        num_candidates=run.recipe.evaluate.pair_candidates,
        sampler=training_sampler(run.recipe.generate, over=over),
        instruction="{prompt}" if over is None else over.instruction,
        title="answers before",
        load=load,
    )
    *answered, sampled = make_candidates_together(run, [*jobs, sampling])
    return answered, sampled


def _tuned_answers(
    run: Run,
    questions: Sequence[SetQuestion],
    paired: Sequence[Sample],
    sampled: Sequence[Candidate],
) -> tuple[list[GenerationResult], dict[str, float]]:
    adapter = run.folder / "adapter"
    reference = run.recipe.reference_adapter
    load = cache(partial(load_policy, run.recipe.model, adapter=adapter, reference=reference))
    jobs = _answer_jobs(run, questions, adapter=adapter, title="answers after", load=load)
    answered = make_candidates_together(run, jobs)
    return answered, _rewards(run, paired, sampled, load)


def _answer_jobs(
    run: Run,
    questions: Sequence[SetQuestion],
    *,
    adapter: Path | None,
    title: str,
    load: Callable[[], Policy],
) -> list[GenerationJob]:
    """Return one answer to each question as jobs: texts by the sampler of the `evaluate` section,
    choices by a shorter one, or by their likelihood.
    """
    settings = run.recipe.evaluate
    texts: list[Sample] = []
    choices: list[Sample] = []
    for question in questions:
        (texts if question.asked.answer_kind == "text" else choices).append(question.asked)
    written = GenerationJob(
        samples=texts,
        root=run.heldout_root,
        num_candidates=1,
        sampler=Sampler(temperature=settings.temperature, max_new_tokens=settings.max_new_tokens),
        adapter=adapter,
        title=title,
        load=load,
    )
    is_likeliest = settings.choice == "likelihood"
    short = Sampler(temperature=settings.temperature, max_new_tokens=settings.choice_max_new_tokens)
    chosen = replace(
        written,
        samples=choices,
        sampler=short,
        choose=Choose(choices=choices_of, logps=answer_logps) if is_likeliest else None,
    )
    return [written, chosen]


def choices_of(sample: Sample) -> tuple[str, ...]:
    """Return what a question offers, as an answer is written: letters, Yes and No, or what the
    options say where they are not shown; nothing where several may be right together.
    """
    if has_several(sample):
        return ()
    if sample.answer_kind == "yes_no":
        return ("Yes", "No")
    if stands_alone(sample):
        return option_texts(sample.options or [])
    return tuple(LETTERS[: len(sample.options or [])])


def _rewards(
    run: Run, paired: Sequence[Sample], sampled: Sequence[Candidate], load: Callable[[], Policy]
) -> dict[str, float]:
    """Return the tuned model's implicit rewards by candidate id, stored ones and new ones for what
    is missing.

    They are taken before the judge has said which answers make a pair, while the model is here: a
    question's answers share its clip, so that the ones too many cost little.
    """
    adapter = run.folder / "adapter"
    answers = _pairable(paired, sampled)
    weights = content_hash(adapter) if answers else ""
    reference = run.recipe.reference_adapter
    against = {} if reference is None else {"reference": content_hash(reference)}
    keys = {
        candidate.id: row_key(
            settings=candidate.settings,
            seed=candidate.seed,
            text=candidate.text,
            adapter=weights,
            beta=run.recipe.train.beta,
            **against,
        )
        for _, candidate in answers
    }
    stored = run.store.get(KIND, keys.values())
    missing = [
        (sample, candidate) for sample, candidate in answers if keys[candidate.id] not in stored
    ]
    if missing:
        rewards = candidate_rewards(
            run,
            load(),
            missing,
            root=run.heldout_root,
            adapter=adapter,
            title="rewards of the sampled answers",
        )
        for name, reward in rewards.items():
            run.store.put(KIND, keys[name], {"reward": reward})
        run.store.flush()
        stored = run.store.get(KIND, keys.values())
    return {name: stored[key]["reward"] for name, key in keys.items() if key in stored}


def _pairable(
    samples: Sequence[Sample], sampled: Sequence[Candidate]
) -> list[tuple[Sample, Candidate]]:
    """Return the answers with text to questions that have at least two different ones: no other
    makes a pair.
    """
    by_id = {sample.id: sample for sample in samples}
    texts: dict[str, set[str]] = defaultdict(set)
    for candidate in sampled:
        if candidate.text.strip():
            texts[candidate.sample_id].add(normalised_text(candidate.text))
    return [
        (by_id[candidate.sample_id], candidate)
        for candidate in sampled
        if candidate.text.strip() and len(texts[candidate.sample_id]) > 1
    ]


def _candidates(results: Sequence[GenerationResult]) -> list[Candidate]:
    return [candidate for result in results for candidate in result.candidates]


def _read(results: Sequence[GenerationResult]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for result in results:
        add_counts(totals, {name: result.counts.get(name, 0) for name in READ})
    return {name: totals[name] for name in READ if totals[name]}


def _rename(candidates: Sequence[Candidate], name: str) -> list[Candidate]:
    return [replace(candidate, id=f"{candidate.sample_id}#{name}") for candidate in candidates]


def _free_memory() -> None:
    """Give the memory of a model that nothing refers to any more back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
