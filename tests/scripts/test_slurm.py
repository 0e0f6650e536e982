"""The batch scripts do the stages in order, and a job whose time is up stops its stage and is
queued again. The commands they call write down how they were called.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts" / "slurm"
COMMANDS = ("dpo-video", "accelerate", "vllm", "curl", "scontrol", "srun", "torchrun")


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """A folder of commands; each adds a line to `calls`. A stage named by `hang` never ends."""
    log = tmp_path / "calls"
    for name in COMMANDS:
        command = tmp_path / name
        lines = {
            "scontrol": f'echo "scontrol $*" >>{log}; echo node1; echo node2',
            "srun": f'echo "srun $*" >>{log}; while [[ "$1" == --* ]]; do shift; done; exec "$@"',
            "vllm": f'echo "vllm $*" >>{log}; exec sleep 60',
            "curl": f"until grep -q ^vllm {log}; do sleep 0.02; done",  # the server answers
        }
        default = f'echo "{name} $*" >>{log}; [ "$1" != "$HANG" ] || exec sleep 60'
        command.write_text(f"#!/usr/bin/env bash\n{lines.get(name, default)}\n")
        command.chmod(0o755)
    return log


def start(calls: Path, name: str, hang: str = "") -> subprocess.Popen[str]:
    path = f"{calls.parent}:{os.environ['PATH']}"
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2"}
    return subprocess.Popen(
        ["bash", str(SCRIPTS / name), "mine.yaml"],
        env={**os.environ, **slurm, "PATH": path, "HANG": hang},
        cwd=calls.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def stages(calls: Path) -> list[str]:
    """Return what each call of ours did, in order."""
    words = [line.split() for line in calls.read_text().splitlines()]
    done = []
    for line in words:
        if line[0] == "dpo-video":
            done.append(line[1])
        elif line[0] == "accelerate":
            done.append(line[line.index("dpo_video") + 1])
    return done


@pytest.mark.parametrize("name", ["one_node.sbatch", "two_nodes.sbatch"])
def test_the_stages_are_done_in_order(calls: Path, name: str) -> None:
    done = start(calls, name)
    told, _ = done.communicate(timeout=60)
    assert done.returncode == 0, told
    assert stages(calls) == ["generate", "judge", "pair", "train", "evaluate"]
    text = calls.read_text()
    assert text.index("vllm serve") < text.index("dpo-video judge")


def test_training_over_nodes_meets_at_the_first(calls: Path) -> None:
    done = start(calls, "multi_node_train.sbatch")
    told, _ = done.communicate(timeout=60)
    assert done.returncode == 0, told
    assert "--rdzv_endpoint node1:29500 -m dpo_video train mine.yaml" in calls.read_text()


def test_a_job_whose_time_is_up_is_queued_again(calls: Path) -> None:
    job = start(calls, "one_node.sbatch", hang="judge")
    while "dpo-video judge" not in (calls.read_text() if calls.exists() else ""):
        assert job.poll() is None, job.communicate()
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    told, _ = job.communicate(timeout=60)
    assert job.returncode == 0, told
    assert calls.read_text().splitlines()[-1] == "scontrol requeue 7"
    assert stages(calls) == ["generate", "judge"]
