"""Time and measure training against stock TRL on the same clip, pairs, model and loss, vision included.

    python scripts/bench_training.py [--json] [--video-tokens N] [--questions Q] [--answers A] [--device cpu|cuda]
                                     [--size spike|7b]

Without the three numbers: the three cases that docs/performance.md states. Stock TRL is its DPOTrainer on pixels, one
pair per micro-batch, with its fused head; `speedup` has its reference in the step, `speedup_vs_precomputed` its own
reference pass. Ours has the reference's pass counted over 3 epochs, as has stock's own.
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
from bench.measure import measure  # noqa: E402

CASES = ((4096, 1, 2), (1024, 3, 2), (1024, 3, 4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON and nothing else")
    parser.add_argument("--video-tokens", type=int, help="of the clip")
    parser.add_argument("--questions", type=int, help="about the clip")
    parser.add_argument("--answers", type=int, help="per question, an even number: each two make a pair")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", choices=list(SIZES), default="spike")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    numbers = (given.video_tokens, given.questions, given.answers)
    shapes = CASES if numbers == (None, None, None) else [
        tuple(number or default for number, default in zip(numbers, (1024, 1, 2), strict=True))]
    rows = []
    for video_tokens, questions, answers in shapes:
        if answers % 2:
            parser.error(f"--answers {answers}: must be even, each two make a pair")
        rows.append(measure(Case(video_tokens=video_tokens, questions=questions, answers=answers, size=given.size,
                                 device=given.device)))
        if not given.json:
            show(rows[-1])
    if given.json:
        print(json.dumps({"cases": rows}))


def show(row: dict[str, Any]) -> None:
    """Print a case."""
    print(f"{row['video_tokens']} video tokens, {row['questions']} x {row['answers']} answers")
    for name, value in row["pairs_per_s"].items():
        print(f"  {name:18} {value:8.3f} pairs/s")
    print(f"  {row['speedup']:.2f}x faster, {row['speedup_vs_precomputed']:.2f}x than stock precomputed, "
          f"{row['speedup_reference_in_step']:.2f}x with the reference in both steps")
    memory = row["peak_mib"]
    print(f"  memory above the model: stock {memory['stock']:.0f} MiB, ours {memory['ours']:.0f} MiB, "
          f"ratio {row['memory_ratio']:.2f}")
    print(f"  check predicts {row['predicted_mib']:.0f} MiB for ours, "
          f"{row['predicted_mib'] / memory['ours'] - 1:+.0%} of what is measured")
    print(f"  largest difference: loss {row['max_loss_diff']:.1e}, gradient {row['relative_gradient_diff']:.1e} "
          "of its norm", flush=True)


if __name__ == "__main__":
    main()
