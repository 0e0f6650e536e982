"""The reference's log-probs: stored once per answer, found again only under the settings that made
them.
"""

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from clips import write_clip
from family_cases import plain_policy
from tiny_world import adapter_weights, made_trainer, make_pairs, make_recipe, open_run
from training import reward_margins

from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Pair, Sample
from dpo_video.models.load import Policy, load_policy
from dpo_video.recipe import Recipe, VideoSettings
from dpo_video.run import Run
from dpo_video.store import RunStore
from dpo_video.train.micro_batches import single_micro_batch
from dpo_video.train.pair_batches import tokenize_pair
from dpo_video.train.reference import KIND, ReferenceLogps, stored_logps
from dpo_video.train.stage import train
from dpo_video.video import clip_key, clip_request

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def policy(qwen: Path) -> Policy:
    return load_policy(make_recipe(qwen).model)


def open_world(recipe: Recipe, store: RunStore, qwen: Path, pairs: list[Pair]) -> Run:
    run = open_run(recipe, store, qwen, pairs)
    run.samples.extend(
        Sample(id=f"x{number}", video=f"x{number}.mp4", prompt="p", caption="c")
        for number in range(99)
    )
    return run


def train_here(recipe: Recipe, qwen: Path, pairs: list[Pair]) -> dict[str, Any]:
    with RunStore(recipe.run_folder) as store:
        return dict(train(open_world(recipe, store, qwen, pairs)).counts)


def stored(recipe: Recipe, policy: Policy, qwen: Path, pairs: list[Pair]) -> dict[str, list[float]]:
    """Return the stored log-probs of some pairs."""
    reference = ReferenceLogps(
        policy, recipe.video, {clip_key(pair): clip_request(pair, qwen) for pair in pairs}
    )
    with RunStore(recipe.run_folder) as store:
        return stored_logps(store, reference, [tokenize_pair(policy, pair) for pair in pairs])  # type: ignore[misc]


def key_of(
    policy: Policy, settings: VideoSettings, pair: Pair, qwen: Path, answer: str = "yes"
) -> str:
    reference = ReferenceLogps(policy, settings, {clip_key(pair): clip_request(pair, qwen)})
    tokens = tokenize_pair(policy, replace(pair, chosen=answer, rejected="quite another"))
    assert tokens is not None
    return reference.keys(tokens)[0]


@pytest.mark.parametrize("share", [True, False])
def test_before_the_first_step_the_stored_reference_agrees_exactly(
    qwen: Path, policy: Policy, share: bool
) -> None:
    recipe = make_recipe(qwen, name=f"zero{share}", epochs=1, share_prefix=share)
    assert train_here(recipe, qwen, make_pairs(4))["first"]["rewards/margins"] == 0.0
    assert len(stored(recipe, policy, qwen, make_pairs(4))) == 8


def test_other_training_settings_use_the_stored_values_and_run_no_reference(
    qwen: Path, policy: Policy
) -> None:
    """Values that were falsified stop the next training at its first step, so nothing was computed
    anew.
    """
    recipe = make_recipe(qwen, name="reuse", epochs=1)
    train_here(recipe, qwen, make_pairs(4))
    for number, other in enumerate(
        ({"beta": 0.5, "loss": ["ipo"]}, {"learning_rate": 1e-5, "share_prefix": False})
    ):
        again = make_recipe(qwen, name="reuse", epochs=1, **other)
        assert abs(train_here(again, qwen, make_pairs(4))["first"]["rewards/margins"]) < 1e-5, (
            number
        )
    with RunStore(recipe.run_folder) as store:
        for key, row in stored_rows(store).items():
            store.put(KIND, key, {"logps": [value - 1.0 for value in row]})
    with pytest.raises(RuntimeError, match="before the first step, policy and reference differ"):
        train_here(make_recipe(qwen, name="reuse", epochs=1, beta=0.3), qwen, make_pairs(4))
    assert stored(recipe, policy, qwen, make_pairs(4))


def stored_rows(store: RunStore) -> dict[str, list[float]]:
    return {key: row["logps"] for key, row in store.rows(KIND)}


