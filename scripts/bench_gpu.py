"""Measure training, generation and the local judge on one GPU, and write Markdown tables.

    bash scripts/bench_gpu.sh [--out FILE] [--tokens N ...] [--minutes M]
    [--device cuda|cpu] [--size 7b|spike|tiny]

Under ten minutes on one 80 GB GPU: random weights of Qwen2.5-VL-7B's size in bf16 and nf4, clips of
noise of 4,096 and 16,384 video tokens. A step is a forward and backward over two questions with one
pair each, gradient checkpointing on, the reference's pass in it. Peaks are above the loaded model.
What there is no time or memory for, or fails, is a row that says so.
"""

import argparse
import gc
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from bench.case import SIZES, Case  # noqa: E402
from bench.gpu import (  # noqa: E402
    FAILED,
    PRECISIONS,
    Clock,
    Row,
    generation,
    judging,
    largest,
    training,
)

TRAINED, QUESTIONS, SAMPLED = 2, 3, 8
"""Questions of a training step, each with a pair; questions of generation and answers of each."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write the tables here; else they are printed")
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 16384], help="of the clips")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing after so many")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", choices=list(SIZES), default="7b")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --device cpu --size tiny tries the script out")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    begin, clock = time.monotonic(), Clock(given.minutes)
    cases = partial(_cases, given)
    trained = _rows(training, cases(TRAINED, 2), clock)
    answers = _rows(generation, cases(QUESTIONS, SAMPLED), clock)
    judged = _rows(judging, cases(QUESTIONS, SAMPLED)[:1], clock)
    clips = _rows(largest, cases(1, 2)[:: len(given.tokens)], clock)
    text = "\n\n".join(
        [
            _machine(given.device, given.size),
            _table("Training step", STEP, trained),
            _table("Generation and judge", STEP, answers + judged),
            _table("Largest clip of a pair", CLIP, clips),
        ]
    )
    text += f"\n\n{time.monotonic() - begin:.0f} s in all.\n"
    if given.out is None:
        print(text, end="")
    else:
        given.out.write_text(text)
    told = [row.get("left_out") or row.get("tried") for row in trained + answers + judged + clips]
    if any(FAILED in str(reason) for reason in told):
        raise SystemExit("not all was measured: see the rows that failed")


def _cases(given: argparse.Namespace, questions: int, answers: int) -> list[Case]:
    """Return a case for each precision and clip, in this order."""
    return [
        Case(
            video_tokens=video_tokens,
            questions=questions,
            answers=answers,
            size=given.size,
            device=given.device,
            checkpointing=True,
            quantize=quantize,
        )
        for quantize in PRECISIONS.values()
        for video_tokens in given.tokens
    ]


def _rows(
    measure: Callable[[Case, Clock], Iterator[Row]], cases: Sequence[Case], clock: Clock
) -> list[Row]:
    """Return a measurement's rows for all cases, and say them as they come."""
    rows = []
    for case in cases:
        for row in measure(case, clock):
            print(row, file=sys.stderr, flush=True)
            rows.append(row)
        gc.collect()
    return rows


def _machine(device: str, size: str) -> str:
    name = torch.cuda.get_device_name(0) if device == "cuda" else "CPU, one thread"
    if device == "cpu":
        torch.set_num_threads(1)
    return f"{name}, torch {torch.__version__}, size {size}, {time.strftime('%Y-%m-%d')}"


def _table(title: str, columns: dict[str, Callable[[Row], str]], rows: list[Row]) -> str:
    lines = [f"**{title}**", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        lines.append(f"| {' | '.join(cell(row) for cell in columns.values())} |")
    return "\n".join(lines)


def _mib(value: Any) -> str:
    return "" if value is None else f"{value:,.0f} MiB"


def _prediction(row: Row) -> str:
    if row.get("predicted_mib") is None:
        return ""
    apart = row["predicted_mib"] / row["peak_mib"] - 1
    return f"{_mib(row['predicted_mib'])} ({apart:+.0%})"


STEP: dict[str, Callable[[Row], str]] = {
    "weights": lambda row: str(row["precision"]),
    "video tokens": lambda row: f"{row['video_tokens']:,}" if row["video_tokens"] else "",
    "": lambda row: str(row["side"]),
    "seconds": lambda row: str(row.get("left_out") or f"{row['seconds']:.2f}"),
    "vs stock": lambda row: f"{row['ratio']:.2f}x" if row.get("ratio") else "",
    "peak": lambda row: _mib(row.get("peak_mib")),
    "check predicts": _prediction,
}
CLIP: dict[str, Callable[[Row], str]] = {
    "weights": lambda row: str(row["precision"]),
    "card": lambda row: f"{row['card_gib']} GB",
    "video tokens, by check": lambda row: (
        f"{'at least ' if row['at_least'] else ''}{row['video_tokens']:,}"
    ),
    "tried": lambda row: str(row["tried"]),
}
"""Columns by their heads."""


if __name__ == "__main__":
    main()
