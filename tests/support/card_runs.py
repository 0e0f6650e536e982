"""A run folder with an adapter, as cards and pushes read it: no model is loaded for it."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from example_metrics import metrics
from safetensors.torch import save_file
from shown_runs import make_shown_run

from dpo_video.core.seal import seal
from dpo_video.evaluate.report import write_metrics
from dpo_video.run import recipe_of
from dpo_video.store import content_hash


def make_card_run(folder: Path, **card: Any) -> Path:
    """Return the folder of a run that was paired, with a sealed adapter of made weights."""
    run = make_shown_run(folder, num_questions=4)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["recipe"]["model"] = {"name": "Qwen/Qwen2.5-VL-3B-Instruct"}
    manifest["recipe"]["card"] = card
    (run / "manifest.json").write_text(json.dumps(manifest))
    adapter = run / "adapter"
    adapter.mkdir()
    save_file({"lora_A": torch.ones(2, 2)}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2}')
    seal(adapter)
    return run


def evaluate_run(run: Path) -> None:
    """Write metrics.json about the adapter that is there."""
    measured = replace(metrics(), adapter=content_hash(run / "adapter"))
    write_metrics(run / "metrics.json", measured)


def run_of(run: Path) -> Any:
    """Return what `renew_documents` reads of a run."""
    return SimpleNamespace(folder=run, recipe=recipe_of(run))
