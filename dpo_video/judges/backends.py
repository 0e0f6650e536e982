"""The backends that answer a judge's prompts, and what they have in common: prompts in, replies out as they come.

Later kinds of judging (batch files, several endpoints, claims, pairwise, juries) are further rows of BACKENDS or modes
of a scorer; `judge.py` stores and reads any `Reply`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from dpo_video.judges.scorer import Scorer
from dpo_video.names import choose
from dpo_video.recipe import JudgeSettings

Messages = list[dict[str, str]]
Mode = Literal["labels", "verdict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back for one prompt. It is stored as it is; scores are read from it later."""

    status: Literal["answered", "failed", "unscored"]
    """`unscored`: it was not asked, under `judge --reparse`; such a reply is never stored."""
    text: str = ""
    finish: str = "stop"
    """`stop`, or `length` when the reply was cut at `judge.max_tokens`."""
    log_probs: dict[str, float] | None = None
    """Natural log probability of each label as the next token after the reply prefix, over the whole vocabulary."""
    reason: str = ""
    """Failed: the kind of failure, a colon, details."""


Keep = Callable[[int, Reply], None]
"""Called in the main thread with a prompt's index and its reply, as soon as it is there and in any order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """An open backend."""

    name: str
    """The judge, as judgments carry it."""
    identity: dict[str, str]
    """What determines the replies besides the prompt: model, revision, dtype; not the endpoint, not the batch size."""
    ask: Callable[[Scorer, Sequence[Messages], Keep], None]
    """Answer the prompts; the first call loads the model or reaches the server."""
    close: Callable[[], None] = lambda: None
    """Free what `ask` loaded."""


def mode_of(settings: JudgeSettings, scorer: Scorer) -> Mode:
    """Return how scores are read: the scorer's mode, unless the recipe asks for written verdicts."""
    return "verdict" if settings.score_from == "verdict" else scorer.mode


@contextmanager
def open_judge(settings: JudgeSettings) -> Iterator[Judge]:
    """Open the judge of the settings; a local model is freed when the block ends."""
    judge = (_INSTEAD.get() or backend_judge)(settings)
    try:
        yield judge
    finally:
        judge.close()


def backend_judge(settings: JudgeSettings) -> Judge:
    """Return the judge that answers by itself: loaded here, behind a server, or on the workers of Ray."""
    if settings.engine == "ray":
        from dpo_video.judges.ray import ray_judge

        return ray_judge(settings)
    return choose(BACKENDS, settings.backend, "judge backend")(settings)


@contextmanager
def asking_instead(make: Callable[[JudgeSettings], Judge]) -> Iterator[None]:
    """Have every judge that is opened while the block runs made by `make`: also those of a jury or a cascade."""
    token = _INSTEAD.set(make)
    try:
        yield
    finally:
        _INSTEAD.reset(token)


def _local(settings: JudgeSettings) -> Judge:
    from dpo_video.judges.local import local_judge

    return local_judge(settings)


def _openai(settings: JudgeSettings) -> Judge:
    from dpo_video.judges.openai import openai_judge

    return openai_judge(settings)


_INSTEAD: ContextVar[Callable[[JudgeSettings], Judge] | None] = ContextVar("instead", default=None)

BACKENDS: dict[str, Callable[[JudgeSettings], Judge]] = {"local": _local, "openai": _openai}