CHANGES: dict[str, Callable[[Policy, VideoSettings, Pair], tuple[Policy, VideoSettings, Pair]]] = {
    "revision": lambda p, v, x: (replace(p, revision="other"), v, x),
    "quantize": lambda p, v, x: (
        replace(p, settings=p.settings.model_copy(update={"quantize": "nf4"})),
        v,
        x,
    ),
    "attention": lambda p, v, x: (
        replace(p, settings=p.settings.model_copy(update={"attention": "eager"})),
        v,
        x,
    ),
    "positions": lambda p, v, x: (
        replace(p, settings=p.settings.model_copy(update={"positions": "transformers"})),
        v,
        x,
    ),
    "dtype": lambda p, v, x: (replace(p, dtype=torch.bfloat16), v, x),
    "device": lambda p, v, x: (replace(p, device=torch.device("meta")), v, x),
    "family": lambda p, v, x: (replace(p, family=replace(p.family, name="other")), v, x),
    "frames per step": lambda p, v, x: (
        replace(p, family=replace(p.family, frames_per_step=4)),
        v,
        x,
    ),
    "start": lambda p, v, x: (p, v, replace(x, start=0.5)),
    "end": lambda p, v, x: (p, v, replace(x, end=2.0)),
    "question": lambda p, v, x: (p, v, replace(x, prompt="why ?")),
    "file": lambda p, v, x: (p, v, replace(x, video="c2.mp4")),
    **{
        name: lambda p, v, x, name=name, value=value: (p, v.model_copy(update={name: value}), x)  # type: ignore[misc]
        for name, value in {
            "policy": "fps",
            "num_frames": 4,
            "fps": 1.0,
            "min_frames": 2,
            "max_frames": 9,
            "change": 0.2,
            "min_pixels": 3136,
            "max_pixels": 50176,
            "cap_pixels": True,
            "max_tokens": 64,
            "reserve_tokens": 99,
            "decode_size": "model",
            "backend": "decord",
        }.items()
    },
}


@pytest.mark.parametrize("part", CHANGES)
def test_each_part_of_the_key_tells_rows_apart(qwen: Path, policy: Policy, part: str) -> None:
    settings, pair = VideoSettings(num_frames=6), make_pairs(2)[1]
    before = key_of(policy, settings, pair, qwen)
    assert key_of(policy, settings, pair, qwen) == before
    assert key_of(*CHANGES[part](policy, settings, pair), qwen) != before


def test_every_video_setting_is_in_the_key_or_only_changes_speed() -> None:
    speed = {"workers", "timeout", "max_clip_gb", "cache", "cache_gb", "cache_folder", "preset"}
    speed |= {"sound"}  # in the keys of models that hear alone, below
    assert set(VideoSettings.model_fields) - speed == set(CHANGES) & set(VideoSettings.model_fields)


def test_whether_a_clip_is_heard_is_in_the_key_of_a_model_that_hears(
    qwen: Path, policy: Policy
) -> None:
    sounding, silent = VideoSettings(num_frames=6), VideoSettings(num_frames=6, sound=False)
    pair = make_pairs(1)[0]
    hearing = plain_policy("qwen2_5_omni")
    keys = [key_of(hearing, settings, pair, qwen) for settings in (sounding, silent)]
    assert keys[0] != keys[1]
    deaf = [key_of(policy, settings, pair, qwen) for settings in (sounding, silent)]
    assert deaf[0] == deaf[1]


def test_the_answer_the_template_and_the_file_s_content_are_in_the_key(
    qwen: Path, tmp_path: Path
) -> None:
    policy, settings = load_policy(make_recipe(qwen).model), VideoSettings(num_frames=6)
    write_clip(tmp_path / "c0.mp4", 5, rate=2)
    pair = make_pairs(1)[0]
    keys = {
        key_of(policy, settings, pair, tmp_path),
        key_of(policy, settings, pair, tmp_path, answer="no"),
    }
    write_clip(tmp_path / "c0.mp4", 8, rate=2)
    keys.add(key_of(policy, settings, pair, tmp_path))
    policy.processor.chat_template = "Be brief. " + policy.processor.chat_template
    keys.add(key_of(policy, settings, pair, tmp_path))
    assert len(keys) == 4


