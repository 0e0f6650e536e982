"""Python code and the command line as processes of their own."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def forked_commands(*commands: tuple[str, ...]) -> tuple[list[int], str]:
    """Run commands, each with where it is killed (see forked_commands.py), in forks of one process
    that has imported all; returns their exit codes and what was told on the way.
    """
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("forked_commands.py")), json.dumps(commands)],
        capture_output=True,
        text=True,
        check=False,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def dpo_video(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dpo_video", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
