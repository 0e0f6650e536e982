"""Another trainer and `dpo-video train` on the same pairs: whole processes, one checkpoint, written
clips, equal tokens.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.case import ANSWER_TOKENS, Case, clip_size, make_clip, make_policy
from bench.clips import write_clip
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Pair
from dpo_video.core.strict_json import dumps
from dpo_video.formats.exporters import EXPORTERS
from dpo_video.models.load import Policy
from dpo_video.models.prompts import answer_ids, encode_prompt

ROOT = Path(__file__).resolve().parents[2]
RATE = 2
"""Pictures a second of the written clips, all of which both sides take."""
WORDS = ("red", "blue", "green", "square", "circle", "moves", "left", "right", "up", "down")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerJob:
    """What both sides train."""

    folder: Path
    """Holds `model/`, `pairs.jsonl` and the clips that it names."""
    case: Case
    """Video tokens, questions and answers of each clip."""
    clips: int
    epochs: int
    pairs: tuple[Pair, ...]
    video_token_id: int
    longest: int
    """Tokens of the longest row."""
    first_row: int
    """Tokens of the first pair's prompt and chosen answer."""

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch: one for each clip's pairs."""
        return self.clips


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
            peer: lambda: PEERS[peer](job, python),
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


def _ours(job: PeerJob) -> dict[str, float]:
    side, _ = clip_size(job.case.video_tokens)
    recipe = {
        "name": "ours",
        "runs_folder": tempfile.mkdtemp(dir=job.folder),
        "seed": 0,
        "model": {"name": str(job.folder / "model"), "device": "cpu", "dtype": "float32"},
        "data": {"pairs": str(job.folder / "pairs.jsonl"), "video_root": str(job.folder)},
        "video": {"policy": "all", "min_pixels": side**2, "max_pixels": side**2, "workers": 1},
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


def _swift(job: PeerJob, python: Path) -> dict[str, float]:
    """Return what ms-swift's `rlhf --rlhf_type dpo` took, with its reference in the step, as it
    comes, and without gradient checkpointing, which is on by default and slower.
    """
    rows = job.folder / "swift.jsonl"
    rows.write_text("".join(dumps(EXPORTERS["ms_swift"].write(pair)) + "\n" for pair in job.pairs))
    options = {
        "rlhf_type": "dpo",
        "model": job.folder / "model",
        "model_type": "qwen2_5_vl",
        "template": "qwen2_5_vl",
        "external_plugins": Path(__file__).with_name("swift_plugin.py"),
        "dataset": rows,
        "split_dataset_ratio": 0,
        "system": "",
        "torch_dtype": "float32",
        "tuner_type": "lora",
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_dropout": 0,
        "target_modules": "all-linear",
        "freeze_vit": "true",
        "freeze_aligner": "true",
        "gradient_checkpointing": "false",
        "vit_gradient_checkpointing": "false",
        "max_length": job.longest + 256,
        "num_train_epochs": job.epochs,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": len(job.pairs) // job.steps,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0,
        "beta": 0.1,
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "dataloader_num_workers": 0,
        "dataset_num_proc": 1,
        "output_dir": tempfile.mkdtemp(dir=job.folder),
    }
    command = [str(python), "-m", "swift.cli.main", "rlhf"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    measured, log = _run(
        command,
        {
            "BENCH_VIDEO_TOKEN_ID": str(job.video_token_id),
            "VIDEO_MIN_TOKEN_NUM": "4",
            "PYTHONPATH": "",
            "USE_HF": "1",
        },
    )
    ids = re.search(r"\[CHOSEN_INPUT_IDS\] \[([\d, ]+)\]", log)
    assert ids, f"ms-swift printed no row:\n{log[-2000:]}"
    return {**measured, "tokens_of_first_row": float(ids[1].count(",") + 1)}


def _run(command: Sequence[str], environment: dict[str, str]) -> tuple[dict[str, float], str]:
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


PEERS: dict[str, Callable[[PeerJob, Path], dict[str, float]]] = {"swift": _swift}
"""By the word of `--peer`."""
