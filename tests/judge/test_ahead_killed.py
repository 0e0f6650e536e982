"""`kill -9` while answers are written and judged beside one another: the same bytes in the end, and
nothing is paid twice but what was under way.
"""

import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from generation_runs import make_recipe, write_data
from judge_server import Answer, judge_server, steady

from dpo_video.pipeline import do_stages
from dpo_video.recipe import Recipe
from dpo_video.run import open_run

BOTH = ["generate", "judge"]
FILES = ("candidates.jsonl", "judgments.jsonl")
ANSWERED = 3
"""Prompts that the judge answers before the kill, beside the one that tells whether it is there."""
PATIENCE = 120.0
"""Seconds that are waited for what must come."""
A_WHILE = 5.0
"""Seconds that are waited for what mostly comes."""

CHILD = """
import os, signal, sys, time
from dpo_video.pipeline import do_stages
from dpo_video.recipe import Recipe
from dpo_video.run import open_run

with open_run(Recipe.model_validate_json(sys.argv[1])) as run:
    put, candidates = run.store.put, 0

    def put_or_die(kind, key, body):
        global candidates
        candidates += kind == "candidate"
        if kind == "candidate" and candidates == 9:
            while len(list(run.store.rows("judgment"))) < int(sys.argv[2]):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        put(kind, key, body)

    run.store.put = put_or_die
    do_stages(run, ["generate", "judge"])
"""
"""Writes twelve candidates, four about each of three clips, and dies in place of the ninth, once
replies are stored.
"""


def recipe_for(folder: Path, data: Path, url: str) -> Recipe:
    judge = {"model": "m", "base_url": url, "score_from": "verdict", "retries": 0}
    return make_recipe(folder, data, judge=judge)


def finish(recipe: Recipe) -> list[bytes]:
    """Do both stages and return what they wrote."""
    with open_run(recipe) as run:
        do_stages(run, BOTH)
        return [(run.folder / name).read_bytes() for name in FILES]


def test_killed_while_both_are_at_work_it_pays_for_what_was_under_way_alone(tmp_path: Path) -> None:
    data = write_data(tmp_path)
    with judge_server() as server:
        undisturbed = finish(recipe_for(tmp_path / "undisturbed", data, server.url))
        expected = Counter(server.prompts[1:])

    killed, under_way_too = threading.Event(), threading.Event()
    answered: set[str] = set()
    lock = threading.Lock()

    def some(prompt: str, attempt: int) -> Answer:
        """Answer the first and three more, the last of them once another is under way, where one
        comes; what is not answered finds nobody after the kill.
        """
        if prompt == server.prompts[0]:
            return steady(prompt, attempt)
        with lock:
            is_answered = len(answered) < ANSWERED and not killed.is_set()
            if is_answered:
                answered.add(prompt)
            is_last = is_answered and len(answered) == ANSWERED
        if is_last:
            under_way_too.wait(A_WHILE)
        if is_answered:
            return steady(prompt, attempt)
        under_way_too.set()
        killed.wait(PATIENCE)
        return Answer(drop=True)

    with judge_server(some) as server:
        recipe = recipe_for(tmp_path / "killed", data, server.url)
        words = [sys.executable, "-c", CHILD, recipe.model_dump_json(), str(ANSWERED)]
        child = subprocess.run(words, check=False, capture_output=True, timeout=PATIENCE)
        killed.set()
        assert child.returncode == -signal.SIGKILL, child.stderr.decode()
        before = Counter(server.prompts[1:])
        server.answer = steady
        assert finish(recipe) == undisturbed
        times = Counter(server.prompts[1:])
    under_way = before.keys() - answered
    assert len(answered) == ANSWERED
    # once before the kill, or once after it; what was under way, both times
    assert times == expected + Counter(under_way)
