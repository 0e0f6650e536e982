"""dpo-video: preference tuning (DPO) for video language models, from captioned clips to a tuned
adapter.
"""

from importlib import import_module
from typing import Any

from dpo_video.core.records import Candidate, Judgment, Pair, Sample

__version__ = "0.2.0"
__all__ = [
    "Candidate",
    "Judgment",
    "Pair",
    "Sample",
    "__version__",
    "change_recipe",
    "load_recipe",
    "open_run",
    "open_tuned",
    "read_answers",
    "read_pairs",
    "run_stages",
]
PLACES = {"open_tuned": "dpo_video.api.tuned"}
"""Where a public function is, where that is not `dpo_video.api`: this one needs torch."""


def __getattr__(name: str) -> Any:
    """Import a public function when it is first used, so that no command waits for it."""
    if name not in __all__:
        raise AttributeError(f"module 'dpo_video' has no attribute {name!r}")
    return getattr(import_module(PLACES.get(name, "dpo_video.api")), name)
