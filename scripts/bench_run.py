"""Time the stages of a run, with stock parts and with ours, in one process and by turns.

    python scripts/bench_run.py [--json] [--video-tokens N] [--questions Q] [--answers A]
    [--device cpu|cuda] [--size spike|7b|tiny] [--repeats N] [--stages STAGE ...]
    python scripts/bench_run.py --peer swift|llamafactory --peer-env PATH [--clips N] [--epochs N]
    [--json] ...

Generate, judge, train and evaluate about one clip of noise, on the random model of
bench_training.py: what each side made is compared, CPU seconds (on a GPU seconds) are the least of
the repeats, peak memory is what a stage takes above what was there before it. Stock is
transformers' `generate` on pixels with `num_return_sequences`, a judge that reads padded rows,
TRL's DPOTrainer with its reference in the step, and plain passes; "rows" is generation as it was
before prompts were read as trees. Reading and decoding files, equal in both, are left out, and so
is pairing, which runs no model.

--peer times another trainer, installed in a virtual environment of its own, and `dpo-video run` on
the same file of pairs: whole processes, start-up and written clips included.
"""

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from bench.case import SIZES, Case  # noqa: E402
from bench.measure import MIB, Cost, cost  # noqa: E402
from bench.peer import compare  # noqa: E402
from bench.peer_commands import PEERS  # noqa: E402
from bench.run_stages import (  # noqa: E402
    Stage,
    earlier_generation,
    evaluate_stage,
    generate_stage,
    judge_stage,
    make_subject,
    train_stage,
)

from dpo_video.models.usage import PromptUsage  # noqa: E402

SIDES = ("stock", "ours")
STAGES = ("generate", "judge", "train", "evaluate")


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
    parser.add_argument("--stages", choices=STAGES, nargs="+", default=STAGES, help="only these")
    parser.add_argument("--peer", choices=list(PEERS), help="time this trainer instead of stages")
    parser.add_argument("--peer-env", type=Path, help="virtual environment that holds it")
    parser.add_argument("--clips", type=int, default=2, help="with --peer: how many")
    parser.add_argument("--epochs", type=int, default=3, help="with --peer")
    arguments = parser.parse_args()
    if (arguments.peer is None) != (arguments.peer_env is None):
        parser.error("--peer and --peer-env go together")
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
    if arguments.peer:
        compared = compare(
            case,
            peer=arguments.peer,
            environment=arguments.peer_env,
            clips=arguments.clips,
            epochs=arguments.epochs,
            repeats=arguments.repeats,
        )
        print(json.dumps(compared) if arguments.json else peer_table(compared))
        return
    result = measure_run(case, arguments.stages, repeats=arguments.repeats)
    print(json.dumps(result) if arguments.json else table(result))


def measure_run(case: Case, names: Sequence[str], *, repeats: int) -> dict[str, Any]:
    """Return seconds and peaks of both sides by stage, their differences, and the caches of
    generation.
    """
    usage = {"rows": PromptUsage(), "trees": PromptUsage()}
    subject = cache(lambda: make_subject(case))
    makers: dict[str, Callable[[], Stage]] = {
        "generate": lambda: generate_stage(subject(), usage["trees"]),
        "judge": lambda: judge_stage(case),
        "train": lambda: train_stage(case),
        "evaluate": lambda: evaluate_stage(subject()),
    }
    rows = []
    for name in names:
        rows.append(_measured(makers[name](), case.device, repeats))
        print(f"{name}: {rows[-1]}", file=sys.stderr, flush=True)
    result: dict[str, Any] = {
        "video_tokens": case.video_tokens,
        "questions": case.questions,
        "answers": case.answers,
    }
    if len(names) == len(STAGES):
        whole = {
            "stage": "whole run",
            "difference": "",
            **{side: sum(row[side] for row in rows) for side in SIDES},
            **{f"{side}_mib": max(row[f"{side}_mib"] for row in rows) for side in SIDES},
        }
        rows.append(whole)
    result["stages"] = [{**row, "ratio": row["stock"] / row["ours"]} for row in rows]
    if "generate" in names:
        earlier = earlier_generation(subject(), usage["rows"])
        seconds = min(cost(earlier, case.device).seconds for _ in range(repeats))
        generate = next(row for row in rows if row["stage"] == "generate")
        result["generate_by_rows"] = {
            "seconds": seconds,
            "ratio": seconds / generate["ours"],
            "peak_cache_share": usage["trees"].peak_cache / usage["rows"].peak_cache,
        }
    return result


def _measured(stage: Stage, device: str, repeats: int) -> dict[str, Any]:
    """Return a stage's row: the least of the repeats, both sides by turns."""
    runs = {"stock": stage.stock, "ours": stage.ours}
    costs: dict[str, list[Cost]] = {side: [] for side in SIDES}
    made: dict[str, Any] = {}

    def run(side: str) -> None:
        made[side] = runs[side]()

    for _ in range(repeats):
        for side in SIDES:
            costs[side].append(cost(partial(run, side), device))
    return {
        "stage": stage.name,
        "difference": stage.difference(made["stock"], made["ours"]),
        **{side: min(each.seconds for each in costs[side]) for side in SIDES},
        **{f"{side}_mib": min(each.peak for each in costs[side]) / MIB for side in SIDES},
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['video_tokens']} video tokens, {result['questions']} questions x "
        f"{result['answers']} answers",
        f"{'':10} {'stock':>8} {'ours':>8} {'ratio':>7}  {'peak memory':>15}  difference",
    ]
    for row in result["stages"]:
        lines.append(
            f"{row['stage']:10} {row['stock']:7.2f}s {row['ours']:7.2f}s {row['ratio']:6.2f}x  "
            f"{row['stock_mib']:5.0f}, {row['ours_mib']:4.0f} MiB  {row['difference']}".rstrip()
        )
    rows = result.get("generate_by_rows")
    if rows:
        lines.append(
            f"generation by rows takes {rows['seconds']:.2f}s, {rows['ratio']:.2f}x; on trees keys "
            f"and values take {rows['peak_cache_share']:.3f} of its memory at the peak"
        )
    return "\n".join(lines)


def peer_table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['clips']} clips of {result['video_tokens']} video tokens, {result['pairs']} "
        f"pairs, {result['epochs']} epochs, whole processes"
    ]
    for side, row in result["sides"].items():
        lines.append(
            f"{side:10} {row['seconds']:7.1f} CPU s  {row['peak_mib']:6.0f} MiB  "
            f"{row['tokens_of_first_row']:.0f} tokens in the first row"
        )
    return "\n".join([*lines, f"{result['ratio']:.2f}x"])


if __name__ == "__main__":
    main()
