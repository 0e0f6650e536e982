"""A review page that is served, in this process or in one that can be killed."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import uvicorn

from dpo_video.review.command import ReviewOptions, listen, open_session
from dpo_video.review.server import review_app
from dpo_video.review.session import ReviewSession

TOKEN = "a-token-that-nobody-guesses"


class Served(NamedTuple):
    """A page under way."""

    address: str
    """Up to and with the token, and a slash."""
    session: ReviewSession


@contextmanager
def serve_review(run_folder: Path, options: ReviewOptions) -> Iterator[Served]:
    with open_session(run_folder, options) as session, listen(0) as listener:
        port = listener.getsockname()[1]
        app = review_app(session, token=TOKEN, port=port, annotator="ann")
        settings = uvicorn.Config(
            app, access_log=False, log_level="warning", lifespan="off", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Served(f"http://127.0.0.1:{port}/{TOKEN}/", session)
        finally:
            server.should_exit = True
            thread.join(timeout=30)


@contextmanager
def review_process(
    run_folder: Path, *options: str
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Yield the address that the command prints, and its process, which is killed at the end."""
    command = [sys.executable, "-m", "dpo_video", "review", str(run_folder), *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"http://127\.0\.0\.1:\d+/\S+/", line)
        assert match is not None, line + process.stdout.read()
        yield match[0], process
    finally:
        process.kill()
        process.wait()
