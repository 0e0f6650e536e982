"""A judge on the workers of a Ray cluster: the same prompts and keys as here, a local model or a
server on each worker.

Replies come back a batch at a time and are stored here, so that a killed run loses at most the
batches under way.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, NamedTuple

from dpo_video.core import strict_json
from dpo_video.core.ray_cluster import cluster, error_as_row, map_on_workers, workers_of
from dpo_video.judge.scorer import Scorer
from dpo_video.judge.types import Judge, Keep, Messages, Reply
from dpo_video.recipe import JudgeSettings

WINDOW = 100_000
"""Prompts that are handed to Ray at a time."""
BATCHES_IN_FLIGHT = 8
"""Rows of a batch, in multiples of what a worker answers at once: it is seldom idle between two
batches.
"""


def ask_workers(
    settings: JudgeSettings,
    make: Callable[[JudgeSettings], Judge],
    scorer: Scorer,
    prompts: Iterable[Messages],
    keep: Keep,
) -> None:
    """Answer prompts on the workers, each of which makes its judge by `make`; started with the
    first prompt.
    """
    indexed = enumerate(prompts)
    # `prompts` ends where the money does, by the mean price of a reply: the first few tell it
    sizes = chain([] if settings.max_cost is None else [settings.concurrency], repeat(WINDOW))
    with ExitStack() as stack:
        resources: dict[str, float] = {}
        while window := list(islice(indexed, next(sizes))):
            resources = resources or stack.enter_context(cluster())
            rows = [
                {"number": number, "messages": strict_json.dumps(messages)}
                for number, messages in window
            ]
            shares = _shares(settings, resources, len(rows))
            for row in map_on_workers(
                rows,
                Worker,
                kwargs={"settings": shares.each.model_dump_json(), "scorer": scorer, "make": make},
                workers=shares.workers,
                batch_rows=shares.batch_rows,
                gpus=shares.gpus,
            ):
                keep(int(row["number"]), Reply(**strict_json.loads(row["reply"])))


class _Shares(NamedTuple):
    workers: int
    each: JudgeSettings
    """The settings of one worker."""
    gpus: float
    """GPUs of one worker."""
    batch_rows: int


def _shares(settings: JudgeSettings, resources: dict[str, float], count: int) -> _Shares:
    """Return how `count` prompts are divided; workers that ask a server share
    `judge.concurrency`.
    """
    workers, gpus = workers_of(resources)
    changes: dict[str, Any] = {"engine": "here"}
    at_once = settings.batch_size
    if settings.backend == "openai":
        workers, gpus = min(int(resources.get("CPU", 1)), settings.concurrency), 0.0
        changes["concurrency"] = at_once = -(-settings.concurrency // workers)
    elif Path(settings.model).expanduser().is_dir():
        changes["model"] = str(
            Path(settings.model).expanduser().absolute()
        )  # workers start elsewhere
    workers = min(workers, count)
    batch_rows = min(at_once * BATCHES_IN_FLIGHT, -(-count // workers))
    return _Shares(workers, settings.model_copy(update=changes), gpus, batch_rows)


class Worker:
    """One worker's judge, opened once."""

    def __init__(
        self, settings: str, scorer: Scorer, make: Callable[[JudgeSettings], Judge]
    ) -> None:
        own_settings = JudgeSettings.model_validate_json(settings)
        self.scorer, self.make = scorer, partial(make, own_settings)
        self.judge: Judge | None = None

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Return `number` and `reply` (JSON) of a batch of `number` and `messages` (JSON)."""
        return error_as_row(partial(self._answer, batch), ("number", "reply"))

    def _answer(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        self.judge = self.judge or self.make()  # here: a wrong setting is told in a row
        replies: dict[int, str] = {}

        def keep(index: int, reply: Reply) -> None:
            replies[index] = strict_json.dumps(asdict(reply))

        self.judge.ask(self.scorer, [strict_json.loads(text) for text in batch["messages"]], keep)
        return {
            "number": [int(batch["number"][index]) for index in replies],
            "reply": list(replies.values()),
        }
