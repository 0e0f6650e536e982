"""Work spread over the workers of a Ray cluster by Ray Data: rows go out in batches, rows come back
as they are done.

The cluster is the one in RAY_ADDRESS, one that runs on this machine, or else one that is started
here for the time. All its machines need this package and its extras, and find models and clips
under the same paths.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.progress import log

STARTS = 3
"""How often it is tried to start Ray."""
TOO_LATE = "timed out during startup"
"""What Ray says where its processes were not there in time."""


@contextmanager
def cluster() -> Iterator[dict[str, float]]:
    """Connect to Ray while the block runs; yields what it has: `CPU`, `GPU` and so on."""
    os.environ.setdefault(
        "RAY_USAGE_STATS_ENABLED", "0"
    )  # Ray would send statistics of use to its makers
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("engine ray needs Ray: pip install 'dpo-video[ray]'") from error
    ours = not ray.is_initialized()
    if ours:
        start_ray(partial(ray.init, log_to_driver=False, logging_level=logging.ERROR), ray.shutdown)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield dict(ray.cluster_resources())
    finally:
        if ours:
            ray.shutdown()


def start_ray(start: Callable[[], object], stop: Callable[[], None]) -> None:
    """Connect to Ray, or start it here; on a machine that is too busy to start it in time, again.

    Ray 2.60 waits 15 s for its agents and 30 s for its node, neither of which can be set, and then
    raises a bare Exception (github.com/ray-project/ray/issues/65983).
    """
    for left in reversed(range(STARTS)):
        try:
            start()
            return
        except (ConnectionError, RuntimeError) as error:
            raise UserError(
                f"cannot reach a Ray cluster: {str(error).splitlines()[0]}. Check RAY_ADDRESS; "
                "without it, Ray is started on this machine"
            ) from error
        except Exception as error:
            told = str(error)
            if TOO_LATE not in told:
                raise
            stop()  # what was started of it
            if not left:
                raise UserError(
                    f"Ray could not be started on this machine in {STARTS} tries: {told} Is it too "
                    "busy? Start Ray before, `ray start --head`, or set RAY_ADDRESS to a cluster"
                ) from error
            log.info(f"Ray was not started in time; trying again: {told}")


def map_on_workers(
    rows: Sequence[dict[str, Any]],
    worker: type,
    *,
    kwargs: dict[str, Any],
    workers: int,
    batch_rows: int,
    gpus: float,
) -> Iterator[dict[str, Any]]:
    """Yield the rows that `worker(**kwargs)` makes of batches of `rows`, in any order, as soon as
    each batch is done.

    `worker` is a class: each of the `workers` makes it once, and calls it with columns `{name:
    array}`. A worker tells what a user can mend in the column `user_error` of a row; it is raised
    here. Rows must have the same columns.
    """
    import ray

    blocks = min(len(rows), max(workers, -(-len(rows) // batch_rows)))
    data = ray.data.from_items(list(rows), override_num_blocks=blocks)
    batches = data.map_batches(
        worker,
        fn_constructor_kwargs=kwargs,
        batch_size=batch_rows,
        concurrency=workers,
        num_gpus=gpus or None,
        num_cpus=None if gpus else 1,
    )
    try:
        for row in batches.iter_rows():
            if row["user_error"]:
                raise UserError(row["user_error"])
            yield row
    except ray.exceptions.RayError as error:
        raise UserError(
            f"a Ray worker died: {_last_line(error)}. Rows so far are stored; run the same command "
            "again"
        ) from error


def workers_of(resources: dict[str, float]) -> tuple[int, float]:
    """Return how many workers can each hold a model, and the GPUs of each: one a GPU, or one a CPU
    where none is.
    """
    gpus = int(resources.get("GPU", 0))
    return (gpus, 1.0) if gpus else (max(1, int(resources.get("CPU", 1))), 0.0)


def error_as_row(
    work: Callable[[], dict[str, list[Any]]], columns: Sequence[str]
) -> dict[str, list[Any]]:
    """Return the columns that `work` makes, with `user_error` empty; or one row that holds the
    user's error.
    """
    try:
        values = work()
    except UserError as error:
        return {**{name: [None] for name in columns}, "user_error": [str(error)]}
    return {**values, "user_error": [""] * len(values[columns[0]])}


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
