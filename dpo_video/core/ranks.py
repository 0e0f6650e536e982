"""Which of several processes this one is, as `torchrun` and `accelerate launch` tell it."""

import os


def rank() -> int:
    """Return this process's number among all; 0 where it was started alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes were started together, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Return this process's number on its machine: that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main_process() -> bool:
    """Return whether this process has rank 0, which alone owns the run folder."""
    return rank() == 0
