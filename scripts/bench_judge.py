"""Measure the judge client against a server of known capacity on loopback: throughput, CPU per
call, memory, resume, and generate and judge beside one another.

    python scripts/bench_judge.py [--quick] [--json] [--parts throughput,memory,resume,beside]

CPU milliseconds and memory hold on a busy machine; rates and seconds need idle cores. Client and
server share the machine, so the capacities are what two cores carry. Rates are the server's, over
the middle 80 % of its answers. `plain` is asyncio.gather with a semaphore over AsyncOpenAI; ours is
the whole stage, with store and judgments.jsonl.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from bench import judging  # noqa: E402

# requests in flight -> capacity of the server in requests a second, latency in seconds
LOADS = {8: (100.0, 0.04), 32: (200.0, 0.08), 128: (200.0, 0.32), 512: (200.0, 0.64)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="a minute: fewer calls, 10,000 judgments, 50,000 rows"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one line of JSON and nothing else"
    )
    parser.add_argument("--parts", default="throughput,memory,resume,beside")
    given = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in given.parts.split(","):
            result[part] = PARTS[part](Path(folder), quick=given.quick, say=not given.json)
    if given.json:
        print(json.dumps(result))


def throughput(folder: Path, *, quick: bool, say: bool) -> list[dict[str, Any]]:
    """Return a row per number in flight: share of the capacity and CPU per call, ours and plain in
    turn.
    """
    rows = []
    for in_flight, (capacity, latency) in LOADS.items():
        calls = max(int((6 if quick else 25) * capacity), 4 * in_flight) // 8 * 8
        row: dict[str, Any] = {
            "in_flight": in_flight,
            "capacity_per_s": capacity,
            "latency_s": latency,
            "calls": calls,
        }
        for side in ("ours", "plain"):
            with judging.server(capacity, latency) as url:
                if side == "ours":
                    recipe = judging.write_run(folder / f"{in_flight}", calls, url, in_flight)
                    done = judging.in_process("judge_run", str(recipe))
                else:
                    done = judging.in_process("ask_plainly", url, calls, in_flight)
                row[side] = {
                    "share_of_capacity": judging.facts(url)["middle_per_s"] / capacity,
                    "cpu_ms_per_call": 1e3 * done["cpu_s"] / done["calls"],
                }
        rows.append(row)
        if say:
            ours, plain = row["ours"], row["plain"]
            print(
                f"{in_flight:4} in flight, server {capacity:g}/s at {latency:g} s, {calls} calls: "
                f"{ours['share_of_capacity']:.1%} of capacity (plain "
                f"{plain['share_of_capacity']:.1%}), "
                f"{ours['cpu_ms_per_call']:.2f} ms CPU a call (plain "
                f"{plain['cpu_ms_per_call']:.2f}, "
                f"{plain['cpu_ms_per_call'] / ours['cpu_ms_per_call']:.2f}x)",
                flush=True,
            )
    return rows


def memory(folder: Path, *, quick: bool, say: bool) -> list[dict[str, Any]]:
    """Return resident memory as one run passes so many judgments, and the most to its end."""
    marks = (2_000, 5_000, 10_000) if quick else (50_000, 100_000, 199_000)
    number = marks[-1] // 1000 * 1000 + (0 if quick else 1000)
    with judging.server(0.0, 0.002) as url:
        rows = judging.memory_of(
            str(judging.write_run(folder / "memory", number, url, 32)), url, marks
        )
    if say:
        for row in rows[:-1]:
            print(
                f"{row['judgments']:8,} of {number:,} judgments: {row['rss_mib']:.0f} MiB, "
                f"{1e3 * row['cpu_s'] / row['judgments']:.2f} ms CPU each, start-up included"
            )
        print(
            f"at most {rows[-1]['rss_mib']:.0f} MiB until the stage had ended, after "
            f"{rows[-1]['seconds']:.0f} s",
            flush=True,
        )
    return rows


def resume(folder: Path, *, quick: bool, say: bool) -> list[dict[str, Any]]:
    """Return seconds from the start of the command to the first call, 1 % missing: spread evenly,
    or the last ones.
    """
    number = 50_000 if quick else 1_000_000
    rows = []
    for where in ("spread", "last"):
        with judging.server(0.0, 0.0) as url:
            recipe = judging.write_run(folder / where, number, url, 32)
            judging.in_process("fill_store", str(recipe), 0.01, where)
            row = {
                "rows": number,
                "missing": "1 %",
                "where": where,
                **judging.first_call(str(recipe), url),
            }
        rows.append(row)
        if say:
            print(
                f"resume {number:,} rows, 1 % missing, {where}: first call after "
                f"{row['seconds']:.1f} s "
                f"({row['cpu_s']:.1f} s CPU), {row['rss_mib']:.0f} MiB then",
                flush=True,
            )
    return rows


def beside(folder: Path, *, quick: bool, say: bool) -> list[dict[str, Any]]:
    """Return seconds of generate and judge, one after the other and beside one another: answers
    that are written as fast as the server judges.
    """
    number, rate = (80 if quick else 240), 5.0
    rows = []
    for together in (False, True):
        with judging.server(rate, 1.0) as url:
            recipe = judging.write_run(folder / f"beside-{together}", number, url, 32)
            done = judging.in_process("write_and_judge", str(recipe), rate, together)
        rows.append({"answers": number, "beside": together, **done})
        if say:
            print(
                f"{number} answers written and judged at {rate:g} a second, "
                f"{'beside one another' if together else 'one after the other'}: "
                f"generate {done['generate_s']:.1f} s, then judge {done['judge_s']:.1f} s, "
                f"together {done['together_s']:.1f} s",
                flush=True,
            )
    assert rows[0]["judgments"] == rows[1]["judgments"], "the same file"
    return rows


PARTS = {"throughput": throughput, "memory": memory, "resume": resume, "beside": beside}

if __name__ == "__main__":
    main()
