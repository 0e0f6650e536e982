"""What commands print for programs, and how they fail."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

from dpo_video.core import strict_json
from dpo_video.core.progress import print_error, print_line


@contextmanager
def only_json(wanted: bool) -> Iterator[None]:
    """Send what the block prints to stderr, where JSON alone is wanted on stdout."""
    if not wanted:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def print_json(value: Any) -> None:
    """Print JSON on stdout, in ASCII: no character of it has to be spelt out for a terminal."""
    print_line(strict_json.dumps(value, indent=2, default=str))


def print_json_file(path: Path) -> None:
    """Print what a JSON file of a run holds."""
    print_json(strict_json.loads(path.read_text(encoding="utf-8")))


def fail(message: str, code: int) -> NoReturn:
    """Print why a command fails, in one line, and exit with a code."""
    print_error(f"dpo-video: {message}")
    sys.exit(code)
