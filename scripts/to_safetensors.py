"""Write a folder's weights as safetensors where they are pickles, which dpo-video does not read:
`python scripts/to_safetensors.py FOLDER`. Nothing that a pickle would run is run.
"""

import json
import sys
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import save_file

INDEX = "pytorch_model.bin.index.json"


def convert(folder: Path) -> list[Path]:
    """Write `model*.safetensors` for each `pytorch_model*.bin`, and their index; return them."""
    written = []
    for pickled in sorted(folder.glob("pytorch_model*.bin")):
        weights = read_pickled(pickled)
        file = folder / renamed(pickled.name)
        save_file(
            {name: weight.clone().contiguous() for name, weight in weights.items()},
            file,
            metadata={"format": "pt"},
        )
        written.append(file)
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        index["weight_map"] = {name: renamed(file) for name, file in index["weight_map"].items()}
        written.append(folder / "model.safetensors.index.json")
        written[-1].write_text(json.dumps(index, indent=2), encoding="utf-8")
    return written


def read_pickled(file: Path) -> dict[str, Any]:
    """Return what a file holds, which may be tensors, numbers, texts and dicts of them."""
    try:
        contents: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:
        sys.exit(f"{file} holds more than weights, which only code of its own can read")
    return contents


def renamed(pickled: str) -> str:
    """Return the name of a file of weights as safetensors."""
    return pickled.replace("pytorch_model", "model").removesuffix(".bin") + ".safetensors"


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("give a folder with pytorch_model*.bin: python scripts/to_safetensors.py FOLDER")
    files = convert(Path(sys.argv[1]))
    print("\n".join(map(str, files)) or sys.exit("no pytorch_model*.bin in the folder"))
