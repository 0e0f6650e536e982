"""Write a folder's weights as safetensors where they are pickles, which dpo-video does not read:
`python scripts/to_safetensors.py FOLDER`. Nothing that a pickle would run is run.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dpo_video.core.errors import UserError

INDEX = "pytorch_model.bin.index.json"
FOREIGN = "Unsupported global"
"""What torch (2.15) says of a pickle that names code which is no part of weights."""


def convert(folder: Path) -> list[Path]:
    """Write `model*.safetensors` for each `pytorch_model*.bin`, and their index; return them.

    Raises UserError for a file that is damaged, or holds something else than weights.
    """
    index = read_index(folder / INDEX)
    written = []
    for pickled in sorted(folder.glob("pytorch_model*.bin")):
        weights = tensors(pickled, read_pickled(pickled))
        file = folder / renamed(pickled.name)
        save_file(
            {name: weight.clone().contiguous() for name, weight in weights.items()},
            file,
            metadata={"format": "pt"},
        )
        written.append(file)
    if index is not None:
        index["weight_map"] = {name: renamed(file) for name, file in index["weight_map"].items()}
        written.append(folder / "model.safetensors.index.json")
        written[-1].write_text(json.dumps(index, indent=2), encoding="utf-8")
    return written


def read_pickled(file: Path) -> dict[str, Any]:
    """Return what a file holds, which may be tensors, numbers, texts and dicts of them.

    Raises UserError for a file that is damaged, holds code, or no dict.
    """
    try:
        contents = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        if FOREIGN in str(error):
            raise UserError(
                f"{file} holds more than weights, which only code of its own can read: load it "
                "where you trust that code, and save its weights alone"
            ) from error
        raise UserError(f"{file} {damaged(error)}") from error
    if not isinstance(contents, dict):
        raise UserError(f"{file} holds no weights: it is of type {type(contents).__name__}")
    return contents


def damaged(error: Exception) -> str:
    """Return what is told of a file after its name, in one line: why it is not read, what to do."""
    text = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
    return f"is damaged or cut short ({reason}): copy or download it again"


def tensors(file: Path, contents: dict[str, Any]) -> dict[str, Tensor]:
    """Return a file's contents; raise UserError where something in them is no tensor."""
    for name, value in contents.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{file} holds more than weights: {name!r} is of type {type(value).__name__}. "
                "Save the weights alone"
            )
    return contents


def read_index(file: Path) -> dict[str, Any] | None:
    """Return the index of a sharded checkpoint; None where there is none."""
    if not file.is_file():
        return None
    try:
        index: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        index["weight_map"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} {damaged(error)}") from error
    return index


def renamed(pickled: str) -> str:
    """Return the name of a file of weights as safetensors."""
    return pickled.replace("pytorch_model", "model").removesuffix(".bin") + ".safetensors"


def ends_in_one_line(main: Callable[[], None]) -> None:
    """Run a script's `main`; print what its user can mend in one line, and exit with 2."""
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def main() -> None:
    """Convert the folder that is given, and print the files that were written."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        raise UserError(
            "give a folder with pytorch_model*.bin: python scripts/to_safetensors.py FOLDER"
        )
    files = convert(Path(sys.argv[1]))
    if not files:
        raise UserError(f"no pytorch_model*.bin in the folder {sys.argv[1]}")
    print("\n".join(map(str, files)))


if __name__ == "__main__":
    ends_in_one_line(main)
