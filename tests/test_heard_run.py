"""A run whose model hears its clips: what is said of it where an answer may not rest on the sound,
in plans, at servers, in cards and in the commands that serve it.
"""

from pathlib import Path
from typing import Any

import pytest
from clips import write_clip
from family_cases import family_folder
from generation_runs import make_recipe
from policy_server import policy_server
from typer.testing import CliRunner

from dpo_video.cards.model_card import renew_documents
from dpo_video.check.command import check
from dpo_video.cli.app import app
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Pair, Sample
from dpo_video.generate.stage import generate
from dpo_video.models.load import load_policy
from dpo_video.pages.overview import fact_rows
from dpo_video.pages.run_files import read_run_files
from dpo_video.parity.server_commands import ASK_TO_HEAR
from dpo_video.parity.serving_commands import serving_text
from dpo_video.pipeline import do_stages
from dpo_video.recipe import Recipe
from dpo_video.run import open_run

UNHEARD = "a server is not asked to hear (generate.engine=openai)"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of a sounding and a silent clip, with a question and a pair about each."""
    folder = tmp_path_factory.mktemp("source")
    write_clip(folder / "a.mp4", 25, sound=1.0)
    write_clip(folder / "b.mp4", 25)
    names = ("a.mp4", "b.mp4")
    write_jsonl(
        folder / "samples.jsonl",
        [Sample(id=name, video=name, prompt="what is heard ?", caption="a tone") for name in names],
    )
    write_jsonl(
        folder / "pairs.jsonl",
        [
            Pair(
                sample_id=name,
                video=name,
                prompt="what is heard ?",
                chosen="a tone",
                rejected="nothing",
                chosen_id=f"{name}#0",
                rejected_id=f"{name}#1",
                chosen_score=5,
                rejected_score=1,
                source="given",
            )
            for name in names
        ],
    )
    return folder


def omni(runs: Path, source: Path, **sections: Any) -> Recipe:
    model = {"name": str(family_folder("qwen2_5_omni")), "dtype": "float32"}
    return make_recipe(runs, source, model=model, **sections)


def test_frames_says_what_is_heard_of_each_clip(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """25 tokens a second, beside the frames'."""
    monkeypatch.chdir(tmp_path)
    clips = [str(source / name) for name in ("a.mp4", "b.mp4")]
    shown = CliRunner().invoke(app, ["frames", *clips, "--family", "qwen2_5_omni"])
    assert shown.exit_code == 0, shown.output
    rows = [line for line in shown.output.splitlines() if line.startswith("sound")]
    assert rows == [
        "sound          1.00 s heard, 25 of the tokens",
        "sound          none: the clip has no sound",
    ]


def test_the_list_of_families_says_which_hear() -> None:
    listed = CliRunner().invoke(app, ["list", "families"]).output.splitlines()
    hearing = [line.split()[0] for line in listed if line.endswith("; hears")]
    assert hearing == ["qwen2_5_omni", "qwen3_omni_moe", "videollama2"]


@pytest.mark.parametrize("sound", [True, False])
def test_answers_of_a_server_are_told_to_rest_on_what_is_seen(
    source: Path, tmp_path: Path, sound: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = load_policy(omni(tmp_path, source).model)
    with policy_server(policy, models={"omni": True}) as server:
        engine = {
            "engine": "openai",
            "base_url": server.url,
            "served_model": "omni",
            "video_as": "video_url",
        }
        recipe = omni(tmp_path, source, generate=engine, video={"sound": sound})
        with open_run(recipe) as run:
            generate(run)
        warnings = check(recipe).warnings
    assert (UNHEARD in " ".join(capsys.readouterr().err.split())) is sound
    assert any(UNHEARD in warning for warning in warnings) is sound
    here = check(omni(tmp_path / "here", source)).warnings
    assert not any(UNHEARD in warning for warning in here)


@pytest.mark.parametrize(("sound", "word"), [(True, "heard"), (False, "left out")])
def test_an_adapter_says_whether_its_clips_were_heard(
    source: Path, tmp_path: Path, sound: bool, word: str
) -> None:
    given = {"pairs": str(source / "pairs.jsonl"), "samples": "", "video_root": str(source)}
    train = {"gradient_accumulation": 1, "optimizer": "adamw_torch"}
    recipe = omni(tmp_path, source, data=given, video={"sound": sound}, train=train)
    with open_run(recipe) as run:
        do_stages(run, ["pair", "train"])
        finished = run.store.finished("train")
        assert finished is not None and finished["summary"]["sound"] == word
        renew_documents(run, "train")
    card = (recipe.run_folder / "adapter" / "README.md").read_text(encoding="utf-8")
    assert f"| sound of a clip | {word}" in card
    assert ("sound of the clips", word) in fact_rows(read_run_files(recipe.run_folder))
    assert (ASK_TO_HEAR in card) is sound
    assert (ASK_TO_HEAR in serving_text(recipe, recipe.run_folder / "merged")) is sound
