"""`dpo-video frames` and `check` look at their arguments before they import torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SEEN = """
import sys
from dpo_video.cli.app import main
try:
    main()
finally:
    print("heavy:", sorted({"torch", "transformers", "trl", "wandb"} & set(sys.modules)))
"""
SAMPLE = {"id": "a", "video": "clip.mp4", "prompt": "What?", "caption": "A red circle."}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file that stands for a clip, samples with a wrong line, and a recipe that names them."""
    (tmp_path / "clip.mp4").write_bytes(b"")
    (tmp_path / "train.jsonl").write_text(json.dumps({**SAMPLE, "prompt": 3}) + "\n")
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nmodel: {name: toy:qwen2_5_vl}\ndata: {samples: train.jsonl}\n"
        "judge: {model: m, base_url: 'http://127.0.0.1:9/v1'}\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("frames clip.mp4", "one of --family F, --model NAME, --recipe RECIPE"),
        ("frames clip.mp4 --family qwen", "unknown family 'qwen'"),
        ("frames clip.mp4 --family qwen2_5_vl video.fsp=2", "Did you mean"),
        ("frames clip.mp4 --family qwen2_5_vl model.name=a", "only `video.` settings"),
        ("frames clip.mp4 --family qwen2_5_vl --out sheet.txt", "name a picture"),
        ("frames clip.mp4 --family qwen2_5_vl --out none/sheet.png", "no folder 'none'"),
        ("frames clip.mp4 --family qwen2_5_vl --start 3 --end 2", "--end after it"),
        ("frames gone.mp4 --family qwen2_5_vl", "no clip at 'gone.mp4'"),
        ("frames clip.mp4 --model toy:none", "unknown toy model"),
        ("frames clip.mp4 --model ./none", "no model folder at './none'"),
        ("frames clip.mp4 --recipe other", "unknown recipe 'other'"),
        ("check other", "unknown recipe 'other'"),
        ("check mine.yaml train.bta=1", "Did you mean"),
        ("check mine.yaml data.samples=none.jsonl", "no file at 'none.jsonl'"),
        ("check mine.yaml", "train.jsonl:1: `prompt` must be"),
        ("check mine.yaml --fast", "No such option"),
    ],
)
def test_a_wrong_argument_is_told_before_torch_is_imported(
    folder: Path, arguments: str, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SEEN, *arguments.split()],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert "heavy: []" in done.stdout, done.stdout
