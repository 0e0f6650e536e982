"""The backends that answer a judge's prompts, and what they have in common: prompts in, replies out as they come."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from dpo_video.judges.scorer import Scorer
from dpo_video.judges.spending import Spending
from dpo_video.names import choose
from dpo_video.progress import say
from dpo_video.recipe import JudgeSettings

Messages = list[dict[str, str]]
Mode = Literal["labels", "verdict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back for one prompt. It is stored as it is; scores are read from it later."""

    status: Literal["answered", "refused", "failed", "unscored"]
    """`refused`: it will not be answered as it is (too long, filtered, not accepted), and is not asked again. `failed`:
    all attempts went wrong; the next run asks again. `unscored`: not asked, under `judge --reparse`; never stored."""
    text: str = ""
    finish: str = "stop"
    """`stop`, or `length` when the reply was cut at `judge.max_tokens`."""
    log_probs: dict[str, float] | None = None
    """Natural log probability of each label as the next token after the reply prefix, over the whole vocabulary."""
    reason: str = ""
    """Refused or failed: the kind of failure, a colon, details."""
    prompt_tokens: int | None = None
    """As the server counts; None where it does not say."""
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    """Prompt tokens that the server had in its cache."""
    seconds: float = 0.0
    """Of the attempt that succeeded; 0 for a local judge, which answers in batches."""
    attempts: int = 1
    model: str | None = None
    """As the server calls what answered: a dated snapshot of the model asked for, say."""
    system_fingerprint: str | None = None
    """As the server says how that is set up."""


Keep = Callable[[int, Reply], None]
"""Called in the main thread with a prompt's index and its reply, as soon as it is there and in any order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """An open backend."""

    name: str
    """The judge, as judgments carry it."""
    identity: dict[str, str]
    """What determines the replies besides the prompt: model, revision, dtype; not the endpoint, not the batch size."""
    ask: Callable[[Scorer, Iterable[Messages], Keep], None]
    """Answer the prompts, which are taken one by one; the first call loads the model or reaches the server."""
    spending: Spending = field(default_factory=Spending)
    """What the replies have cost since the judge was opened."""
    in_flight: Callable[[], int] | None = None
    """Requests under way, for a judge behind a server."""
    close: Callable[[], None] = lambda: None
    """Free what `ask` loaded."""
    answered_as: set[str] = field(default_factory=set)
    """Names that servers gave with the replies that were read, stored ones too."""

    def note(self, reply: Reply) -> Reply:
        """Return a reply that is read, and keep the name that it came with."""
        if reply.model:
            self.answered_as.add(reply.model)
        return reply


def mode_of(settings: JudgeSettings, scorer: Scorer) -> Mode:
    """Return how replies are read: label probabilities, unless the scorer or the recipe wants written verdicts."""
    return "verdict" if settings.score_from == "verdict" or scorer.mode == "verdict" else "labels"


@contextmanager
def open_judge(settings: JudgeSettings) -> Iterator[Judge]:
    """Open the judge of the settings; a local model is freed when the block ends, and replies of two are told."""
    judge = (_INSTEAD.get() or backend_judge)(settings)
    try:
        yield judge
    finally:
        judge.close()
    names = sorted(judge.answered_as)
    models = {name.casefold().rpartition("/")[2] for name in names}  # with or without its folder it is the same
    if len(models) > 1:
        say(f"warning: the replies of judge {judge.name!r} come from {len(models)} models, and stand side by side: "
            f"{', '.join(names)}. Name one of them in judge.model, or another judge.revision, to have all by one")


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
