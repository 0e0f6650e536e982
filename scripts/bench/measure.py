"""Time both trainers in turn in this process, and measure the memory of each in a process of its
own.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.case import Case, make_spec
from bench.floor import floor_parts
from bench.memory import predicted_peak
from bench.trainers import TimedTrainer, make_trainer

EPOCHS = 3
"""The reference's one pass is counted over as many epochs."""
MIB = float(1 << 20)
CHILD = """
import json, sys
sys.path[:0] = {paths!r}
from bench.case import Case, make_spec
from bench.measure import peak_memory
print(json.dumps(peak_memory(Case(**json.loads(sys.argv[1])), sys.argv[2])))
"""


def measure(case: Case, *, repeats: int = 3) -> dict[str, Any]:
    """Return a case's row: speeds, ratios of stock TRL to the engine, memory and the largest
    difference in loss.

    Each time is the least of `repeats`, the trainers taking turns, so that a load on the machine
    meets both.
    """
    trainers = {name: make_trainer(case, name) for name in ("stock", "ours")}
    worst = grads = 0.0
    for name in ("step", "cached_step"):  # also warms up
        losses = {trainer: getattr(trainers[trainer], name)() for trainer in trainers}
        worst = max(worst, abs(losses["stock"] - losses["ours"]))
        stock, ours = (trainers[trainer].gradients() for trainer in ("stock", "ours"))
        grads = max(grads, float((stock - ours).norm() / stock.norm()))
    times = _times(trainers, repeats, case.device)
    memory = measure_memory(case)
    stock = times["stock", "step"]
    stock_precomputed = times["stock", "cached_step"] + times["stock", "reference"] / EPOCHS
    ours = times["ours", "cached_step"] + times["ours", "reference"] / EPOCHS
    return {
        "video_tokens": case.video_tokens,
        "questions": case.questions,
        "answers": case.answers,
        "speedup": stock / ours,
        "speedup_vs_precomputed": stock_precomputed / ours,
        "memory_ratio": memory["ours"] / memory["stock"],
        "max_loss_diff": worst,
        "speedup_reference_in_step": stock / times["ours", "step"],
        "relative_gradient_diff": grads,
        "pairs_per_s": {
            "stock": case.num_pairs / stock,
            "stock precomputed": case.num_pairs / stock_precomputed,
            "ours": case.num_pairs / ours,
        },
        "seconds": {" ".join(key): value for key, value in times.items()},
        "peak_mib": {name: memory[name] for name in trainers},
        "predicted_mib": memory["predicted"],
    }


def measure_memory(case: Case) -> dict[str, float]:
    """Return MiB above the loaded model at the peak of a step of each trainer, and what `check`
    would say of ours.
    """
    measured = {name: _in_child(case, name) / MIB for name in ("stock", "ours")}
    return {**measured, "predicted": predicted_peak(case, make_spec(case)) / MIB}


def measure_floor(case: Case, *, repeats: int = 3) -> dict[str, float]:
    """Return seconds of the floor's parts and of the engine's step and reference pass, all by
    turns.
    """
    ours = make_trainer(case, "ours")
    runs = {**floor_parts(case), "step": ours.cached_step, "reference": ours.reference}
    for run in runs.values():
        run()
    times = {
        name: min(measured)
        for name, measured in zip(
            runs,
            zip(
                *([seconds(run, case.device) for run in runs.values()] for _ in range(repeats)),
                strict=True,
            ),
            strict=True,
        )
    }
    return {
        **times,
        "above": times["step"] / (times["tower"] + times["pass"]),
        "above_with_reference": (times["step"] + times["reference"] / EPOCHS)
        / (times["tower"] + times["pass"]),
    }


def _times(
    trainers: dict[str, TimedTrainer], repeats: int, device: str
) -> dict[tuple[str, str], float]:
    """Return the least seconds of each trainer's step, cached step and reference pass."""
    times: dict[tuple[str, str], float] = {}
    for _ in range(repeats):
        for name, trainer in trainers.items():
            for timed, run in (
                ("step", trainer.step),
                ("cached_step", trainer.cached_step),
                ("reference", trainer.reference),
            ):
                times[name, timed] = min(
                    times.get((name, timed), float("inf")), seconds(run, device)
                )
    return times


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a run took."""

    seconds: float
    peak: float
    """Bytes above what was there before."""


def cost(run: Callable[[], Any], device: str) -> Cost:
    """Return seconds, as `seconds` does, and the peak of memory.

    On the CPU: resident memory of the process, its high-water mark (VmHWM) set back, after what
    the allocator holds of freed blocks has gone back to the system. Linux only.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = float(torch.cuda.memory_allocated())
        taken = seconds(run, device)
        return Cost(seconds=taken, peak=torch.cuda.max_memory_allocated() - before)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    taken = seconds(run, device)
    return Cost(seconds=taken, peak=_status("VmHWM") - before)


def seconds(run: Callable[[], Any], device: str) -> float:
    """Return seconds; on the CPU those that this process computed, so that other load on the
    machine counts less.
    """
    if device == "cpu":
        begin = time.process_time()
        run()
        return time.process_time() - begin
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def _in_child(case: Case, name: str) -> float:
    """Return peak_memory of a fresh process, whose allocator gives freed blocks above 64 KiB back
    at once.
    """
    paths = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]
    fields = {key: getattr(case, key) for key in case.__dataclass_fields__}
    environment = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(paths=paths), json.dumps(fields), name],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def peak_memory(case: Case, name: str) -> float:
    """Return the bytes by which a step, the reference in it for stock, goes above what is loaded.

    Model and clip are loaded and a small case has run (libraries load code and threads at their
    first call).
    """
    torch.set_num_threads(1)
    make_trainer(
        Case(video_tokens=64, questions=1, answers=2, size="spike", device=case.device), name
    ).step()
    trainer = make_trainer(case, name)
    run = trainer.step if name == "stock" else trainer.cached_step
    return cost(run, case.device).peak


def _status(name: str) -> float:
    """Return a field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return float(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")
