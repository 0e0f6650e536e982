"""Checkpoints with pickled weights, converted by the script and loaded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_policy

from dpo_video.core.errors import UserError
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
    assert done.returncode == 2
    assert "this ran" not in done.stdout
    (line,) = done.stderr.splitlines()
    assert "pytorch_model.bin holds more than weights" in line


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.999])
def test_a_file_that_was_cut_short_is_refused_in_one_line(
    tmp_path: Path, part: float, zipped: bool
) -> None:
    file = tmp_path / "pytorch_model.bin"
    weights = {"first": torch.arange(5000.0), "second": torch.ones(300, 3)}
    torch.save(weights, file, _use_new_zipfile_serialization=zipped)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * part)])
    done = run(tmp_path)
    assert done.returncode == 2 and list(tmp_path.iterdir()) == [file]
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{file} is damaged or cut short (")
    assert line.endswith("): copy or download it again")


def test_bytes_changed_anywhere_never_end_in_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of 40 zeros over every 25th part of a file: it is read whole, or refused."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from to_safetensors import read_pickled

    file = tmp_path / "pytorch_model.bin"
    torch.save({"weight": torch.arange(600.0)}, file)
    whole = file.read_bytes()
    refused = 0
    for start in range(0, len(whole), len(whole) // 25):
        file.write_bytes((whole[:start] + bytes(40) + whole[start + 40 :])[: len(whole)])
        try:
            assert read_pickled(file)["weight"].shape == (600,)
        except UserError:
            refused += 1
    assert refused > 3


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        ([torch.ones(2)], "holds no weights: it is of type list"),
        ({"weight": torch.ones(2), "epoch": 3}, "holds more than weights: 'epoch' is of type int"),
    ],
)
def test_what_is_no_checkpoint_of_weights_is_refused(
    tmp_path: Path, contents: object, told: str
) -> None:
    torch.save(contents, tmp_path / "pytorch_model.bin")
    done = run(tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"pytorch_model.bin {told}" in line


def test_a_damaged_index_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"weight"')
    done = run(tmp_path)
    assert done.returncode == 2 and not list(tmp_path.glob("*.safetensors"))
    (line,) = done.stderr.splitlines()
    assert "pytorch_model.bin.index.json is damaged or cut short (JSONDecodeError: " in line


def test_a_folder_without_pickles_says_so(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"no pytorch_model*.bin in the folder {tmp_path}\n"
