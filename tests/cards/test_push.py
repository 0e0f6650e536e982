"""`dpo-video push` against a stand-in of the hub, through huggingface_hub itself, in a process of
its own as its address is read when it is imported.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from card_runs import evaluate_run, make_card_run
from hub_server import TOKEN, HubRepo, HubServer, hub_server
from huggingface_hub import ModelCard

from dpo_video.recipe.file import load_recipe


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server() as served:
        yield served


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = make_card_run(tmp_path, license="mit")
    evaluate_run(run)
    return run


def push(run: Path, hub: HubServer, *words: str, token: str | None = TOKEN) -> tuple[int, str]:
    """Return the exit code and all that was written."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**outside, "HF_ENDPOINT": hub.url, "HF_HOME": str(run / "hf")}
    environment["HF_HUB_DISABLE_XET"] = "1"  # the stand-in takes LFS
    if token is not None:
        environment["HF_TOKEN"] = token
    command = [sys.executable, "-m", "dpo_video", "push", str(run), "--repo", "lab/x", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    written = done.stdout + done.stderr
    assert token is None or token not in written
    assert "Traceback" not in written, written
    return done.returncode, written


def test_without_yes_all_is_shown_and_nothing_is_asked(run: Path, hub: HubServer) -> None:
    code, told = push(run, hub, token=None)
    assert code == 0 and hub.requests == []
    for name in ("adapter_model.safetensors", "adapter_config.json", "recipe.yaml", "README.md"):
        assert f"  {name}\n" in told
    assert "## Before and after" in told and "dry run: nothing was sent" in told


def test_it_sends_every_file_to_a_private_repository(run: Path, hub: HubServer) -> None:
    code, told = push(run, hub, "--yes")
    assert code == 0 and f"sent: {hub.url}/models/lab/x/commit/" in told, told
    repo = hub.repos["models/lab/x"]
    assert repo.private
    adapter = run / "adapter"
    assert set(repo.files) == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "complete.json",
        "recipe.yaml",
    }
    for name in ("adapter_config.json", "adapter_model.safetensors", "complete.json"):
        assert repo.files[name] == (adapter / name).read_bytes()
    assert "PUT blob" in hub.requests, "weights go by LFS"
    card = repo.files["README.md"].decode()
    assert [card] == hub.validated and "model-index" in card
    stored = json.loads((run / "metrics.json").read_text())
    told_by_hub = {row.metric_type: row.metric_value for row in ModelCard(card).data.eval_results}
    assert told_by_hub["exact_match"] == stored["after"]["exact_match"]
    assert 'open_tuned("lab/x")' in card
    recipe = run / "sent.yaml"
    recipe.write_bytes(repo.files["recipe.yaml"])
    assert str(run.parent) not in recipe.read_text()
    assert load_recipe(str(recipe)).data.samples == "samples.jsonl"


def test_pairs_go_to_a_dataset_with_their_clips(run: Path, hub: HubServer) -> None:
    code, told = push(run, hub, "--what", "pairs", "--with-clips", "--yes")
    assert code == 0, told
    files = hub.repos["datasets/lab/x"].files
    assert {"README.md", "metadata.jsonl", "clips/clip0.mp4"} <= set(files)
    assert files["clips/clip0.mp4"] == (run.parent / "clip0.mp4").read_bytes()


def test_public_must_be_said(run: Path, hub: HubServer) -> None:
    hub.repos["models/lab/x"] = HubRepo(private=False)
    code, told = push(run, hub, "--yes")
    assert code == 2 and "is public: add --public" in told
    code, told = push(run, hub, "--yes", "--public")
    assert code == 0 and hub.repos["models/lab/x"].files


@pytest.mark.parametrize(
    ("files", "words", "told"),
    [
        ({"model.bin": b"x"}, ["--update"], "holds other files (model.bin)"),
        ({"README.md": b"x"}, [], "holds an earlier push: add --update"),
    ],
)
def test_what_is_there_is_not_written_over(
    run: Path, hub: HubServer, files: dict[str, bytes], words: list[str], told: str
) -> None:
    hub.repos["models/lab/x"] = HubRepo(private=True, files={".gitattributes": b"", **files})
    code, written = push(run, hub, "--yes", *words)
    assert code == 2 and told in written and written.count("dpo-video:") == 1
    assert hub.repos["models/lab/x"].files == {".gitattributes": b"", **files}


def test_an_earlier_push_is_replaced_when_told(run: Path, hub: HubServer) -> None:
    hub.repos["models/lab/x"] = HubRepo(private=True, files={"README.md": b"x"})
    code, _ = push(run, hub, "--yes", "--update")
    assert code == 0 and hub.repos["models/lab/x"].files["README.md"] != b"x"


@pytest.mark.parametrize(
    ("token", "told"),
    [(None, "no token: set HF_TOKEN"), ("hf_wrong", "Invalid username or password")],
)
def test_without_a_right_token_nothing_is_sent(
    run: Path, hub: HubServer, token: str | None, told: str
) -> None:
    code, written = push(run, hub, "--yes", token=token)
    assert code == 2 and told in written and written.count("dpo-video:") == 1
    assert hub.repos == {}


def test_a_damaged_adapter_is_not_pushed(run: Path, hub: HubServer) -> None:
    (run / "adapter" / "adapter_model.safetensors").write_bytes(b"cut")
    code, written = push(run, hub)
    assert code == 2 and "damaged and not pushed: adapter_model.safetensors has 3 of" in written


def test_a_merged_model_that_is_not_there_is_one_line(run: Path, hub: HubServer) -> None:
    code, written = push(run, hub, "--what", "merged")
    assert code == 2 and "make it first: dpo-video merge" in written
