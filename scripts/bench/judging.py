"""What bench_judge.py measures, each in a process of its own: throughput, memory, resume, and the
plain client.
"""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import Candidate, Sample
from dpo_video.data.planned_answers import PlannedAnswers
from dpo_video.judge.ahead import overlapping_stages
from dpo_video.judge.ask import KIND
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.candidate_file import open_candidates
from dpo_video.judge.prompt import render
from dpo_video.judge.reply_keys import key_maker
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.stage import judge
from dpo_video.recipe.file import load_recipe
from dpo_video.run import Run, StageResult, open_run
from dpo_video.store.database import Database

HERE = Path(__file__).parent
CANDIDATES_PER_SAMPLE = 8
CAPTION = (
    "A dog runs over wet grass, picks up a red ball, and brings it back to a girl in a yellow "
    "coat. " * 8
)
MIB = float(1 << 20)


@contextmanager
def server(capacity: float, latency: float) -> Iterator[str]:
    """Run the server in a process of its own; yields its address."""
    command = [sys.executable, str(HERE / "judge_server.py"), str(capacity), str(latency)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


def facts(url: str) -> dict[str, float]:
    """Return the server's answers so far and their rate."""
    with urllib.request.urlopen(url) as reply:
        return json.loads(reply.read())


def write_run(folder: Path, number: int, url: str, concurrency: int) -> Path:
    """Write a recipe with `number` candidates, CANDIDATES_PER_SAMPLE to a sample, and return its
    path.
    """
    samples = number // CANDIDATES_PER_SAMPLE
    write_jsonl(
        folder / "samples.jsonl",
        (
            Sample(
                id=f"s{n}",
                video=f"v{n}.mp4",
                prompt=f"What does the dog do ({n})?",
                caption=f"{n}. {CAPTION}",
                answer="It runs.",
            )
            for n in range(samples)
        ),
    )
    write_jsonl(
        folder / "runs" / "r" / "candidates.jsonl",
        (
            Candidate(
                id=f"s{n}#{k}",
                sample_id=f"s{n}",
                text=f"The dog runs over the grass and finds ball {k}, then {n}.",
                model="bench",
                settings="h",
                seed=k,
            )
            for n in range(samples)
            for k in range(CANDIDATES_PER_SAMPLE)
        ),
    )
    recipe = {
        "name": "r",
        "runs_folder": str(folder / "runs"),
        "model": {"name": "m"},
        "tracking": {"to": "none"},
        "data": {"samples": str(folder / "samples.jsonl")},
        "judge": {
            "backend": "openai",
            "model": "bench",
            "base_url": f"{url}/v1",
            "concurrency": concurrency,
            "max_tokens": 16,
        },
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder / "recipe.yaml"


def judge_run(recipe: str) -> dict[str, Any]:
    """Judge a run in this process; return calls and CPU seconds of the whole stage, imports
    aside.
    """
    import openai  # noqa: F401

    settings = load_recipe(recipe, [])
    with open_run(settings) as run:
        begin = time.process_time()
        summary = judge(run).counts
        return {"calls": summary["asked"], "cpu_s": time.process_time() - begin}


def write_and_judge(recipe: str, per_second: float, beside: bool) -> dict[str, Any]:
    """Do both stages of a run whose answers are written at a steady rate; return the seconds of
    each and of both, and a hash of judgments.jsonl.

    Args:
        beside: ask the judge while answers are written.
    """
    import openai  # noqa: F401

    settings = load_recipe(recipe, [f"judge.while_generating={'true' if beside else 'false'}"])
    path = settings.run_folder / "candidates.jsonl"
    candidates = list(read_jsonl(path, Candidate))
    path.unlink()

    def write(run: Run) -> StageResult:
        for candidate in candidates:
            time.sleep(1 / per_second)
            run.store.put("candidate", candidate.id, {"text": candidate.text})
        write_jsonl(path, candidates)
        return StageResult(counts={})

    def planned(run: Run) -> list[PlannedAnswers]:
        return [
            PlannedAnswers(
                sample=sample,
                candidates={
                    candidate.id: lambda row, written=candidate: written
                    for candidate in candidates
                    if candidate.sample_id == sample.id
                },
            )
            for sample in run.samples
        ]

    with open_run(settings) as run:
        stages = overlapping_stages(run, ["generate", "judge"], generate=write, planned=planned)
        begin = time.monotonic()
        stages.get("generate", write)(run)
        written = time.monotonic()
        stages.get("judge", judge)(run)
        end = time.monotonic()
    digest = hashlib.sha256((settings.run_folder / "judgments.jsonl").read_bytes()).hexdigest()
    return {
        "generate_s": written - begin,
        "judge_s": end - written,
        "together_s": end - begin,
        "judgments": digest,
    }


def ask_plainly(url: str, number: int, concurrency: int) -> dict[str, Any]:
    """Ask about as many prompts with `asyncio.gather`, a semaphore and AsyncOpenAI; keep the texts
    in a list.
    """
    from openai import AsyncOpenAI

    scorer = load_scorer("hound_quality")

    async def ask() -> list[str | None]:
        slots = asyncio.Semaphore(concurrency)

        async def one(index: int) -> str | None:
            n, k = divmod(index, CANDIDATES_PER_SAMPLE)
            messages: Any = render(
                scorer,
                caption=f"{n}. {CAPTION}",
                question=f"What does the dog do ({n})?",
                answer=f"The dog runs over the grass and finds ball {k}, then {n}.",
            )
            async with slots:
                reply = await client.chat.completions.create(
                    model="bench", messages=messages, temperature=0.0, max_tokens=16
                )
            return reply.choices[0].message.content

        async with AsyncOpenAI(api_key="none", base_url=f"{url}/v1") as client:
            return await asyncio.gather(*(one(index) for index in range(number)))

    begin = time.process_time()
    texts = asyncio.run(ask())
    return {"calls": len(texts), "cpu_s": time.process_time() - begin}


def fill_store(recipe: str, missing: float, where: str) -> None:
    """Store a reply to every candidate of a run but a share: `spread` evenly, or the `last` that
    are asked.
    """
    settings = load_recipe(recipe, [])
    scorer = load_scorer(settings.judge.scorer)
    reply = {
        "status": "answered",
        "text": "Explanation: it does what the caption says, and no more.\nScore: 4",
        "finish": "stop",
        "log_probs": None,
        "reason": "",
        "prompt_tokens": 300,
        "completion_tokens": 20,
        "cached_tokens": 240,
        "seconds": 1.234,
        "attempts": 1,
    }
    with open_run(settings) as run, open_judge(settings.judge) as opened:
        key_of = key_maker(settings.judge, scorer, opened)
        candidates = open_candidates(run.folder / "candidates.jsonl", run.samples, settings.clean)
        total, every = len(candidates), round(1 / missing)

        def rows() -> Iterable[tuple[str, str, str]]:
            body = json.dumps(reply)
            for place, (_, sample, candidate) in enumerate(candidates.read(candidates.order)):
                left_out = (
                    place % every == every - 1
                    if where == "spread"
                    else place >= total * (1 - missing)
                )
                if not left_out:
                    yield (
                        KIND,
                        key_of(
                            render(
                                scorer,
                                caption=sample.caption,
                                question=sample.prompt,
                                answer=candidate.text,
                                reference=sample.answer,
                            )
                        ),
                        body,
                    )

        stored = sorted(rows())  # in key order the tree is written once, front to back
    with closing(Database(settings.run_folder / "store.sqlite")) as database:
        database.commit(stored)


def first_call(recipe: str, url: str) -> dict[str, Any]:
    """Run `dpo-video judge` on a run; return seconds and CPU seconds from its start to the first
    call at the server.
    """
    begin = time.monotonic()
    with command(recipe) as process:
        while not facts(url)["answered"]:
            assert process.poll() is None, "the judge ended without a call"
            time.sleep(0.05)
        times = process.cpu_times()
        return {
            "seconds": time.monotonic() - begin,
            "cpu_s": times.user + times.system,
            "rss_mib": rss(process),
        }


def memory_of(recipe: str, url: str, marks: Sequence[int]) -> list[dict[str, Any]]:
    """Run `dpo-video judge` on a run; return its resident MiB as the server's answers pass each
    mark, and the most.
    """
    rows, most, waiting, begin = [], 0.0, list(marks), time.monotonic()
    with command(recipe) as process:
        while process.poll() is None:
            with suppress(psutil.Error):  # it ends
                most, times = max(most, rss(process)), process.cpu_times()
            if waiting and facts(url)["answered"] >= waiting[0]:
                rows.append(
                    {
                        "judgments": waiting.pop(0),
                        "rss_mib": rss(process),
                        "cpu_s": times.user + times.system,
                    }
                )
            time.sleep(0.1)
        assert process.returncode == 0, "the judge failed"
    return [
        *rows,
        {
            "judgments": marks[-1],
            "rss_mib": most,
            "seconds": time.monotonic() - begin,
            "to": "the end",
        },
    ]


@contextmanager
def command(recipe: str) -> Iterator[psutil.Popen]:
    """Run `dpo-video judge RECIPE` in a process of its own while the block runs."""
    words = [sys.executable, "-m", "dpo_video", "judge", recipe]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    process = psutil.Popen(
        words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def rss(process: psutil.Process) -> float:
    """Return a process's resident MiB."""
    return process.memory_info().rss / MIB


def in_process(name: str, *arguments: object) -> dict[str, Any]:
    """Return what a function of this module returns, called in a process of its own."""
    code = (
        f"import sys, json; sys.path[:0] = [{str(HERE.parent)!r}, {str(HERE.parents[1])!r}]\n"
        f"from bench import judging\nprint(json.dumps(judging.{name}(*json.loads(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{name}{arguments} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
