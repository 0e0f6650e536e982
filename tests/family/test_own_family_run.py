"""The document's family file, written as it stands, through `family test` and the quickstart's
recipe, by the commands that the document shows.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from own_family import DOCUMENT, vipllava, written
from processes import dpo_video
from tiny_models import write_tiny
from transformers import PreTrainedModel

from dpo_video.core.jsonl import read_jsonl
from dpo_video.core.records import Pair, Sample
from dpo_video.family.run import CHECKS
from dpo_video.toy.clips import write_split

SMALL = (
    *("data.limit=12", "data.heldout_limit=6", "generate.num_candidates=4"),
    *("generate.max_new_tokens=48", "evaluate.max_new_tokens=48", "evaluate.sets=[]"),
    *("evaluate.pair_samples=4", "evaluate.bootstrap=50", "train.epochs=1", "train.batch_size=2"),
    *("pair.min_margin=0.01", "data.samples=samples/samples.jsonl", "data.video_root=samples"),
)
"""A run of seconds. Answers of a model that was taught for a moment differ little in score."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lab's folder: its checkpoint, its family file, its clips."""
    root = tmp_path_factory.mktemp("lab")
    write_split("train", root / "samples", num_clips=4, seed=1)
    samples = list(read_jsonl(root / "samples" / "samples.jsonl", Sample))
    write_tiny(lambda: taught(samples), root / "checkpoint")
    written(root)
    return root


def taught(samples: list[Sample]) -> tuple[PreTrainedModel, object]:
    """Return a tiny ViP-LLaVA that has read answers for a moment, so that it ends its own."""
    model, processor = vipllava()
    tokenizer = processor.tokenizer  # type: ignore[attr-defined]
    texts = [f"USER: {s.prompt} ASSISTANT: {s.answer}{tokenizer.eos_token}" for s in samples]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, processor


def commands() -> list[list[str]]:
    """Return the arguments of the document's commands about `my_family.py`."""
    blocks = re.findall(r"```bash\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split()[1:] for line in lines if "my_family.py" in line]


def test_a_users_file_passes_its_test_and_trains_through_the_quickstarts_recipe(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested, run = commands()
    assert tested[:3] == ["family", "test", "my_family.py"] and run[:2] == ["run", "quickstart"]
    monkeypatch.chdir(folder)
    done = dpo_video(*tested)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{len(CHECKS)} of {len(CHECKS)} checks passed" in done.stdout
    done = dpo_video(*run, *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    results = folder / "runs" / "quickstart"
    pairs = list(read_jsonl(results / "pairs.jsonl", Pair))
    assert pairs and all(pair.chosen_score > pair.rejected_score for pair in pairs)
    manifest = json.loads((results / "manifest.json").read_text())
    assert manifest["recipe"]["model"]["family"] == "my_family.py"
    trained = manifest["stages"]["train"]["summary"]
    assert trained["trained"] == len(pairs) and trained["trainable_parameters"] > 0
    assert (results / "adapter" / "adapter_model.safetensors").is_file()
    metrics = json.loads((results / "metrics.json").read_text())
    for side in ("before", "after"):
        low, high = metrics[side]["exact_match_ci"]
        assert 0 <= low <= metrics[side]["exact_match"] <= high <= 1
    assert 0 <= metrics["heldout_pairs"]["reward_accuracy"] <= 1
