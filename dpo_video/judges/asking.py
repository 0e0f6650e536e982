"""Ask a judge about prompts: stored replies first, each prompt once, every reply stored as it comes.

Every mode of judging is built on `ask_all`; scores are read from the replies afterwards.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from dpo_video.errors import UserError
from dpo_video.judges.backends import Judge, Messages, Reply, mode_of
from dpo_video.judges.scorer import Scorer
from dpo_video.progress import progress
from dpo_video.recipe import JudgeSettings
from dpo_video.store import RunStore, row_key

KIND = "judgment"
COUNTED_FROM = 20
"""Replies after which `judge.max_failed_fraction` can stop the run."""


def ask_all(settings: JudgeSettings, scorer: Scorer, prompts: Sequence[Messages], store: RunStore, *,
            judge: Judge, counts: Counter[str] | None = None) -> list[Reply]:
    """Return the reply to every prompt, in order; only what the store holds no reply to is asked, and equal ones once.

    Failed rows are asked again. `counts` gains `asked`, `answered_before` and `same_text`.
    """
    keys = [reply_key(settings, scorer, judge, messages) for messages in prompts]
    unique = dict(zip(keys, prompts, strict=True))
    replies = {key: Reply(**row) for key, row in store.get(KIND, unique).items() if row["status"] == "answered"}
    asked = {key: messages for key, messages in unique.items() if key not in replies}
    if counts is not None:
        counts.update(asked=len(asked), answered_before=len(replies), same_text=len(keys) - len(unique))
    if asked:
        replies |= _ask(settings, scorer, asked, store, judge=judge)
    return [replies[key] for key in keys]


def reply_key(settings: JudgeSettings, scorer: Scorer, judge: Judge, messages: Messages) -> str:
    """Return the hash of all that determines a reply; not how it is read, so a new scale or threshold costs nothing."""
    mode = mode_of(settings, scorer)
    how: dict[str, Any] = ({"labels": list(scorer.labels), "prefix": scorer.reply_prefix} if mode == "labels"
                           else {"temperature": settings.temperature})
    if mode == "verdict" or settings.backend == "openai":  # a local judge writes nothing under labels
        how["max_tokens"] = settings.max_tokens
    if settings.repeat:
        how["repeat"] = settings.repeat
    return row_key(backend=settings.backend, judge=judge.identity, messages=messages, **how)


def _ask(settings: JudgeSettings, scorer: Scorer, prompts: Mapping[str, Messages], store: RunStore, *,
         judge: Judge) -> dict[str, Reply]:
    """Return the reply to every prompt by its key; each is stored as it comes."""
    keys = list(prompts)
    replies: dict[str, Reply] = {}
    failures: Counter[str] = Counter()
    with progress(f"judge ({scorer.name})", total=len(keys)) as advance:

        def keep(index: int, reply: Reply) -> None:
            replies[keys[index]] = reply
            store.put(KIND, keys[index], asdict(reply))
            if reply.status == "failed":
                failures[reply.reason] += 1
            advance(1, failed=failures.total())
            received = len(replies)
            if received >= COUNTED_FROM and failures.total() > settings.max_failed_fraction * received:
                reason, times = failures.most_common(1)[0]
                raise UserError(f"{failures.total()} of {received} judgments failed, more than "
                                f"judge.max_failed_fraction {settings.max_failed_fraction:g} allows. Most often "
                                f"({times}): {reason}. Finished rows are kept; mend it and run the same command again")

        try:
            judge.ask(scorer, [prompts[key] for key in keys], keep)
        finally:
            store.flush()
    return replies
