"""How each other trainer is called: with its reference in the step, as it comes, and without
gradient checkpointing, which is on by default in both and slower.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.peer_job import RATE, PeerJob
from dpo_video.core.strict_json import dumps
from dpo_video.formats.exporters import EXPORTERS


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCommand:
    """A call of another trainer in its own environment."""

    command: Sequence[str]
    first_row: str
    """Regular expression of the first row's token ids in what it prints: group 1, by commas."""
    environment: Mapping[str, str] = field(default_factory=dict)
    added_tokens: int = 0
    """Tokens that its template adds to a row, and the checkpoint's own does not."""


def swift(job: PeerJob, python: Path) -> PeerCommand:
    """ms-swift's `rlhf --rlhf_type dpo`."""
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
        "beta": 0.1,
        "eval_strategy": "no",
        "dataset_num_proc": 1,
        **_training_arguments(job),
    }
    command = [str(python), "-m", "swift.cli.main", "rlhf"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    return PeerCommand(
        command=command,
        environment={
            "BENCH_VIDEO_TOKEN_ID": str(job.video_token_id),
            "VIDEO_MIN_TOKEN_NUM": "4",
            "USE_HF": "1",
        },
        first_row=r"\[CHOSEN_INPUT_IDS\] \[([\d, ]+)\]",
    )


def llamafactory(job: PeerJob, python: Path) -> PeerCommand:
    """LLaMA-Factory's `train` with `stage: dpo`."""
    rows = job.folder / "llamafactory.jsonl"
    write = EXPORTERS["llama_factory"].write
    rows.write_text("".join(dumps(write(pair)) + "\n" for pair in job.pairs))
    columns = {"messages": "conversations", **{k: k for k in ("chosen", "rejected", "videos")}}
    dataset = {
        "file_name": rows.name,
        "formatting": "sharegpt",
        "ranking": True,
        "columns": columns,
    }
    (job.folder / "dataset_info.json").write_text(dumps({"bench": dataset}))
    settings: dict[str, Any] = {
        "stage": "dpo",
        "do_train": True,
        "model_name_or_path": str(job.folder / "model"),
        "template": "qwen2_vl",
        "default_system": "",
        "dataset": "bench",
        "dataset_dir": str(job.folder),
        "cutoff_len": job.longest + 256,
        "video_fps": RATE,
        "video_maxlen": 4096,
        "video_min_pixels": job.side**2,
        "video_max_pixels": job.side**2,
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "freeze_vision_tower": True,
        "freeze_multi_modal_projector": True,
        "disable_gradient_checkpointing": True,
        "pref_beta": 0.1,
        "pref_loss": "sigmoid",
        **_training_arguments(job),
    }
    path = job.folder / "llamafactory.yaml"
    path.write_text(dumps(settings))  # JSON is YAML
    return PeerCommand(
        command=[str(python), "-m", "llamafactory.cli", "train", str(path)],
        environment={"CUDA_VISIBLE_DEVICES": "", "DISABLE_VERSION_CHECK": "1"},
        first_row=r"chosen_input_ids:\s*\[([\d, ]+)\]",
        added_tokens=1,  # it trains on the line break after the end of the turn
    )


def _training_arguments(job: PeerJob) -> dict[str, Any]:
    """Settings of transformers' TrainingArguments, by which both know them."""
    return {
        "num_train_epochs": job.epochs,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": len(job.pairs) // job.steps,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "dataloader_num_workers": 0,
        "output_dir": tempfile.mkdtemp(dir=job.folder),
    }


PEERS: dict[str, Callable[[PeerJob, Path], PeerCommand]] = {
    "swift": swift,
    "llamafactory": llamafactory,
}
"""By the word of `--peer`."""
