"""Training in several processes: the weights of one that takes all shares, one stop for all bad
clips, FSDP.
"""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import get_peft_model_state_dict
from tiny_world import adapter_weights, make_pairs, make_recipe
from training import read_log, train_apart, train_here
from two_processes import both_shares_in_one_process, launched

from dpo_video.core.jsonl import write_jsonl
from dpo_video.models.load import load_policy
from dpo_video.recipe import Recipe
from dpo_video.train.sampler import ClipSampler

BUDGETS = (None, 150)


@pytest.fixture(scope="module")
def shared(qwen: Path) -> dict[str, Recipe]:
    """Runs by name, done by two processes of one launch, as starting them takes longer than
    training: one that had to stop for its clips and went on without them, and one a token budget.
    """
    pairs = make_pairs(6)
    gone = [
        replace(pair, video=pair.video.replace("c", "gone")) if pair.video != "c0.mp4" else pair
        for pair in pairs
    ]
    stopped = make_recipe(
        qwen,
        name="both-gone",
        epochs=1,
        gradient_accumulation=1,
        batch_size=1,
        trl={"ddp_timeout": 120},
    )
    cut = [
        make_recipe(
            qwen, name=f"two-{budget}", epochs=1, gradient_accumulation=1, tokens_per_batch=budget
        )
        for budget in BUDGETS
    ]
    for recipe, rows in ((stopped, gone), *((recipe, make_pairs()) for recipe in cut)):
        recipe.run_folder.mkdir(parents=True)
        write_jsonl(recipe.run_folder / "pairs.jsonl", rows)
    code, said = train_apart([stopped, stopped, *cut], qwen, launcher=launched("ddp.yaml"))
    assert code != 0 and len(re.findall("dpo-video: ", said)) == 2, said[-3000:]
    assert said.count("(and 1 more clips)") == 2, "both processes stop, and once"
    return {recipe.name: recipe for recipe in (stopped, *cut)}


def test_two_processes_stop_once_for_all_clips_that_cannot_be_read(
    shared: dict[str, Recipe],
) -> None:
    """c1 and c2 are on different ranks or the same; the first try meets both, the next trains on
    c0.
    """
    assert [row["step"] for row in read_log(shared["both-gone"])] == [1]


@pytest.mark.parametrize(("budget", "largest_margin"), zip(BUDGETS, (0.0, 1e-6), strict=True))
def test_two_processes_end_with_the_weights_of_one_that_takes_both_shares(
    qwen: Path, shared: dict[str, Recipe], budget: int | None, largest_margin: float
) -> None:
    """7 pairs in shares of 4 and 4 (one comes again): both ranks hold the same weights, those of a
    single process with two batches a step, also where forwards are cut by tokens, on both alike;
    rank 0 alone writes the run folder.
    """
    recipe = shared[f"two-{budget}"]
    log = read_log(recipe)
    assert [row["step"] for row in log] == [1, 2]
    # cut by tokens, an answer's stored reference may come from a forward of another shape:
    # rounding, 1.9e-7 seen
    assert abs(log[0]["rewards/margins"]) <= largest_margin
    assert not (recipe.run_folder / "lock").exists()
    ranks = [torch.load(qwen / f"{recipe.name}-rank{rank}.pt")["weights"] for rank in (0, 1)]
    for name, weight in both_shares_in_one_process(qwen).items():
        assert torch.equal(ranks[0][name], ranks[1][name])
        torch.testing.assert_close(ranks[0][name], weight, atol=1e-6, rtol=1e-4)


def test_fsdp_ends_with_the_weights_of_one_process_also_when_stopped(qwen: Path) -> None:
    """The language model's weights lie in shares in two processes, the tower whole in both. One of
    them knows the reference of all its pairs beforehand and must join the other's forwards; both
    are stopped after step 2, before its checkpoint, and resume from step 1."""
    recipe = make_recipe(
        qwen,
        name="fsdp",
        epochs=1,
        gradient_accumulation=1,
        save_steps=1,
        gradient_checkpointing=True,
    )
    pairs = make_pairs()
    share = ClipSampler(
        [pair.video for pair in pairs], batch_size=2, seed=recipe.seed, process=0, num_processes=2
    )
    train_here(recipe, qwen, [pairs[place] for batch in share for place in batch])
    write_jsonl(recipe.run_folder / "pairs.jsonl", pairs)
    code, said = train_apart([recipe], qwen, "", "2", launcher=launched("fsdp2.yaml"))
    assert code == 0, said[-3000:]
    assert re.search(r"train: going on from \S+checkpoint-1\b", said), said[-3000:]
    log = read_log(recipe)
    assert [row["step"] for row in log] == [1, 2]
    assert (
        abs(log[0]["rewards/margins"]) <= 1e-6
    )  # stored log-probs come from forwards of another shape
    ranks = [torch.load(qwen / f"fsdp-rank{rank}.pt") for rank in (0, 1)]
    names = [name for name, _ in load_policy(recipe.model).model.named_parameters()]
    sharded = {
        name.removeprefix("base_model.model.").replace("base_layer.", "")
        for name in ranks[0]["sharded"]
        if ".lora_" not in name
    }
    assert sharded == {name for name in names if "language_model" in name} != set(names)
    written = adapter_weights(recipe.run_folder / "adapter")
    tuned = load_policy(recipe.model, adapter=recipe.run_folder / "adapter")
    loaded = get_peft_model_state_dict(tuned.model)
    single = both_shares_in_one_process(qwen)
    assert single.keys() == written.keys() == loaded.keys() == ranks[0]["weights"].keys()
    for name, weight in single.items():
        same = (ranks[1]["weights"][name], written[name], loaded[name])
        assert all(torch.equal(ranks[0]["weights"][name], other) for other in same)
        torch.testing.assert_close(written[name], weight, atol=1e-6, rtol=1e-4)
