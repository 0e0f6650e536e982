"""Judging under `kill -9` at random points of a failing server; what is lost is compared with its
exact bound.

A run is killed by its own server, when the request with a random number comes: no moment can be
missed, since every run makes at least as many requests as replies are missing. Every run has a
server of its own, so that a request that comes late counts where it belongs.
"""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fault_server import fault_of, faulty, slow_start
from judge_runs import exported, write_run
from judge_server import Answer, judge_server, make_items

from dpo_video.core.records import Judgment
from dpo_video.judge.ask import KIND
from dpo_video.judge.backends.registry import judge_without_calls, leave_unanswered
from dpo_video.judge.prompt import render
from dpo_video.judge.reply_keys import key_maker
from dpo_video.judge.scorer import load_scorer
from dpo_video.recipe.file import load_recipe
from dpo_video.store import RunStore
from dpo_video.store.writer import UNCOMMITTED_ROWS

CONCURRENCY = 16
MOST_LOST = CONCURRENCY + UNCOMMITTED_ROWS
"""Calls that one kill can make be paid twice: those in flight, and those whose rows were not
committed yet.
"""


@dataclass(kw_only=True)
class OneRun:
    """What a server saw of a process, and what the store held when that process was gone."""

    paid: list[str] = field(default_factory=list)
    """Prompts of the requests that were answered in full, also those that came after the kill."""
    requests: int = 0
    stored: set[str] = field(default_factory=set)
    killed_at: int | None = None
    """The number of the request that killed the process."""

    @property
    def lost(self) -> set[str]:
        """Prompts that were paid and are not stored."""
        return set(self.paid) - self.stored


@dataclass(kw_only=True)
class Fuzz:
    """The result of all runs."""

    runs: list[OneRun]
    judgments: list[Judgment]
    undisturbed: list[Judgment]
    prompts: int

    @property
    def kills(self) -> int:
        """How many processes were killed."""
        return sum(run.killed_at is not None for run in self.runs)

    def check(self) -> None:
        """Assert what the store promises."""
        ids = [row.candidate_id for row in self.judgments]
        assert len(ids) == len(set(ids)) == self.prompts, "every candidate has exactly one judgment"
        assert self.judgments == self.undisturbed, "and it is that of the undisturbed run"
        stored: set[str] = set()
        for number, run in enumerate(self.runs):
            assert not stored & set(run.paid), f"run {number} paid for what was stored before"
            assert stored <= run.stored, f"run {number} lost what was stored before"
            most = MOST_LOST if run.killed_at is not None else 0
            assert len(run.lost) <= most, (
                f"run {number} lost {len(run.lost)} paid replies, at most {most} may be"
            )
            stored = run.stored
        paid = sum(len(set(run.paid)) for run in self.runs)
        assert paid == self.prompts + sum(len(run.lost) for run in self.runs), (
            "nothing else was paid twice"
        )

    def summary(self) -> str:
        """Return the figures in one line each."""
        lost = [len(run.lost) for run in self.runs if run.killed_at is not None]
        again = sum(len(run.paid) - len(set(run.paid)) for run in self.runs)
        requests = sum(run.requests for run in self.runs)
        return (
            f"candidates {self.prompts}, kills {self.kills}, requests {requests}, "
            f"of them faults {requests - sum(len(run.paid) for run in self.runs)}\n"
            f"paid twice after a kill: {sum(lost)} calls, at most {max(lost, default=0)} at one "
            f"kill "
            f"(bound: {CONCURRENCY} in flight + {UNCOMMITTED_ROWS} rows not committed = "
            f"{MOST_LOST})\n"
            f"paid twice after a timeout: {again}\n"
            "judgments: one for every candidate, all equal to the undisturbed run's"
        )


def fuzz(
    folder: Path,
    *,
    kills: int,
    samples: int,
    seed: int,
    stall: float,
    most_requests: int,
    say: Callable[[str], None] = lambda text: None,
) -> Fuzz:
    """Judge `samples` x 3 candidates with so many kills, then to the end, and once more without any
    kill.
    """
    chance = random.Random(seed)
    items = make_items(samples, 3)
    settings = {"concurrency": CONCURRENCY, "retries": 6, "timeout": 30.0}
    disturbed = write_run(folder / "disturbed", items, "http://unused", **settings)
    keys = _keys(disturbed, items)
    runs: list[OneRun] = []
    for _ in range(kills):
        missing = len(keys) - (len(runs[-1].stored) if runs else 0)
        runs.append(
            _run(
                disturbed, keys, stall=stall, kill_at=chance.randint(1, min(missing, most_requests))
            )
        )
        say(
            f"kill {len(runs)} at request {runs[-1].killed_at}: {len(runs[-1].stored)} of "
            f"{len(keys)} stored, "
            f"{len(runs[-1].lost)} lost"
        )
    runs.append(_run(disturbed, keys, stall=stall))
    whole = write_run(folder / "whole", items, "http://unused", **settings)
    _run(whole, keys, stall=stall)
    return Fuzz(
        runs=runs, judgments=exported(disturbed), undisturbed=exported(whole), prompts=len(items)
    )


def _keys(recipe: Path, items: Sequence) -> dict[str, str]:
    """Return the prompt behind every key."""
    settings = load_recipe(str(recipe), []).judge
    scorer, judge = (
        load_scorer(settings.scorer),
        judge_without_calls(settings, leave_unanswered("none")),
    )
    prompts = [
        render(
            scorer,
            caption=sample.caption,
            question=sample.prompt,
            answer=candidate.text,
            reference=sample.answer,
        )
        for sample, candidate in items
    ]
    key_of = key_maker(settings, scorer, judge)
    return {key_of(messages): messages[0]["content"] for messages in prompts}


def _run(recipe: Path, keys: dict[str, str], *, stall: float, kill_at: int | None = None) -> OneRun:
    """Judge with a server of this run's own, which kills the process at request `kill_at`; return
    what happened.
    """
    run, lock, started = OneRun(), threading.Lock(), threading.Event()
    processes: list[subprocess.Popen[str]] = []
    respond = slow_start(faulty(stall=stall))

    def answer(prompt: str, attempt: int) -> Answer:
        started.wait(timeout=240)
        with lock:
            run.requests += 1
            if run.requests == kill_at:
                os.kill(processes[0].pid, signal.SIGKILL)
                run.killed_at = kill_at
            given = respond(prompt, attempt)
            if given.status == 200 and fault_of(prompt, attempt) is None:
                run.paid.append(prompt)
            return given

    with judge_server(answer) as server:
        command = [
            sys.executable,
            "-m",
            "dpo_video",
            "judge",
            str(recipe),
            f"judge.base_url={server.url}",
        ]
        processes.append(
            subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )
        started.set()
        try:
            _, errors = processes[0].communicate(timeout=540)
        finally:
            processes[0].kill()
        assert processes[0].returncode == (0 if kill_at is None else -signal.SIGKILL), errors
    with RunStore(recipe.parent / "runs" / "r") as store:
        run.stored = {keys[key] for key in store.known(KIND, keys)}
    return run
