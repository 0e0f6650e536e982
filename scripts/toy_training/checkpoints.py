"""Save a toy model in bf16 with its tokenizer or processor and its measured numbers."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

MAX_BYTES = 4 * 1024 * 1024


def save(folder: Path, *, model: Any, reader: Any) -> None:
    """Write model.safetensors (bf16), its config and the processor or tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    reader.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    size = (folder / "model.safetensors").stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{folder}/model.safetensors has {size} bytes, over {MAX_BYTES}")


def write_metadata(folder: Path, *, model: Any, facts: dict[str, Any]) -> None:
    """Write toy.json: what the checkpoint is, how it was made and what it was measured to do."""
    weights = (folder / "model.safetensors").read_bytes()
    metadata = {
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        **facts,
    }
    (folder / "toy.json").write_text(json.dumps(metadata, indent=2) + "\n")