def test_a_clip_that_is_not_there_has_a_key_of_its_own(policy: Policy, tmp_path: Path) -> None:
    settings, pair = VideoSettings(num_frames=6), make_pairs(1)[0]
    assert key_of(policy, settings, pair, tmp_path) != key_of(policy, settings, pair, tmp_path)


@pytest.mark.parametrize("ld_alpha", [None, 0.4])
def test_the_stored_values_give_what_trl_computes_in_the_step(
    qwen: Path, ld_alpha: float | None
) -> None:
    """Chosen and rejected differ in length, so ld_alpha weighs the tail of the longer one."""
    recipe = make_recipe(qwen, batch_size=4, trl={"ld_alpha": ld_alpha})
    pairs = make_pairs(5)
    with made_trainer(qwen, recipe, pairs) as (trainer, _):
        trainer.model.eval()
        batch = trainer._read([0, 1, 2, 3])
        assert batch is not None
        inputs = trainer._encode(batch)
        in_step = trainer.reference_logps(inputs, batch)
        requests = {pair.video: clip_request(pair, qwen) for pair in pairs}
        reference = ReferenceLogps(trainer._policy, recipe.video, requests)
        reference.add(
            trainer.compute_reference(
                [0, 1, 2, 3], split_batch=single_micro_batch, reference=reference
            )
        )
        trainer.reference = reference
        known = trainer.reference_logps(inputs, batch)
    assert all(torch.equal(one, other) for one, other in zip(in_step, known, strict=True))


def test_a_run_killed_in_the_reference_pass_goes_on_after_the_last_batch(
    qwen: Path, policy: Policy
) -> None:
    """SIGKILL right after the second batch of pairs was stored; the run then ends as one that
    nothing interrupted.
    """
    straight, recipe = (
        make_recipe(qwen, name="whole", epochs=1),
        make_recipe(qwen, name="torn", epochs=1),
    )
    train_here(straight, qwen, make_pairs())
    recipe.run_folder.mkdir(parents=True)
    write_jsonl(recipe.run_folder / "pairs.jsonl", make_pairs())
    file = qwen / "torn.json"
    file.write_text(recipe.model_dump_json())
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "reference_process.py"), str(file), str(qwen), "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    expected, before = (stored(one, policy, qwen, make_pairs()) for one in (straight, recipe))
    assert 0 < len(before) < len(expected)
    train_here(recipe, qwen, make_pairs())
    after = stored(recipe, policy, qwen, make_pairs())
    assert after.keys() == expected.keys()
    assert {key: after[key] for key in before} == before
    for key, values in expected.items():
        assert after[key] == pytest.approx(values, abs=1e-5)
    weights = [adapter_weights(one.run_folder / "adapter") for one in (recipe, straight)]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=1e-6, rtol=1e-4)


def test_evaluation_reuses_the_base_model_s_log_probs(qwen: Path, policy: Policy) -> None:
    """Values falsified by 1 nat per token of the chosen answers move each margin by beta x their
    tokens.
    """
    recipe, pairs = make_recipe(qwen, name="evaluated", epochs=1), make_pairs(4)
    train_here(recipe, qwen, pairs)
    with RunStore(recipe.run_folder) as store:
        run = open_world(recipe, store, qwen, pairs)
        before = stored_rows(store)
        margins = reward_margins(run, pairs)
        assert stored_rows(store) == before
        reference = ReferenceLogps(
            policy, recipe.video, {pair.video: clip_request(pair, qwen) for pair in pairs}
        )
        tokens = [tokenize_pair(policy, pair) for pair in pairs]
        for pair in tokens:
            key = reference.keys(pair)[0]  # type: ignore[arg-type]
            store.put(KIND, key, {"logps": [value - 1.0 for value in before[key]]})
        moved = reward_margins(run, pairs)
    for pair, one, other in zip(tokens, margins, moved, strict=True):
        assert other.margin - one.margin == pytest.approx(
            recipe.train.beta * len(pair.chosen), abs=1e-4
        )  # type: ignore[union-attr]
