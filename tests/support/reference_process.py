"""A process that is killed in the reference pass: `python reference_process.py RECIPE.json WORLD
STORED_BATCHES`.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import dpo_video.train.stage
from dpo_video.recipe import Recipe
from dpo_video.run import Run
from dpo_video.store import RunStore
from dpo_video.tracking import Tracker
from dpo_video.train.reference import keep_logps


def main(recipe_file: str, world: str, batches: str) -> None:
    recipe = Recipe.model_validate_json(Path(recipe_file).read_text())
    left = int(batches)

    def keep(store: RunStore, logps: Mapping[str, Sequence[float]]) -> None:
        nonlocal left
        keep_logps(store, logps)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    dpo_video.train.stage.keep_logps = keep
    with RunStore(recipe.run_folder) as store:
        dpo_video.train.stage.train(
            Run(
                recipe=recipe,
                store=store,
                samples=[],
                heldout=[],
                video_root=Path(world),
                heldout_root=Path(world),
                tracker=Tracker(),
            )
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
