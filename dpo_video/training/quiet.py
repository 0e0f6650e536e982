"""Warnings of libraries about each other that a user can do nothing about, silenced one by one."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# TRL 1.16 and PEFT 0.21 call names that transformers 5.23 deprecates: trl/models/utils.py:397, dpo_trainer.py:717.
RENAMED = r"`(is_)?gradient_checkpointing\w*` is deprecated"
# transformers/trainer_utils.py:323: two checkpoints within a second; it then sorts by step, which is right.
SAME_SECOND = "mtime may not be reliable on this filesystem"


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Leave these warnings out while the block runs."""
    def keep(record: logging.LogRecord) -> bool:
        return SAME_SECOND not in record.getMessage()

    sorting = logging.getLogger("transformers.trainer_utils")
    sorting.addFilter(keep)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=RENAMED, category=FutureWarning)
            yield
    finally:
        sorting.removeFilter(keep)
