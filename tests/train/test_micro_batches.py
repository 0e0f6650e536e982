"""Batches by tokens: the same pairs, losses and weights as batches by count, and no forward over
the budget.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model_state_dict
from tiny_models import Kind
from tiny_world import fail, make_pairs, make_recipe, make_world
from training import TIMED

from dpo_video.core.errors import UserError
from dpo_video.core.library_warnings import quiet_libraries
from dpo_video.core.records import Pair
from dpo_video.models.clip_source import open_source
from dpo_video.models.load import load_policy
from dpo_video.models.lora import lora_config
from dpo_video.recipe import Recipe
from dpo_video.train.dpo_config import check_train_settings, dpo_config, pairs_per_read
from dpo_video.train.micro_batches import (
    PairCost,
    forward_tokens,
    micro_batch_sizes,
    pair_costs,
    pair_weights,
    rows_tokens,
    single_micro_batch,
    split_by_tokens,
)
from dpo_video.train.pair_batches import PairBatch, read_batch, tokenize_pair
from dpo_video.train.prefetch import ClipPrefetcher
from dpo_video.train.sampler import ClipSampler
from dpo_video.train.shared_prefix import choose_engine
from dpo_video.train.trainer import TrainingData, VideoDPOTrainer
from dpo_video.video import clip_request


def run(
    world: Path, recipe: Recipe, pairs: Sequence[Pair]
) -> tuple[list[dict[str, Any]], dict[str, Any], list[PairBatch]]:
    """Train; return the log, the adapter, and the pairs of every forward."""
    policy, settings = load_policy(recipe.model), recipe.train
    tokens = [tokenize_pair(policy, pair) for pair in pairs]
    order = ClipSampler(
        [pair.video for pair in pairs], batch_size=pairs_per_read(settings), seed=recipe.seed
    )
    forwards: list[PairBatch] = []
    cut = (
        single_micro_batch
        if settings.tokens_per_batch is None
        else split_by_tokens(
            settings.tokens_per_batch, shared=settings.share_prefix, batch_size=settings.batch_size
        )
    )

    def watched(batch: PairBatch) -> Any:
        made = cut(batch)
        forwards.extend(part.pairs for part in made)
        return made

    with quiet_libraries(), open_source(policy, recipe) as source:
        reader = ClipPrefetcher(
            source,
            {pair.video: clip_request(pair, world) for pair in pairs},
            order.clip_groups,
            on_bad_clip=lambda clip, error: None if clip == "gone.mp4" else fail(clip, error),
        )
        args = dpo_config(recipe, output_dir=world / "out", precision="no", use_cpu=True)
        args.save_strategy = "no"
        data = TrainingData(
            order=order,
            split_batch=watched,
            engine=choose_engine(policy, share_prefix=settings.share_prefix),
            read=lambda places: read_batch(
                policy,
                reader,
                [tokens[place] for place in places],  # type: ignore[misc]
                max_length=4096,
            ),
        )
        trainer = VideoDPOTrainer(
            policy, args=args, peft_config=lora_config(settings.lora, policy.family), data=data
        )
        trainer.train()
        log = [row for row in trainer.state.log_history if "loss" in row]
        return log, get_peft_model_state_dict(trainer.model), forwards


def assert_equal_runs(one: Any, other: Any) -> None:
    assert len(one[0]) == len(other[0]) > 0
    for row, same in zip(one[0], other[0], strict=True):
        for name in (
            "loss",
            "rewards/margins",
            "rewards/chosen",
            "learning_rate",
            "grad_norm",
            "num_tokens",
        ):
            assert row[name] == pytest.approx(same[name], abs=1e-4), name
    assert max(abs(row["rewards/margins"]) for row in one[0]) > 1e-2, (
        "nothing was learnt: the comparison is empty"
    )
    for name, weight in one[1].items():
        torch.testing.assert_close(weight, other[1][name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "kind, share", [("qwen2_5_vl", True), ("qwen2_5_vl", False), ("llava_next_video", True)]
)
def test_a_run_cut_by_tokens_equals_the_run_cut_by_count(
    tmp_path: Path, kind: Kind, share: bool
) -> None:
    """7 pairs in steps of 2 x 2: the last step has a forward of 2 and one of 1, which count the
    same.
    """
    pairs, world = make_pairs(7), make_world(tmp_path, kind)
    plain = run(world, make_recipe(world, share_prefix=share), pairs)
    largest = max(forward_tokens(pair_costs(one), shared=share) for one in plain[2])
    for budget in (largest, 10 * largest):
        cut = run(world, make_recipe(world, share_prefix=share, tokens_per_batch=budget), pairs)
        assert_equal_runs(cut, plain)
        assert all(forward_tokens(pair_costs(one), shared=share) <= budget for one in cut[2])
        sizes = [len(one.pairs) for one in cut[2]]
        assert sum(sizes) == 21 and (max(sizes) == 4) == (budget > largest), sizes
        assert len(set(sizes)) > 1


def test_a_clip_that_cannot_be_read_weighs_as_in_batches_by_count(qwen: Path) -> None:
    pairs = [
        replace(pair, video="gone.mp4") if pair.video == "c1.mp4" else pair
        for pair in make_pairs(7)
    ]
    plain = run(qwen, make_recipe(qwen), pairs)
    cut = run(qwen, make_recipe(qwen, tokens_per_batch=100_000), pairs)
    for row, same in zip(cut[0], plain[0], strict=True):
        assert row["loss"] == pytest.approx(same["loss"], abs=1e-4)
    for name, weight in cut[1].items():
        torch.testing.assert_close(weight, plain[1][name], atol=1e-4, rtol=1e-3)


def test_the_log_tells_speed_lengths_sharing_and_distance(qwen: Path) -> None:
    """What does not depend on the clock, recomputed from the forwards; KL starts at 0 and grows."""
    log, _, forwards = run(
        qwen, make_recipe(qwen, epochs=2, tokens_per_batch=10_000), make_pairs(7)
    )
    assert all(row[name] > 0 for row in log for name in TIMED)
    assert log[0]["kl"] == pytest.approx(0, abs=1e-6) and 0 < log[-1]["kl"] < 1
    first = forwards[0]
    rows = rows_tokens(first)
    assert log[0]["tokens_saved"] == pytest.approx(
        1 - forward_tokens(pair_costs(first), shared=True) / rows
    )
    assert log[0]["num_tokens"] == rows
    assert log[0]["length/chosen"] == pytest.approx(
        sum(len(pair.chosen) for pair in first.pairs) / len(first.pairs)
    )
    video = sum(len(one.embeddings) for one in first.features)
    assert log[0]["video_tokens"] == pytest.approx(video / len(first.clips))
    assert 0 <= log[-1]["data_wait"] < 1


sizes = st.builds(
    PairCost,
    clip=st.sampled_from("ab"),
    question=st.sampled_from("xy"),
    prompt=st.just(30),
    stem=st.just(20),
    answers=st.tuples(*[st.lists(st.integers(0, 1), min_size=1, max_size=5).map(tuple)] * 2),
)


@given(
    st.integers(1, 12).flatmap(
        lambda count: st.lists(
            st.lists(sizes, min_size=count, max_size=count), min_size=1, max_size=3
        )
    ),
    st.integers(70, 300),
    st.booleans(),
)
def test_every_forward_fits_and_could_take_no_further_pair(
    by_process: list[list[PairCost]], budget: int, shared: bool
) -> None:
    counts = micro_batch_sizes(by_process, budget=budget, shared=shared)
    assert sum(counts) == len(by_process[0]) and min(counts) > 0
    begin = 0
    for count in counts:
        parts = [own[begin : begin + count] for own in by_process]
        assert all(forward_tokens(part, shared=shared) <= budget for part in parts)
        more = [own[begin : begin + count + 1] for own in by_process]
        if begin + count < len(by_process[0]):
            assert any(forward_tokens(part, shared=shared) > budget for part in more)
        begin += count


@given(st.lists(sizes, min_size=1, max_size=8))
def test_shared_tokens_are_those_of_the_tree_of_whole_segments(pairs: list[PairCost]) -> None:
    """The slow way: every token of every row by the path to it, answers being told apart as
    wholes.
    """
    nodes = set()
    for size in pairs:
        for answer in size.answers:
            nodes |= {(size.clip, place) for place in range(size.stem)}
            nodes |= {(size.clip, size.question, place) for place in range(size.stem, size.prompt)}
            nodes |= {(size.clip, size.question, answer, place) for place in range(len(answer))}
    assert forward_tokens(pairs, shared=True) == len(nodes)


def test_a_pair_over_the_budget_alone_names_the_clip_its_tokens_and_what_helps() -> None:
    size = PairCost("c7.mp4", "q", 30, 20, ((1,), (2, 3)))
    for shared, tokens in ((True, 33), (False, 64)):
        with pytest.raises(
            UserError,
            match=rf"clip 'c7\.mp4' takes {tokens} tokens, more than "
            r"train\.tokens_per_batch 32\. Raise it, or lower video\.max_tokens",
        ):
            micro_batch_sizes([[size]], budget=32, shared=shared)


@pytest.mark.parametrize(
    "places, batch_size, asked, expected",
    [
        ([0, 1, 2, 3], 2, 4, [1 / 4] * 4),
        ([0, 1, 2], 2, 3, [1 / 4, 1 / 4, 1 / 2]),
        ([0, 2, 3], 2, 4, [1 / 2, 1 / 4, 1 / 4]),
        ([0, 1], 2, 4, [1 / 4, 1 / 4]),
    ],
)
def test_a_pair_weighs_as_trl_averages_forwards_of_batch_size(
    places: list[int], batch_size: int, asked: int, expected: list[float]
) -> None:
    """The last: of two forwards one lost all its pairs, and the other still counts for half of the
    step.
    """
    batch = PairBatch(
        clips=[],
        features=[],
        clip_of_pair=[0] * len(places),
        prompts=[],
        pairs=[],
        indices=places,
        rejected_clip_of_pair=[0] * len(places),
        rejected_prompts=[],
        num_requested=asked,
    )
    assert pair_weights(batch, batch_size) == expected


def test_losses_that_sort_a_forward_s_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'aot' sorts the pairs.*Unset it"):
        check_train_settings(make_recipe(tmp_path, loss=["aot"], tokens_per_batch=100))


@pytest.mark.parametrize(
    "setting, parameters, expected",
    [
        ("auto", 2_999_999_999, False),
        ("auto", 3_000_000_000, True),
        (True, 10, True),
        (False, 10**10, False),
    ],
)
def test_checkpointing_is_on_from_three_billion_parameters(
    setting: bool | str, parameters: int, expected: bool, tmp_path: Path
) -> None:
    recipe = make_recipe(tmp_path, gradient_checkpointing=setting)
    made = dpo_config(
        recipe, output_dir=tmp_path, precision="no", use_cpu=True, num_parameters=parameters
    )
    assert made.gradient_checkpointing == expected


def test_activation_offloading_reaches_trl_and_needs_a_gpu(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, activation_offloading=True)
    assert dpo_config(
        recipe, output_dir=tmp_path, precision="no", use_cpu=False
    ).activation_offloading
    with pytest.raises(UserError, match=r"`train\.activation_offloading` .* Unset it"):
        dpo_config(recipe, output_dir=tmp_path, precision="no", use_cpu=True)
