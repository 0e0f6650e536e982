"""A tiny policy, real clips and pairs about them: what training tests start from."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from clips import write_clip
from tiny_models import Kind, tiny_policy

from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.library_warnings import quiet_libraries
from dpo_video.core.records import Pair
from dpo_video.models.clip_source import open_source
from dpo_video.models.load import load_policy
from dpo_video.models.lora import lora_config
from dpo_video.recipe import (
    DataSettings,
    JudgeSettings,
    LoraSettings,
    ModelSettings,
    Recipe,
    TrainSettings,
    VideoSettings,
)
from dpo_video.run import Run
from dpo_video.store import RunStore
from dpo_video.tracking import Tracker
from dpo_video.train.dpo_config import dpo_config
from dpo_video.train.forward import Engine, rows_engine
from dpo_video.train.pair_batches import read_batch, tokenize_pair
from dpo_video.train.prefetch import ClipPrefetcher
from dpo_video.train.sampler import ClipSampler
from dpo_video.train.trainer import TrainingData, VideoDPOTrainer
from dpo_video.video import clip_key, clip_request, rejected_clip_key, rejected_clip_request

KINDS: tuple[Kind, ...] = ("qwen2_5_vl", "llava_next_video")
FRAMES = (5, 14, 30)
"""Frames of the clips c0.mp4, c1.mp4, c2.mp4 at 2 frames per second: 2.5, 7 and 15 seconds."""
ANSWERS = [
    "a red square",
    "the man is cooking pasta",
    "yes",
    "no left right up",
    "blue green circle moves to the right over a dark background",
]


def make_world(folder: Path, kind: Kind) -> Path:
    """Write the checkpoint `model` and three clips into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_policy(kind, folder / "model")
    for number, frames in enumerate(FRAMES):
        write_clip(folder / f"c{number}.mp4", frames, rate=2)
    return folder


def make_pairs(count: int = 7) -> list[Pair]:
    """Return pairs over the three clips, two questions each, answers of different lengths."""
    return [
        Pair(
            sample_id=f"s{number}",
            video=f"c{number % 3}.mp4",
            chosen=ANSWERS[number % 5],
            prompt="what happens in the clip ?" if number % 2 else "describe the video",
            rejected=ANSWERS[(number + 1 + number // 5) % 5],
            chosen_score=1.0,
            rejected_score=0.0,
            source="test",
            chosen_id=f"s{number}#0",
            rejected_id=f"s{number}#1",
        )
        for number in range(count)
    ]


def make_recipe(
    world: Path,
    *,
    name: str = "r",
    quantize: str = "none",
    video: dict[str, Any] | None = None,
    **train: Any,
) -> Recipe:
    """Return a recipe over a world: 6 steps of 2 x 2 pairs over 3 epochs."""
    settings: dict[str, Any] = {
        "batch_size": 2,
        "gradient_accumulation": 2,
        "epochs": 3,
        "learning_rate": 1e-3,
        "save_steps": 2,
        "logging_steps": 1,
        "lora": LoraSettings(rank=8, alpha=8),
        **train,
    }
    return Recipe(
        name=name,
        runs_folder=str(world / "runs"),
        data=DataSettings(samples="none.jsonl"),
        seed=3,
        model=ModelSettings(name=str(world / "model"), device="cpu", quantize=quantize),
        judge=JudgeSettings(model="none"),
        train=TrainSettings(**settings),
        video=VideoSettings(**{"num_frames": 6, "workers": 1, **(video or {})}),
    )


def open_run(recipe: Recipe, store: RunStore, world: Path, pairs: Sequence[Pair]) -> Run:
    """Return a run whose pairs.jsonl holds `pairs`."""
    run = Run(
        recipe=recipe,
        store=store,
        samples=[],
        heldout=[],
        video_root=world,
        heldout_root=world,
        tracker=Tracker(),
    )
    write_jsonl(run.folder / "pairs.jsonl", pairs)
    return run


def adapter_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return an adapter's parameters by name."""
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


@contextmanager
def made_trainer(
    world: Path,
    recipe: Recipe,
    pairs: Sequence[Pair],
    *,
    order: ClipSampler | None = None,
    engine: Engine = rows_engine,
) -> Iterator[tuple[VideoDPOTrainer, ClipPrefetcher]]:
    """Give a trainer that saves nothing, over the pairs in the order of their hashes or another,
    and its reader.
    """
    policy = load_policy(recipe.model)
    tokens = [tokenize_pair(policy, pair) for pair in pairs]
    order = order or ClipSampler(
        [clip_key(pair) for pair in pairs],
        batch_size=recipe.train.batch_size,
        rejected_clips=[rejected_clip_key(pair) for pair in pairs],
        seed=recipe.seed,
    )
    requests = {clip_key(pair): clip_request(pair, world) for pair in pairs}
    requests |= {rejected_clip_key(pair): rejected_clip_request(pair, world) for pair in pairs}
    with quiet_libraries(), open_source(policy, recipe) as source:
        reader = ClipPrefetcher(source, requests, order.clips_ahead, on_bad_clip=fail)
        args = dpo_config(recipe, output_dir=world / "out", precision="no", use_cpu=True)
        args.save_strategy = "no"
        data = TrainingData(
            order=order,
            engine=engine,
            read=lambda places: read_batch(
                policy, reader, [tokens[place] for place in places], max_length=4096
            ),
        )
        yield (
            VideoDPOTrainer(
                policy,
                args=args,
                peft_config=lora_config(recipe.train.lora, policy.family),
                data=data,
            ),
            reader,
        )


def fail(clip: str, error: Exception) -> None:
    """Stop at the first clip that cannot be read."""
    raise error
