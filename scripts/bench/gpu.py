"""What bench_gpu.py measures, each part a function that returns rows for one table."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from transformers.utils import is_flash_attn_2_available

from bench.case import Case, make_spec
from bench.measure import MIB, Cost, cost
from bench.memory import LARGEST, largest_clip, predicted_generation, predicted_peak
from bench.run_stages import (
    NEW_TOKENS,
    earlier_generation,
    generate_stage,
    judge_stage,
    make_subject,
)
from bench.trainers import make_trainer
from dpo_video.models.memory import GIB
from dpo_video.models.usage import PromptUsage

PRECISIONS = {"bf16": "none", "nf4": "nf4"}
"""What tables call them, and `Case.quantize`."""
CARDS = {"nf4": (24, 80), "none": (80,)}
"""By `Case.quantize`, GiB of the cards for which the largest clip is looked for."""
FAILURES = (RuntimeError, ValueError, TypeError, AssertionError, ImportError)
"""What kernels and libraries raise where they cannot do something: a row says so, and the others
are measured."""
FAILED = "failed"
Row = dict[str, Any]


class Clock:
    """Says whether there is time for another measurement."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes

    @property
    def over(self) -> bool:
        return time.monotonic() > self.end


def training(case: Case, clock: Clock) -> Iterator[Row]:
    """Yield a row for stock TRL, plain rows and trees: a step's seconds with the reference in it,
    its peak, and for trees what `check` says.

    Plain rows and trees read features that are made once in the step; stock encodes pixels.
    """
    sides = [("stock TRL", "stock", "sdpa"), ("plain rows, SDPA", "rows", "sdpa")]
    if case.device == "cuda":
        sides.append(("plain rows, FlashAttention 2", "rows", "flash_attention_2"))
    sides.append(("trees", "ours", "sdpa"))
    stock = None
    for name, trainer, attention in sides:
        row: Row = {**_named(case), "side": name}
        if clock.over:
            yield {**row, "left_out": "no time"}
            continue
        if attention == "flash_attention_2" and not is_flash_attn_2_available():
            yield {**row, "left_out": "flash-attn is not installed"}
            continue
        measured = _step(replace(case, attention=attention), trainer)
        if isinstance(measured, str):
            yield {**row, "left_out": measured}
            continue
        stock = measured.seconds if trainer == "stock" else stock
        yield {
            **row,
            "seconds": measured.seconds,
            "ratio": None if stock is None else stock / measured.seconds,
            "peak_mib": measured.peak / MIB,
            "predicted_mib": predicted_peak(case, make_spec(case)) / MIB
            if trainer == "ours"
            else None,
        }


def generation(case: Case, clock: Clock) -> Iterator[Row]:
    """Yield generation: stock, by rows, and on trees with what `check` says."""
    usage = {"rows": PromptUsage(), "trees": PromptUsage()}
    if clock.over:
        yield {**_named(case), "side": "generate", "left_out": "no time"}
        return
    subject = make_subject(case)
    stage = generate_stage(subject, usage["trees"])
    runs = {
        "generate, stock": stage.stock,
        "generate, by rows": earlier_generation(subject, usage["rows"]),
        "generate, on trees": stage.ours,
    }
    predicted = predicted_generation(case, subject.policy.spec, new_tokens=NEW_TOKENS) / MIB
    for row in _timed(case, runs, clock):
        told = row["side"] == "generate, on trees"
        yield {**row, "predicted_mib": predicted if told else None}


def judging(case: Case, clock: Clock) -> Iterator[Row]:
    """Yield the local judge, padded rows and trees, about a caption of CAPTION_WORDS words."""
    stage = judge_stage(case)
    runs = {"judge, stock": stage.stock, "judge, on trees": stage.ours}
    for row in _timed(case, runs, clock):
        yield {**row, "video_tokens": None}


def largest(case: Case, clock: Clock) -> Iterator[Row]:
    """Yield the largest clip of a pair that `check` lets through on each card, and on a GPU whether
    a step with that much memory ran.
    """
    spec = make_spec(case)
    for gib in CARDS[case.quantize]:
        tokens = largest_clip(case, spec, gib=gib)
        row: Row = {
            "precision": _precision(case),
            "card_gib": gib,
            "video_tokens": tokens,
            "at_least": tokens == LARGEST,
        }
        if case.device == "cpu" or not tokens:
            yield {**row, "tried": "not tried"}
        elif clock.over:
            yield {**row, "tried": "no time"}
        else:
            clip = replace(case, video_tokens=tokens, questions=1, answers=2)
            with _limited(gib):
                measured = _step(clip, "ours", warm=False)
            yield {
                **row,
                "tried": measured
                if isinstance(measured, str)
                else f"a step ran in {measured.seconds:.1f} s",
            }


def _named(case: Case) -> Row:
    return {"precision": _precision(case), "video_tokens": case.video_tokens}


def _precision(case: Case) -> str:
    name = {quantize: name for name, quantize in PRECISIONS.items()}[case.quantize]
    return "fp32" if name == "bf16" and case.device == "cpu" else name


def _step(case: Case, trainer: str, *, warm: bool = True) -> Cost | str:
    """Return what a step with the reference in it took, or why it could not run."""
    try:
        timed = make_trainer(case, trainer)
        if warm:
            timed.step()
        return cost(timed.step, case.device)
    except FAILURES as error:
        return _why(error)
    finally:
        timed = None
        _release(case.device)


def _timed(case: Case, runs: dict[str, Callable[[], Any]], clock: Clock) -> Iterator[Row]:
    """Yield what each run took, its first one apart; `ratio` is to the first."""
    first = None
    for name, run in runs.items():
        row: Row = {**_named(case), "side": name}
        if clock.over:
            yield {**row, "left_out": "no time"}
            continue
        try:
            run()
            measured = cost(run, case.device)
        except FAILURES as error:
            yield {**row, "left_out": _why(error)}
            continue
        first = measured.seconds if name.endswith("stock") else first
        yield {
            **row,
            "seconds": measured.seconds,
            "ratio": None if first is None else first / measured.seconds,
            "peak_mib": measured.peak / MIB,
        }


def _why(error: Exception) -> str:
    """Return what a row says in the place of a time; a table has no line breaks and no bars."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    lines = str(error).strip().splitlines() or [""]
    return f"{FAILED}: {type(error).__name__}: {lines[0][:120]}".replace("|", "/")


@contextmanager
def _limited(gib: float) -> Iterator[None]:
    """Let this process have no more of the GPU than a card of so many GiB has."""
    whole = torch.cuda.get_device_properties(0).total_memory / GIB
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib / whole))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _release(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
