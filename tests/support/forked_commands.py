"""A process that runs commands one after the other, killed on the way or not: `python
forked_commands.py [[KILL, WORD...]...]`, the commands as JSON; the last line of stdout is
their exit codes.

Each command is a fork of its own, as importing takes longer than all it does. KILL is FOLDER/STAGE,
or empty for none: the command is killed by SIGKILL at the second row that this stage stores in the
run folder of that name (the first in `pair`), in `train` after its first checkpoint.
"""

import json
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


def run(words: list[str], kill_at: str) -> None:
    """Run a command, killed in one stage of one run folder; empty for none."""
    folder_name, _, stage_name = kill_at.partition("/")
    do_stage, put = dpo_video.pipeline._do_stage, RunStore.put
    rows_left = 1 if stage_name == "pair" else 2  # that one stores nothing before its end
    under_way = False

    def watched(run: Run, *args: Any, **kwargs: Any) -> StageResult | None:
        nonlocal under_way
        under_way = run.stage == stage_name and run.folder.name == folder_name
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
    app(words, standalone_mode=False)


def main(commands: list[list[str]]) -> None:
    codes = []
    for kill_at, *words in commands:
        process = os.fork()
        if process == 0:
            run(words, kill_at)
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(process, 0)
        codes.append(os.waitstatus_to_exitcode(status))
    sys.stdout.write(json.dumps(codes))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
