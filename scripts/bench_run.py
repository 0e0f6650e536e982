"""Time the stages of a run, with stock parts and with ours, in one process and by turns.

    python scripts/bench_run.py [--json] [--video-tokens N] [--questions Q] [--answers A]
    [--device cpu|cuda] [--size spike|7b] [--repeats N]

Generate, judge, train and evaluate about one clip of noise, on the random model of
bench_training.py: what each side made is compared, and CPU seconds (on a GPU seconds) are the least
of the repeats. Stock is transformers' `generate` on pixels with `num_return_sequences`, a judge
that reads padded rows, TRL's DPOTrainer with its reference in the step, and plain passes; "rows" is
generation as it was before prompts were read as trees. Reading and decoding files, equal in both,
are left out.
"""

import argparse
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from bench.case import SIZES, Case  # noqa: E402
from bench.measure import seconds  # noqa: E402
from bench.run_stages import Stage, earlier_generation, run_stages  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--video-tokens", type=int, default=1024, help="of the clip")
    parser.add_argument("--questions", type=int, default=3, help="about the clip")
    parser.add_argument("--answers", type=int, default=8, help="per question, an even number")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", choices=list(SIZES), default="spike")
    parser.add_argument("--repeats", type=int, default=2, help="each time is the least of so many")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    case = Case(
        video_tokens=arguments.video_tokens,
        questions=arguments.questions,
        answers=arguments.answers,
        size=arguments.size,
        device=arguments.device,
        checkpointing=arguments.size == "7b",
    )
    result = measure_run(case, repeats=arguments.repeats)
    print(json.dumps(result) if arguments.json else table(result))


def measure_run(case: Case, *, repeats: int) -> dict[str, Any]:
    """Return seconds of both sides by stage, their differences, and the caches of generation."""
    stages, usage = run_stages(case)
    rows = [_measured(stage, case.device, repeats) for stage in stages]
    earlier = earlier_generation(case, usage["rows"])
    rows_seconds = min(seconds(earlier, case.device) for _ in range(repeats))
    total = {side: sum(row[side] for row in rows) for side in ("stock", "ours")}
    rows.append({"stage": "whole run", **total, "difference": ""})
    generate = rows[0]
    return {
        "video_tokens": case.video_tokens,
        "questions": case.questions,
        "answers": case.answers,
        "stages": [{**row, "ratio": row["stock"] / row["ours"]} for row in rows],
        "generate_by_rows": {
            "seconds": rows_seconds,
            "ratio": rows_seconds / generate["ours"],
            "peak_cache_share": usage["trees"].peak_cache / usage["rows"].peak_cache,
        },
    }


def _measured(stage: Stage, device: str, repeats: int) -> dict[str, Any]:
    difference = stage.difference(stage.stock(), stage.ours())  # warms up, too
    times: dict[str, list[float]] = {"stock": [], "ours": []}
    for _ in range(repeats):
        times["stock"].append(seconds(stage.stock, device))
        times["ours"].append(seconds(stage.ours, device))
    return {
        "stage": stage.name,
        "stock": min(times["stock"]),
        "ours": min(times["ours"]),
        "difference": difference,
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['video_tokens']} video tokens, {result['questions']} questions x "
        f"{result['answers']} answers",
        f"{'':10} {'stock':>8} {'ours':>8} {'ratio':>7}  difference",
    ]
    for row in result["stages"]:
        lines.append(
            f"{row['stage']:10} {row['stock']:7.2f}s {row['ours']:7.2f}s {row['ratio']:6.2f}x  "
            f"{row['difference']}"
        )
    rows = result["generate_by_rows"]
    lines.append(
        f"generation by rows takes {rows['seconds']:.2f}s, {rows['ratio']:.2f}x; on trees keys and "
        f"values take {rows['peak_cache_share']:.3f} of its memory at the peak"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
