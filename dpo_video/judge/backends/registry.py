"""The backends that answer a judge's prompts, and what they have in common: prompts in, replies out
as they come.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from dpo_video.core.imports import large_imports
from dpo_video.core.names import choose
from dpo_video.core.progress import log
from dpo_video.judge.prices import open_spending
from dpo_video.judge.scorer import Scorer
from dpo_video.judge.types import Judge, Keep, Messages, OpenJudge, Reply
from dpo_video.recipe import JudgeSettings


@contextmanager
def open_judge(settings: JudgeSettings) -> Iterator[Judge]:
    """Open the judge of the settings; a local model is freed when the block ends."""
    with opening(backend_judge)(settings) as judge:
        yield judge


def opening(make_judge: Callable[[JudgeSettings], Judge]) -> OpenJudge:
    """Return what opens judges made by `make_judge`; a judge is closed when its block ends, and
    replies of two models are told.
    """
    return contextmanager(partial(_open, make_judge))


def _open(make_judge: Callable[[JudgeSettings], Judge], settings: JudgeSettings) -> Iterator[Judge]:
    judge = make_judge(settings)
    try:
        yield judge
    finally:
        judge.close()
    names = sorted(judge.answered_as)
    models = {
        name.casefold().rpartition("/")[2] for name in names
    }  # with or without its folder it is the same
    if len(models) > 1:
        log.info(
            f"warning: the replies of judge {judge.name!r} come from {len(models)} models, and "
            f"stand side by side: {', '.join(names)}. Name one of them in judge.model, or another "
            "judge.revision, to have all by one"
        )


def backend_judge(settings: JudgeSettings) -> Judge:
    """Return the judge that answers by itself: loaded here, behind a server, or on the workers of
    Ray.
    """
    if settings.engine == "ray":
        from dpo_video.judge.backends.ray import ask_workers

        make = choose(BACKENDS, settings.backend, "judge backend")
        return judge_without_calls(settings, partial(ask_workers, settings, make))
    return choose(BACKENDS, settings.backend, "judge backend")(settings)


def check_labels(settings: JudgeSettings, scorer: Scorer) -> None:
    """Raise UserError where a local judge cannot be found, or cannot give the labels of a scorer as
    single tokens. Its weights are not loaded.
    """
    with large_imports():
        from dpo_video.judge.backends.local import check_label_tokens

    check_label_tokens(settings, scorer)


def _local(settings: JudgeSettings) -> Judge:
    with large_imports():
        from dpo_video.judge.backends.local import local_judge

    return local_judge(settings)


def _openai(settings: JudgeSettings) -> Judge:
    from dpo_video.judge.backends.openai import openai_judge

    return openai_judge(settings)


BACKENDS: dict[str, Callable[[JudgeSettings], Judge]] = {"local": _local, "openai": _openai}


Ask = Callable[[Scorer, Iterable[Messages], Keep], None]


def judge_without_calls(settings: JudgeSettings, ask: Ask) -> Judge:
    """Return the judge of the settings, by name and identity, with another way to answer: nothing
    is loaded or sent.
    """
    if settings.backend == "openai":
        from dpo_video.judge.backends.openai import identity

        return Judge(
            name=settings.model,
            identity=identity(settings),
            ask=ask,
            spending=open_spending(settings),
        )
    from dpo_video.judge.backends.local import local_judge

    return replace(local_judge(settings), ask=ask)


def leave_unanswered(reason: str) -> Ask:
    """Return an `ask` that leaves every prompt unscored, for this reason."""

    def ask(scorer: Scorer, prompts: Iterable[Messages], keep: Keep) -> None:
        for index, _ in enumerate(prompts):
            keep(index, Reply(status="unscored", reason=reason))

    return ask
