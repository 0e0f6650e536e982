"""Debian's chromium, driven by playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def open_browser() -> Iterator[Any]:
    """Yield a browser without a window; skip where there is none, with how to get it."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        # root has no sandbox, a container little shared memory; only pages of ours are opened
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        opened = driver.chromium.launch(executable_path=program, args=arguments)
        yield opened
        opened.close()


def wait_until(page: Any, script: str, *, seconds: float = 30.0) -> None:
    """Wait until an expression is true in a page; its policy forbids playwright's own way, which
    evaluates texts there.
    """
    for _ in range(int(seconds * 20)):
        if page.evaluate(script):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not true within {seconds:g} s: {script}")
