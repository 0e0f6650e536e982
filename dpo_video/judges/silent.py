"""Judges that make no call: the keys of a backend's replies without its model, its server or its API key."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from dpo_video.judges.backends import Judge, Keep, Messages, Reply
from dpo_video.judges.scorer import Scorer
from dpo_video.judges.spending import open_spending
from dpo_video.recipe import JudgeSettings

Ask = Callable[[Scorer, Iterable[Messages], Keep], None]


def silent_judge(settings: JudgeSettings, ask: Ask) -> Judge:
    """Return the judge of the settings, by name and identity, with another way to answer: nothing is loaded or sent."""
    if settings.backend == "openai":
        from dpo_video.judges.openai import identity

        return Judge(name=settings.model, identity=identity(settings), ask=ask, spending=open_spending(settings))
    from dpo_video.judges.local import local_judge

    return replace(local_judge(settings), ask=ask)


def no_reply(reason: str) -> Ask:
    """Return an `ask` that leaves every prompt unscored, for this reason."""

    def ask(scorer: Scorer, prompts: Iterable[Messages], keep: Keep) -> None:
        for number, _ in enumerate(prompts):
            keep(number, Reply(status="unscored", reason=reason))

    return ask
