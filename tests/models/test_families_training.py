"""The conformance suite's part about training: shared prefixes, and three steps of DPO on real
clips.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from clips import write_clip
from family_cases import each_family, family_folder, tuned_family
from peft import PeftModel
from tiny_world import fail, make_recipe
from trees import LONG, adapter_grads, answer_part, plain_logps, rows_of, run_engine

from dpo_video.core.library_warnings import quiet_libraries
from dpo_video.core.records import Pair
from dpo_video.models.clip_source import open_source
from dpo_video.models.collate import TokenRow
from dpo_video.models.families import FAMILIES
from dpo_video.models.load import load_policy
from dpo_video.models.lora import adapter_parameters, lora_config
from dpo_video.models.shared_prefix.packed_rows import why_not_shared
from dpo_video.recipe import Recipe
from dpo_video.train.dpo_config import dpo_config
from dpo_video.train.forward import rows_engine
from dpo_video.train.fsdp import shard_language_only
from dpo_video.train.pair_batches import read_batch, tokenize_pair
from dpo_video.train.prefetch import ClipPrefetcher
from dpo_video.train.sampler import ClipSampler
from dpo_video.train.shared_prefix import choose_engine, shared_prefix_engine
from dpo_video.train.trainer import TrainingData, VideoDPOTrainer
from dpo_video.video import clip_request

STEPS = 3


def some_rows(family: str) -> list[TokenRow]:
    """Return rows of two clips with several questions and answers of different lengths."""
    return rows_of(
        tuned_family(family),
        (
            {"count": 4, "height": 56, "width": 112},
            {"what happens ?": ["yes", LONG, "no"], "who ?": ["the man"]},
        ),
        ({"count": 2, "height": 112, "width": 56}, {"what ?": ["yes", "a red square"]}),
    )


@each_family
def test_shared_prefix_equals_rows(family: str) -> None:
    """Log-probs and gradients of the engine that training takes are those of separate plain
    forwards.
    """
    policy = tuned_family(family)
    assert (why_not_shared(policy) is None) == FAMILIES[family].shared_prefix
    rows = some_rows(family)
    got = answer_part(rows, run_engine(policy, choose_engine(policy), rows).log_probs)
    expected = [plain_logps(policy, row) for row in rows]
    torch.testing.assert_close(torch.cat(got), torch.cat(expected), atol=5e-5, rtol=0)
    weights = [torch.linspace(-1, 2, len(row.answer)) for row in rows]
    mine, theirs = (
        adapter_grads(
            policy,
            torch.stack(
                [(weight * value).sum() for weight, value in zip(weights, values, strict=True)]
            ).mean(),
        )
        for values in (got, expected)
    )
    assert max(float(grad.abs().max()) for grad in theirs.values()) > 0.1
    for name, grad in theirs.items():
        torch.testing.assert_close(mine[name], grad, atol=2e-4, rtol=1e-3)


@each_family
def test_fsdp_shards_the_language_model_and_its_layers_only(family: str) -> None:
    """What is frozen beside it stays whole; the adapter is sharded wherever it sits."""
    policy = tuned_family(family)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    shard_language_only(plugin, policy.bare)
    whole = {id(weight) for weight in plugin.ignored_modules[0]}
    for name, weight in policy.bare.named_parameters():
        sharded = re.search(
            r"language_model\.|text_model\.layers|text_model\.(embed|norm)|^lm_head|\.lora_", name
        )
        assert (id(weight) in whole) == (sharded is None), name
    wrapped = [
        name
        for name, module in policy.bare.named_modules()
        if type(module).__name__ in plugin.transformer_cls_names_to_wrap
    ]
    assert len(wrapped) == policy.bare.config.get_text_config().num_hidden_layers
    assert all(re.search(r"(language_model|text_model)\.layers\.\d+$", name) for name in wrapped)


@pytest.mark.parametrize(
    "family", sorted(name for name, row in FAMILIES.items() if not row.shared_prefix)
)
def test_a_family_that_declares_sharing_off_needs_to(family: str) -> None:
    """Packed all the same, answers would read what they must not, or the model would refuse."""
    policy, rows = tuned_family(family), some_rows(family)
    with torch.no_grad():
        rows_only = answer_part(rows, run_engine(policy, rows_engine, rows).log_probs)
        try:
            packed = answer_part(rows, run_engine(policy, shared_prefix_engine, rows).log_probs)
        except (RuntimeError, AssertionError, ValueError, IndexError):
            return
    assert float((torch.cat(packed) - torch.cat(rows_only)).abs().max()) > 1e-3


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a folder of two short clips, for all families."""
    folder = tmp_path_factory.mktemp("clips")
    for number, frames in enumerate((6, 8)):
        write_clip(folder / f"c{number}.mp4", frames, rate=2, size=(128, 64))
    yield folder


PAIRS = [
    Pair(
        sample_id=f"s{number}",
        video=f"c{number % 2}.mp4",
        chosen=chosen,
        rejected=rejected,
        chosen_score=1.0,
        prompt="what happens ?",
        rejected_score=0.0,
        source="test",
        chosen_id=f"s{number}#0",
        rejected_id=f"s{number}#1",
    )
    for number, (chosen, rejected) in enumerate(
        [
            ("a red square", "no"),
            ("yes", "the man is cooking"),
            ("the man", "a red"),
            ("no", "yes yes"),
            ("left right", "up"),
            ("blue green", "circle"),
        ]
    )
]


def recipe_for(family: str, clips: Path, out: Path) -> Recipe:
    recipe = make_recipe(
        out,
        batch_size=1,
        gradient_accumulation=2,
        epochs=1,
        learning_rate=1e-3,
        video={"num_frames": 4},
    )
    return recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"name": str(family_folder(family))})}
    )


@each_family
def test_three_dpo_steps_change_the_adapter_and_nothing_else(
    family: str, clips: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(family, clips, tmp_path)
    policy = load_policy(recipe.model)
    tokens = [tokenize_pair(policy, pair) for pair in PAIRS]
    order = ClipSampler([pair.video for pair in PAIRS], batch_size=1, seed=0)
    frozen = {name: parameter.clone() for name, parameter in policy.bare.named_parameters()}
    with quiet_libraries(), open_source(policy, recipe) as source:
        reader = ClipPrefetcher(
            source,
            {pair.video: clip_request(pair, clips) for pair in PAIRS},
            order.clips_ahead,
            on_bad_clip=fail,
        )
        args = dpo_config(recipe, output_dir=tmp_path / "out", precision="no", use_cpu=True)
        args.save_strategy = "no"
        trainer = VideoDPOTrainer(
            policy,
            args=args,
            peft_config=lora_config(recipe.train.lora, policy.family),
            data=TrainingData(
                order=order,
                engine=choose_engine(policy),
                read=lambda places: read_batch(
                    policy, reader, [tokens[place] for place in places], max_length=4096
                ),
            ),
        )
        before = {name: parameter.clone() for name, parameter in adapter_parameters(trainer.model)}
        trainer.train()
    assert trainer.state.global_step == STEPS
    assert isinstance(trainer.model, PeftModel)
    after = dict(adapter_parameters(trainer.model))
    assert before and not [name for name in before if torch.equal(before[name], after[name])]
    kept = {
        re.sub(r"\.base_layer\.", ".", name.removeprefix("base_model.model.")): parameter
        for name, parameter in trainer.model.named_parameters()
        if ".lora_" not in name
    }
    assert kept.keys() == frozen.keys()
    assert not [name for name in frozen if not torch.equal(frozen[name], kept[name])]
