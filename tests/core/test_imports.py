"""Importing torch with the collector paused: it rests meanwhile, and is on again afterwards."""

import subprocess
import sys

import pytest

COUNTED = """
import gc
from dpo_video.core.imports import large_imports
{before}
runs = 0
def count(phase, info):
    global runs
    runs += phase == "start" and info["generation"] < 2  # the whole is collected once, before
gc.callbacks.append(count)
with large_imports():
    made = [[] for _ in range(100_000)]
gc.callbacks.remove(count)
print(runs, gc.isenabled(), gc.get_freeze_count() > len(made))
"""


def counted(before: str = "") -> list[str]:
    """Return how often the collector ran in the block, whether it is on, and whether it leaves out
    what the block made.
    """
    code = COUNTED.format(before=before)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_nothing_is_collected_while_a_large_library_is_imported() -> None:
    assert counted() == ["0", "True", "True"]


@pytest.mark.parametrize(("before", "is_on"), [("import torch", "True"), ("gc.disable()", "False")])
def test_where_there_is_nothing_to_gain_the_collector_stays_as_it_is(
    before: str, is_on: str
) -> None:
    runs, enabled, frozen = counted(before)
    assert (int(runs) > 0, enabled, frozen) == (is_on == "True", is_on, "False")


def test_the_collector_is_on_again_after_an_import_that_fails() -> None:
    code = (
        "import gc\nfrom dpo_video.core.imports import large_imports\n"
        "try:\n    with large_imports():\n        import no_such_library\n"
        "except ImportError:\n    print(gc.isenabled(), gc.get_freeze_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "0"]


def test_libraries_find_nothing_left_over_when_the_process_ends() -> None:
    """triton's bindings, which transformers' processors bring, tell of it on stderr."""
    code = (
        "from dpo_video.core.imports import large_imports\n"
        "with large_imports():\n    from transformers import AutoVideoProcessor"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
