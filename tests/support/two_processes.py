"""Training in two processes: how it is launched, and what one process with the batches of both ends
with.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import torch
from peft import get_peft_model_state_dict
from tiny_world import made_trainer, make_pairs, make_recipe

from dpo_video.train.sampler import ClipSampler

CONFIGS = Path(__file__).parents[2] / "recipes" / "accelerate"


def launched(config: str) -> tuple[str, ...]:
    """Return the words of a launch by a shipped file: torchrun, on CPUs with gloo; accelerate's
    --cpu starts a single process unless there is mpirun.
    """
    launch = ("-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config))
    return (*launch, "--main_process_port", "0")


class Interleaved(ClipSampler):
    """The batches of two processes in turn, for one process that takes two batches a step."""

    def __iter__(self) -> Iterator[list[int]]:
        shares = [
            ClipSampler(
                self.clips,
                batch_size=self.batch_size,
                seed=self.seed,
                process=process,
                num_processes=2,
            )
            for process in (0, 1)
        ]
        return iter([batch for together in zip(*shares, strict=True) for batch in together])

    def clip_groups(self, epoch: int | None = None) -> list[tuple[str, ...]]:
        return [
            (clip,) for clip, _ in groupby(self.clips[place] for batch in self for place in batch)
        ]

    def __len__(self) -> int:
        return len(list(iter(self)))


def both_shares_in_one_process(qwen: Path) -> dict[str, torch.Tensor]:
    """Return the adapter of a single process that takes the batches of two as the two batches of
    each step.
    """
    alone = make_recipe(qwen, name="one", epochs=1, gradient_accumulation=2)
    order = Interleaved([pair.video for pair in make_pairs()], batch_size=2, seed=alone.seed)
    with made_trainer(qwen, alone, make_pairs(), order=order) as (trainer, _):
        trainer.train()
        return {
            name: weight.detach()
            for name, weight in get_peft_model_state_dict(trainer.model).items()
        }
