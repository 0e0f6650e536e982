"""The functions for notebooks and scripts of one's own, as `dpo_video.NAME`: recipes, runs and
their records, stages, tuned models.
"""

from dpo_video.api.runs import open_run, read_answers, read_pairs, run_stages
from dpo_video.recipe.file import change_recipe, load_recipe

__all__ = [
    "change_recipe",
    "load_recipe",
    "open_run",
    "read_answers",
    "read_pairs",
    "run_stages",
]
