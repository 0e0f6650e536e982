"""Another trainer and `dpo-video train` on the same pairs: whole processes, one checkpoint, written
clips, equal tokens.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.case import ANSWER_TOKENS, Case, clip_size, make_clip, make_policy
from bench.clips import write_clip
from bench.peer_commands import PEERS
from bench.peer_job import RATE, PeerJob
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Pair
from dpo_video.core.strict_json import dumps
from dpo_video.models.load import Policy
from dpo_video.models.prompts import answer_ids, encode_prompt

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("red", "blue", "green", "square", "circle", "moves", "left", "right", "up", "down")


def compare(
    case: Case, *, peer: str, environment: Path, clips: int, epochs: int, repeats: int
) -> dict[str, Any]:
    """Return CPU seconds and peak memory of both processes, start-up and files included, each the
    least of `repeats` by turns.
    """
    python = environment / "bin" / "python"
    if not python.exists():
        raise SystemExit(
            f"--peer-env {environment}: there is no {python}; give a virtual environment"
        )
    with tempfile.TemporaryDirectory() as name:
        job = make_job(Path(name), case, clips=clips, epochs=epochs)
        runs: dict[str, Callable[[], dict[str, float]]] = {
            peer: lambda: _peer(job, peer, python),
            "ours": lambda: _ours(job),
        }
        measured: dict[str, list[dict[str, float]]] = {side: [] for side in runs}
        for _ in range(repeats):
            for side, run in runs.items():
                measured[side].append(run())
    sides = {
        side: {key: min(row[key] for row in rows) for key in rows[0]}
        for side, rows in measured.items()
    }
    tokens = {side: row["tokens_of_first_row"] for side, row in sides.items()}
    if len(set(tokens.values())) > 1:
        raise SystemExit(f"the sides read the first row as other numbers of tokens: {tokens}")
    return {
        "peer": peer,
        "video_tokens": case.video_tokens,
        "clips": clips,
        "pairs": len(job.pairs),
        "epochs": epochs,
        "sides": sides,
        "ratio": sides[peer]["seconds"] / sides["ours"]["seconds"],
    }


def make_job(folder: Path, case: Case, *, clips: int, epochs: int) -> PeerJob:
    """Write checkpoint, clips and pairs; answers are words, so that each side encodes them."""
    policy = make_policy(case)
    policy.bare.save_pretrained(folder / "model")
    side, frames = clip_size(case.video_tokens)
    size = {"shortest_edge": side**2, "longest_edge": side**2}
    for processor in (policy.processor.video_processor, policy.processor.image_processor):
        processor.size, processor.patch_size = size, 14
    policy.processor.save_pretrained(folder / "model")
    for number in range(clips):
        path = folder / f"c{number}.mp4"
        write_clip(path, seed=number, frames=frames, rate=RATE, width=side, height=side)
    pairs = tuple(_pairs(folder, case, clips))
    write_jsonl(folder / "pairs.jsonl", pairs)
    rows = [_row_tokens(policy, case, pair) for pair in pairs]
    return PeerJob(
        folder=folder,
        case=case,
        clips=clips,
        epochs=epochs,
        pairs=pairs,
        video_token_id=policy.bare.config.video_token_id,
        side=side,
        longest=max(map(max, rows)),
        first_row=rows[0][0],
    )


def _pairs(folder: Path, case: Case, clips: int) -> list[Pair]:
    draw = np.random.default_rng(1)
    pairs = []
    for clip in range(clips):
        for question in range(case.questions):
            for number in range(case.answers // 2):
                chosen, rejected = (" ".join(draw.choice(WORDS, ANSWER_TOKENS)) for _ in range(2))
                identity = f"{clip}-{question}-{number}"
                pairs.append(
                    Pair(
                        sample_id=identity,
                        video=str(folder / f"c{clip}.mp4"),
                        prompt=f"What {' '.join(WORDS[:6])} in part {question} ?",
                        chosen=chosen,
                        rejected=rejected,
                        chosen_score=1.0,
                        rejected_score=0.0,
                        source="bench",
                        chosen_id=f"{identity}-c",
                        rejected_id=f"{identity}-r",
                    )
                )
    return pairs


def _row_tokens(policy: Policy, case: Case, pair: Pair) -> tuple[int, int]:
    prompt = len(encode_prompt(policy, pair.prompt, make_clip(policy, case)).input_ids)
    chosen, rejected = (
        prompt + len(answer_ids(policy, answer)) for answer in (pair.chosen, pair.rejected)
    )
    return chosen, rejected


def _peer(job: PeerJob, name: str, python: Path) -> dict[str, float]:
    call = PEERS[name](job, python)
    measured, log = _run(call.command, {"PYTHONPATH": "", **call.environment})
    ids = re.search(call.first_row, log)
    assert ids, f"{name} printed no row:\n{log[-2000:]}"
    tokens = ids[1].count(",") + 1 - call.added_tokens
    return {**measured, "tokens_of_first_row": float(tokens)}


def _ours(job: PeerJob) -> dict[str, float]:
    recipe = {
        "name": "ours",
        "runs_folder": tempfile.mkdtemp(dir=job.folder),
        "seed": 0,
        "model": {"name": str(job.folder / "model"), "device": "cpu", "dtype": "float32"},
        "data": {"pairs": str(job.folder / "pairs.jsonl"), "video_root": str(job.folder)},
        "video": {
            "policy": "all",
            "min_pixels": job.side**2,
            "max_pixels": job.side**2,
            "workers": 1,
        },
        "judge": {"backend": "local", "model": "toy:judge"},
        "train": {
            "epochs": job.epochs,
            "batch_size": len(job.pairs) // job.steps,
            "gradient_accumulation": 1,
            "learning_rate": 1e-4,
            "scheduler": "constant",
            "warmup_ratio": 0.0,
            "save_steps": 100000,
            "lora": {"rank": 16, "alpha": 32},
        },
        "tracking": {"to": "none"},
    }
    path = Path(str(recipe["runs_folder"])) / "recipe.yaml"
    path.write_text(dumps(recipe))  # JSON is YAML
    measured, log = _run(
        [sys.executable, "-m", "dpo_video", "run", str(path)], {"PYTHONPATH": str(ROOT)}
    )
    trained = re.search(rf"trained {len(job.pairs)}\b", log)
    assert trained, f"not all of {len(job.pairs)} pairs were trained:\n{log[-2000:]}"
    return {**measured, "tokens_of_first_row": float(job.first_row)}


def _run(command: Sequence[str], environment: Mapping[str, str]) -> tuple[dict[str, float], str]:
    """Return CPU seconds and peak MiB of a process and of those that it started and waited for, and
    what it printed.
    """
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    log = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ended with {process.returncode}:\n{log[-4000:]}")
    return {"seconds": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}, log
