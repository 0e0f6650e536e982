"""Time and measure training against stock TRL on the same clip, pairs, model and loss, vision
included.

    python scripts/bench_training.py [--json] [--video-tokens N] [--questions Q] [--answers A]
    [--device cpu|cuda]
                                     [--size spike|7b] [--checkpointing] [--floor] [--waiting]
                                     [--memory] [--repeats N]

Without the three numbers: the three cases that docs/performance.md states. Stock TRL is its
DPOTrainer on pixels, one pair per micro-batch, with its fused head; `speedup` has its reference in
the step, `speedup_vs_precomputed` its own reference pass. Ours has the reference's pass counted
over 3 epochs, as has stock's own. `--floor` and `--waiting` measure the engine alone: against one
plain pass over its tokens, and on files read beside the step. `--memory` measures peaks only.
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
from bench.feeding import waiting_share  # noqa: E402
from bench.measure import measure, measure_floor, measure_memory  # noqa: E402

CASES = ((4096, 1, 2), (1024, 3, 2), (1024, 3, 4))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--json", action="store_true", help="print one line of JSON and nothing else"
    )
    parser.add_argument("--video-tokens", type=int, help="of the clip")
    parser.add_argument("--questions", type=int, help="about the clip")
    parser.add_argument(
        "--answers", type=int, help="per question, an even number: each two make a pair"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", choices=list(SIZES), default="spike")
    parser.add_argument(
        "--checkpointing", action="store_true", help="gradient checkpointing; always on at 7b"
    )
    parser.add_argument(
        "--memory", action="store_true", help="peak memory of both sides, and the plan's"
    )
    parser.add_argument(
        "--floor", action="store_true", help="how far above one forward and backward of each token"
    )
    parser.add_argument(
        "--waiting", action="store_true", help="how long training on files waits for clips"
    )
    parser.add_argument("--repeats", type=int, default=3, help="each time is the least of so many")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    numbers = (given.video_tokens, given.questions, given.answers)
    shapes = (
        CASES
        if numbers == (None, None, None)
        else [
            tuple(number or default for number, default in zip(numbers, (1024, 1, 2), strict=True))
        ]
    )
    rows = []
    for video_tokens, questions, answers in shapes:
        if answers % 2:
            parser.error(f"--answers {answers}: must be even, each two make a pair")
        case = Case(
            video_tokens=video_tokens,
            questions=questions,
            answers=answers,
            size=given.size,
            device=given.device,
            checkpointing=given.checkpointing or given.size == "7b",
        )
        named = {"video_tokens": video_tokens, "questions": questions, "answers": answers}
        if given.floor or given.waiting or given.memory:
            rows.append(
                {
                    **named,
                    **(
                        {"floor": measure_floor(case, repeats=given.repeats)} if given.floor else {}
                    ),
                    **({"waiting": waiting_share(case)} if given.waiting else {}),
                    **({"memory": measure_memory(case)} if given.memory else {}),
                }
            )
        else:
            rows.append(measure(case, repeats=given.repeats))
        if not given.json:
            show(rows[-1])
    if given.json:
        print(json.dumps({"cases": rows}))


def show(row: dict[str, Any]) -> None:
    """Print a case."""
    print(f"{row['video_tokens']} video tokens, {row['questions']} x {row['answers']} answers")
    if "floor" in row:
        floor = row["floor"]
        print(
            f"  floor                 {floor['tower'] + floor['pass']:.2f} s: tower "
            f"{floor['tower']:.2f}, each token "
            f"once forward and backward {floor['pass']:.2f}\n"
            f"  our step              {floor['step']:.2f} s, {floor['above']:.2f} of the floor\n"
            f"  our reference pass    {floor['reference']:.2f} s, once; over 3 epochs "
            f"{floor['above_with_reference']:.2f} of the floor",
            flush=True,
        )
    if "waiting" in row:
        waiting = row["waiting"]
        print(
            f"  waiting for clips     {waiting['waiting']:.1%} of {waiting['steps']} steps' time, "
            f"{waiting['worst_step']:.1%} in the worst step",
            flush=True,
        )
    if "memory" in row:
        show_memory(row["memory"])
    if "speedup" not in row:
        return
    for name, value in row["pairs_per_s"].items():
        print(f"  {name:18} {value:8.3f} pairs/s")
    print(
        f"  {row['speedup']:.2f}x faster, {row['speedup_vs_precomputed']:.2f}x than stock "
        f"precomputed, "
        f"{row['speedup_reference_in_step']:.2f}x with the reference in both steps"
    )
    show_memory({**row["peak_mib"], "predicted": row["predicted_mib"]})
    print(
        f"  largest difference: loss {row['max_loss_diff']:.1e}, gradient "
        f"{row['relative_gradient_diff']:.1e} "
        "of its norm",
        flush=True,
    )


def show_memory(memory: dict[str, float]) -> None:
    """Print MiB of `stock` and `ours`, and what `check` would say of ours (`predicted`)."""
    print(
        f"  memory above the model: stock {memory['stock']:.0f} MiB, ours {memory['ours']:.0f} "
        f"MiB, "
        f"ratio {memory['ours'] / memory['stock']:.2f}"
    )
    print(
        f"  check predicts {memory['predicted']:.0f} MiB for ours, "
        f"{memory['predicted'] / memory['ours'] - 1:+.0%} of what is measured",
        flush=True,
    )


if __name__ == "__main__":
    main()
