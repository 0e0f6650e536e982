"""Several processes under `accelerate launch`: rank 0 owns the run folder, the others follow what it shares."""

import os
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list


def num_processes() -> int:
    """Return how many processes train together, as the launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_follower() -> bool:
    """Return whether another process owns the run folder."""
    return int(os.environ.get("RANK", "0")) > 0


def share(message: Any, *, use_cpu: bool) -> Any:
    """Return rank 0's message on every rank; with one process, the message itself."""
    if num_processes() == 1:
        return message
    PartialState(cpu=use_cpu)
    box = [message]
    broadcast_object_list(box, from_process=0)
    return box[0]


def process_number() -> int:
    """Return this process's rank."""
    return int(os.environ.get("RANK", "0"))
