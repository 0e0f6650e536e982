"""A process that runs a recipe with rounds again and again, killed each time at another place:
`python rounds_process.py RECIPE ROUND/STAGE...`, and once to the end.

Each run is a fork of its own, as importing takes longer than all it does. It is killed by SIGKILL
at the second row that the stage stores in that round (the first in `pair`), in `train` after its
first checkpoint.
"""

import os
import signal
import sys
from typing import Any

import dpo_video.pipeline
import dpo_video.train.run_trainer
import dpo_video.train.stage
from dpo_video.cli.app import app
from dpo_video.run import Run, StageResult
from dpo_video.store import RunStore
from dpo_video.train.checkpoints import WholeCheckpoints


def run(recipe: str, kill_at: str) -> None:
    """Run the recipe, killed in one stage of one round; empty for none."""
    round_name, _, stage_name = kill_at.partition("/")
    do_stage, put = dpo_video.pipeline._do_stage, RunStore.put
    rows_left = 1 if stage_name == "pair" else 2  # that one stores nothing before its end
    under_way = False

    def watched(run: Run, *args: Any, **kwargs: Any) -> StageResult | None:
        nonlocal under_way
        under_way = run.stage == stage_name and run.folder.name == round_name
        return do_stage(run, *args, **kwargs)

    def put_and_kill(self: RunStore, *args: Any, **kwargs: Any) -> None:
        nonlocal rows_left
        put(self, *args, **kwargs)
        if under_way and stage_name != "train":
            rows_left -= 1
            if rows_left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    class KillAfterCheckpoint(WholeCheckpoints):
        def on_save(self, *args: Any, **kwargs: Any) -> None:
            super().on_save(*args, **kwargs)
            if under_way and stage_name == "train":
                os.kill(os.getpid(), signal.SIGKILL)

    dpo_video.pipeline._do_stage = watched  # type: ignore[assignment]
    RunStore.put = put_and_kill  # type: ignore[method-assign]
    dpo_video.train.run_trainer.WholeCheckpoints = KillAfterCheckpoint  # type: ignore[misc]
    app(["run", recipe], standalone_mode=False)


def main(recipe: str, *kills: str) -> None:
    for kill_at in (*kills, ""):
        process = os.fork()
        if process == 0:
            run(recipe, kill_at)
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(process, 0)
        code = os.waitstatus_to_exitcode(status)
        sys.stderr.write(f"{kill_at or 'end'}: {code}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
