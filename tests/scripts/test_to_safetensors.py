"""Checkpoints with pickled weights, converted by the script and loaded."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from tiny_models import tiny_policy

from dpo_video.models.load import load_policy
from dpo_video.recipe import ModelSettings

SCRIPT = Path(__file__).parents[2] / "scripts" / "to_safetensors.py"


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_sharded_checkpoint_loads_with_the_same_weights(tmp_path: Path) -> None:
    folder = tiny_policy("llava_next_video", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    shards = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    files = {name: shards[place % 2] for place, name in enumerate(names)}
    for file in shards:
        torch.save({name: weights[name] for name in names if files[name] == file}, folder / file)
    index = {"metadata": {}, "weight_map": files}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))

    done = run(folder)
    assert done.returncode == 0, done.stderr
    written = [folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    assert done.stdout.split() == [*map(str, written), str(folder / "model.safetensors.index.json")]
    again = {name: weight for file in written for name, weight in load_file(file).items()}
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in names)
    load_policy(ModelSettings(name=str(folder), device="cpu"))


class RunsCode:
    def __reduce__(self):
        return (print, ("this ran",))


def test_a_pickle_that_runs_code_is_refused_in_one_line(tmp_path: Path) -> None:
    torch.save({"weight": RunsCode()}, tmp_path / "pytorch_model.bin")
    done = run(tmp_path)
    assert done.returncode == 1
    assert "this ran" not in done.stdout
    (line,) = done.stderr.splitlines()
    assert "pytorch_model.bin holds more than weights" in line


def test_a_folder_without_pickles_says_so(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert (done.returncode, done.stderr) == (1, "no pytorch_model*.bin in the folder\n")
