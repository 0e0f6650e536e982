"""Warnings of libraries about each other that a user can do nothing about, silenced one by one."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

# TRL 1.16 and PEFT 0.21 call names that transformers 5.23 deprecates: trl/models/utils.py:397,
# dpo_trainer.py:717.
RENAMED = r"`(is_)?gradient_checkpointing\w*` is deprecated"
# transformers/trainer_utils.py:323: two checkpoints within a second; it then sorts by step, which
# is right.
SAME_SECOND = "mtime may not be reliable on this filesystem"
# bitsandbytes 0.50 on CPUs with bfloat16 instructions: an optional package that would be fetched
# from the hub.
OPTIONAL_KERNEL = "Failed to load CPU gemm_4bit_forward"
LOGGED = {
    "transformers.trainer_utils": SAME_SECOND,
    "bitsandbytes.backends.cpu.ops": OPTIONAL_KERNEL,
}
"""Logger -> part of the message."""


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Leave these warnings out while the block runs."""
    with ExitStack() as stack:
        for name, text in LOGGED.items():
            logger = logging.getLogger(name)
            keep = partial(_keep, text)
            logger.addFilter(keep)
            stack.callback(logger.removeFilter, keep)
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message=RENAMED, category=FutureWarning)
        yield


def _keep(text: str, record: logging.LogRecord) -> bool:
    return text not in record.getMessage()
