"""What a user is told where a checkpoint cannot be found, opened or read."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from dpo_video.core.errors import UserError
from dpo_video.models.names import resolve_model

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model*",
    "vocab.*",
    "*.tiktoken",
    "tiktoken.model",
    "tekken.json",
    "spiece.model",
    "*.bpe.model",
)
"""What holds a vocabulary in published checkpoints."""
NO_TOKENIZER = "Couldn't instantiate the backend tokenizer"
"""How transformers begins to say that no such file could be read."""
NEEDS_TOKENIZER = (
    "no tokenizer in it that can be read. Put tokenizer.json, or what its repository has instead "
    "(tokenizer.model, vocab.json with merges.txt), and tokenizer_config.json beside the weights"
)


def refuse_no_tokenizer(folder: Path, *, setting: str) -> None:
    """Raise UserError for a folder here without a tokenizer: transformers would go on with one
    whose vocabulary is empty.
    """
    if folder.is_dir() and not any(
        path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)
    ):
        raise UserError(f"{setting}: {NEEDS_TOKENIZER}")


def refuse_missing_weights(model: nn.Module, report: Mapping[str, Any], *, setting: str) -> None:
    """Raise UserError for a checkpoint that lacks weights, by `from_pretrained`'s loading info:
    transformers goes on with random numbers in their place, and a yellow line. Buffers may be
    missing: a class computes its own.
    """
    missing = {name for name, _ in model.named_parameters()} & set(report["missing_keys"])
    if missing:
        raise UserError(
            f"cannot load {setting}: it lacks {len(missing)} weights that its config.json "
            f"asks for, {min(missing)!r} among them, and random numbers would stand for them. Copy "
            "or download the whole checkpoint, or correct its config.json"
        )


def why_not_loaded(error: Exception) -> str:
    """Return in one line what a library said of a checkpoint, without advice on the hub's pages."""
    if isinstance(error, SafetensorError):
        return f"a file of its weights is damaged or cut short ({error}). Copy or download it again"
    text = str(error).strip()
    if text.startswith(NO_TOKENIZER):
        return NEEDS_TOKENIZER
    return re.sub(r" Checkout 'http\S+' for available files\.?$", "", text.splitlines()[0])[:300]


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """Turn the hub's and transformers' failures to find or open a checkpoint into a UserError."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        advice = (
            "The folder must hold a whole checkpoint: config, weights, tokenizer, processor"
            if Path(resolve_model(name)).is_dir()
            else "Check the name and the network, log in with `hf auth login` if it is gated, or "
            "give a local folder"
        )
        raise UserError(
            f"cannot get the model {name!r}: {why_not_loaded(error).rstrip('.')}. {advice}"
        ) from error
    except (ImportError, ValueError, SafetensorError) as error:
        raise UserError(f"cannot load the model {name!r}: {why_not_loaded(error)}") from error
