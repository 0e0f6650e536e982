"""merge: the written model answers as base + adapter do, and is an ordinary checkpoint."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from plain_forwards import plain_answer_logp
from tiny_world import KINDS, make_pairs, make_recipe, make_world, open_run
from torch import nn

from dpo_video.core.errors import UserError
from dpo_video.core.records import EarlierTurn
from dpo_video.models.load import load_policy
from dpo_video.models.lora import adapter_parameters, lora_config
from dpo_video.models.prompts import answer_ids
from dpo_video.recipe import Recipe
from dpo_video.store import RunStore
from dpo_video.train.logps import answer_logps, clip_rows
from dpo_video.train.merge import _example, _logits, merge
from dpo_video.video.read import read_frames


def write_adapter(recipe: Recipe, folder: Path) -> None:
    """Write an adapter that changes the model visibly."""
    policy = load_policy(recipe.model)
    torch.manual_seed(
        1
    )  # before PEFT draws, too: how far the answer moves must not depend on the tests before
    model = get_peft_model(policy.model, lora_config(recipe.train.lora, policy.family))
    for name, parameter in adapter_parameters(model):
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    "kind, quantize, rope_factor",
    [
        (KINDS[0], "none", None),
        (KINDS[0], "nf4", None),
        (KINDS[1], "none", None),
        (KINDS[1], "none", 2.0),
    ],
)
def test_the_merged_model_answers_as_base_and_adapter(
    tmp_path: Path, kind: str, quantize: str, rope_factor: float | None
) -> None:
    make_world(tmp_path, kind)  # type: ignore[arg-type]
    recipe = make_recipe(tmp_path, quantize=quantize)
    recipe = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"rope_factor": rope_factor})}
    )
    with RunStore(recipe.run_folder) as store:
        run = open_run(recipe, store, tmp_path, make_pairs(3))
        write_adapter(recipe, run.folder / "adapter")
        summary = merge(run, tmp_path / "merged")
    assert re.fullmatch(r"[\d.e-]+ of the largest logit", summary["largest_logit_difference"])
    full = recipe.model.model_copy(update={"quantize": "none"})
    merged = load_policy(
        full.model_copy(update={"name": str(tmp_path / "merged"), "rope_factor": None})
    )
    tuned = load_policy(full, adapter=run.folder / "adapter")
    assert not isinstance(merged.model, PeftModel)
    frames = read_frames(
        tmp_path / "c1.mp4", recipe.video, multiple_of=merged.family.frames_per_step
    )
    got, wanted, base = (
        answer_logps(
            policy,
            clip_rows(
                policy, frames, recipe.video, question="what happens ?", answers=["a red bus"]
            ),
            adapter=adapter,
        )[0]
        for policy, adapter in ((merged, True), (tuned, True), (tuned, False))
    )
    assert got == pytest.approx(wanted, abs=1e-3)
    assert abs(wanted - base) > 0.02, "far above the tolerance"


def test_models_are_compared_on_the_logits_of_a_pair_behind_its_earlier_turns(
    tmp_path: Path,
) -> None:
    make_world(tmp_path, "qwen2_5_vl")
    recipe = make_recipe(tmp_path)
    turn = EarlierTurn(question="what is it ?", answer="a red square")
    (pair,) = make_pairs(1)
    policy = load_policy(recipe.model)
    logits = []
    with RunStore(recipe.run_folder) as store:
        for history in ((turn,), None):
            run = open_run(recipe, store, tmp_path, [replace(pair, history=history)])
            example = _example(run, policy.spec)
            logits.append(_logits(policy, run, example))
            logps = logits[-1].log_softmax(-1)
            answer = answer_ids(policy, pair.chosen)
            found = sum(
                float(logps[place, token])
                for place, token in enumerate(answer, start=len(logps) - len(answer) - 1)
            )
            wanted = plain_answer_logp(
                policy,
                recipe,
                tmp_path / str(pair.video),
                question=pair.prompt,
                answer=pair.chosen,
                is_cut=False,
                history=history,
            )
            assert found == pytest.approx(wanted, abs=1e-4)
    assert len(logits[0]) > len(logits[1])


def test_a_folder_that_holds_something_is_not_overwritten(tmp_path: Path) -> None:
    make_world(tmp_path, "qwen2_5_vl")
    recipe = make_recipe(tmp_path)
    with RunStore(recipe.run_folder) as store:
        run = open_run(recipe, store, tmp_path, make_pairs(3))
        (tmp_path / "merged").mkdir()
        (tmp_path / "merged" / "mine").touch()
        with pytest.raises(UserError, match="exists: give another --out"):
            merge(run, tmp_path / "merged")


def test_a_run_without_an_adapter_says_which_stage_makes_it(tmp_path: Path) -> None:
    make_world(tmp_path, "qwen2_5_vl")
    recipe = make_recipe(tmp_path)
    with RunStore(recipe.run_folder) as store:
        run = open_run(recipe, store, tmp_path, make_pairs(3))
        with pytest.raises(UserError, match="make one first: dpo-video train RECIPE"):
            merge(run, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_clips_that_were_written_into_pairs_by_hand_lead_nowhere_else(tmp_path: Path) -> None:
    make_world(tmp_path, "qwen2_5_vl")
    recipe = make_recipe(tmp_path)
    with RunStore(recipe.run_folder) as store:
        pairs = [replace(pair, video="/etc/hostname") for pair in make_pairs(1)]
        run = open_run(recipe, store, tmp_path, pairs)
        with pytest.raises(UserError, match=r"pairs\.jsonl:1: the clip '/etc/hostname' is"):
            merge(run, tmp_path / "merged")
