"""Import torch, and the libraries built on it, without garbage collection in between."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def large_imports() -> Iterator[None]:
    """Pause garbage collection in a block that imports torch, and leave what it makes out of later
    ones; do nothing where torch is imported already, or the collector is off.

    The import makes 700,000 objects that stay, and the collector would walk them again and again.
    At the end of the process they are let go as usual: libraries tell of what is left over then.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.collect()  # what is garbage by now must not stay
    gc.disable()
    try:
        yield
        gc.freeze()
        atexit.register(gc.unfreeze)
    finally:
        gc.enable()
