"""Several processes under `accelerate launch`: rank 0 owns the run folder, the others follow what
it shares.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from dpo_video.core.errors import UserError
from dpo_video.core.ranks import world_size
from dpo_video.train.prefetch import OnBadClip

PATIENCE_SECONDS = 6 * 3600
"""How long processes wait for each other: rank 0 may first decode every clip to measure it. torch's
own 10 minutes on GPUs are too short for that. `train.trl.ddp_timeout` sets another time."""


def broadcast(message: Any, *, use_cpu: bool, patience: float = PATIENCE_SECONDS) -> Any:
    """Return rank 0's message on every rank; with one process, the message itself.

    Args:
        patience: seconds that this and all later exchanges may take.
    """
    if world_size() == 1:
        return message
    PartialState(cpu=use_cpu, timeout=timedelta(seconds=patience))
    box = [message]
    broadcast_object_list(box, from_process=0)
    return box[0]


class StopForBadClips:
    """Tells of a clip that cannot be read, and stops: processes with unequal batches would wait for
    each other.
    """

    def __init__(self, tell: OnBadClip) -> None:
        self._tell = tell
        self._collecting = False
        self._met: list[str] = []

    def __call__(self, clip: str, error: UserError) -> None:
        """Tell of a clip; raise UserError, unless they are collected."""
        self._tell(clip, error)
        self._met.append(str(error))
        if not self._collecting:
            _stop(self._met)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Go on while the block runs, in which no process needs another's batches; then stop for
        those all met.
        """
        self._collecting = True
        yield
        self._collecting = False
        met = sorted(set(gather_object(self._met)))
        if met:
            _stop(met)


def _stop(errors: list[str]) -> None:
    others = f" (and {len(errors) - 1} more clips)" if len(errors) > 1 else ""
    raise UserError(
        f"{errors[0]}{others} Set aside: run the same command again, training goes on from the "
        f"last "
        "checkpoint without it"
    )
