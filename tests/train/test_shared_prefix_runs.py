"""Whole DPO runs and every loss of TRL are the same through shared prefixes as through rows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import get_peft_model_state_dict
from tiny_world import made_trainer, make_pairs, make_recipe
from torch import Tensor

from dpo_video.core.records import Pair
from dpo_video.models.lora import adapter_parameters
from dpo_video.recipe import Recipe
from dpo_video.train.dpo_config import LOSSES
from dpo_video.train.forward import Engine, rows_engine
from dpo_video.train.shared_prefix import shared_prefix_engine
from dpo_video.train.trainer import VideoDPOTrainer


@pytest.fixture
def pairs() -> list[Pair]:
    """14 pairs over 3 clips; answers of a question stand in several pairs."""
    made = make_pairs(7)
    return [
        *made,
        *(
            replace(pair, sample_id=f"t{number}", rejected=made[(number + 2) % 7].rejected + " no")
            for number, pair in enumerate(made)
        ),
    ]


@contextmanager
def trainer_on(
    engine: Engine, world: Path, recipe: Recipe, pairs: Sequence[Pair]
) -> Iterator[VideoDPOTrainer]:
    """Give a trainer whose loss is answered by `engine`."""
    with made_trainer(world, recipe, pairs, engine=engine) as (trainer, _):
        yield trainer


def run_dpo(
    engine: Engine, world: Path, pairs: Sequence[Pair]
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Return the log and the adapter of 20 steps of 4 pairs."""
    recipe = make_recipe(world, batch_size=4, gradient_accumulation=1, epochs=5)
    with trainer_on(engine, world, recipe, pairs) as trainer:
        trainer.train()
        return (
            [row for row in trainer.state.log_history if "loss" in row],
            {
                name: weight.clone()
                for name, weight in get_peft_model_state_dict(trainer.model).items()
            },
        )


def test_twenty_steps_of_dpo_equal_those_on_rows(world: Path, pairs: list[Pair]) -> None:
    shared, weights = run_dpo(shared_prefix_engine, world, pairs)
    plain, plain_weights = run_dpo(rows_engine, world, pairs)
    assert len(shared) == len(plain) == 20
    for row, other in zip(shared, plain, strict=True):
        for name in (
            "loss",
            "rewards/margins",
            "rewards/accuracies",
            "rewards/chosen",
            "logps/rejected",
            "entropy",
            "logits/chosen",
            "mean_token_accuracy",
            "grad_norm",
        ):
            assert row[name] == pytest.approx(other[name], abs=1e-4, rel=1e-4), name
    assert shared[0]["rewards/margins"] == shared[0]["rewards/chosen"] == 0.0
    assert max(abs(row["rewards/margins"]) for row in plain) > 1e-2, (
        "nothing was learnt: the comparison is empty"
    )
    for name, weight in plain_weights.items():
        torch.testing.assert_close(weights[name], weight, atol=1e-4, rtol=0)


def test_every_loss_of_trl_is_the_same_through_both_engines(world: Path, pairs: list[Pair]) -> None:
    """Also with WPO's weights, which read another field, where TRL 1.16 can weigh the loss."""
    current: list[Engine] = []
    recipe = make_recipe(
        world, batch_size=6, trl={"label_smoothing": 1e-3, "use_weighting": True, "ld_alpha": 0.5}
    )
    with trainer_on(
        lambda *args, **kwargs: current[-1](*args, **kwargs), world, recipe, pairs
    ) as trainer:
        for name, parameter in adapter_parameters(trainer.model):
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        batch = {"pairs": trainer._read(next(iter(trainer.order)))}
        trainer.model.train()
        trainer._started = True
        for loss_type, trainer.use_weighting in [
            *((name, False) for name in LOSSES),
            ("sigmoid", True),
        ]:
            trainer.loss_types, trainer.loss_weights = [loss_type], [1.0]
            losses = []
            for engine in (shared_prefix_engine, rows_engine):
                current.append(engine)
                trainer._metrics["train"].clear()
                with torch.no_grad():
                    losses.append(float(trainer.compute_loss(trainer.model, batch)))
            assert losses[0] == pytest.approx(losses[1], abs=1e-5, rel=1e-5), loss_type
