"""How long training waits for clips: real files, decoded in worker processes beside the step, over
whole epochs.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from bench.case import Case, clip_size, make_pairs, make_policy
from bench.clips import write_clip
from dpo_video.recipe import (
    DataSettings,
    JudgeSettings,
    LoraSettings,
    Recipe,
    TrainSettings,
    VideoSettings,
)
from dpo_video.train.run_trainer import TrainingJob, train_adapter
from dpo_video.train.selection import Selection
from dpo_video.video import ClipRequest

CLIPS, EPOCHS = 3, 3
SECONDS, RATE, WIDTH, HEIGHT = 16, 30, 640, 360


class _Logs(TrainerCallback):
    """Keeps each step's seconds and the share of them spent waiting."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "data_wait" in logs:
            self.rows.append((1 / logs["pairs_per_second"], logs["data_wait"]))


def waiting_share(case: Case) -> dict[str, float]:
    """Return the shares of step time spent waiting for clips, over all steps and in the worst
    one.
    """
    policy = make_policy(case)
    side, frames = clip_size(case.video_tokens)
    area = side**2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs, requests = [], {}
        for number in range(CLIPS):
            clip = f"c{number}.mp4"
            write_clip(
                folder / clip,
                seed=number,
                frames=SECONDS * RATE,
                rate=RATE,
                width=WIDTH,
                height=HEIGHT,
            )
            requests[clip] = ClipRequest(key=clip, video=folder / clip)
            pairs += [replace(pair, clip=clip, rejected_clip=clip) for pair in make_pairs(case)]
        recipe = Recipe(
            name="bench",
            runs_folder=name,
            seed=0,
            data=DataSettings(samples="none"),
            judge=JudgeSettings(model="none"),
            model=policy.settings,
            video=VideoSettings(
                num_frames=frames,
                min_pixels=area,
                max_pixels=area,
                workers=1,
            ),
            train=TrainSettings(
                lora=LoraSettings(rank=16, alpha=32),
                epochs=EPOCHS,
                batch_size=case.num_pairs,
                gradient_accumulation=1,
                logging_steps=1,
                save_steps=1000,
                gradient_checkpointing=case.size == "7b",
            ),
        )
        selection = Selection(
            indices=list(range(len(pairs))), pairs=pairs, requests=requests, dropped={}
        )
        logs = _Logs()
        train_adapter(
            policy,
            recipe,
            TrainingJob(
                selection=selection,
                checkpoints=folder / "out",
                resume=None,
                bad_clips={},
                reference={},
            ),
            on_bad_clip=_fail,
            callbacks=[logs],
        )
    seconds = sum(step_seconds for step_seconds, _ in logs.rows)
    return {
        "steps": len(logs.rows),
        "waiting": sum(step_seconds * share for step_seconds, share in logs.rows) / seconds,
        "worst_step": max(share for _, share in logs.rows),
    }


def _fail(clip: str, error: Exception) -> None:
    raise error
