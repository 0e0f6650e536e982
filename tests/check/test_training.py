"""Training settings that `check` takes without TRL are those that TRL takes."""

import subprocess
import sys
from pathlib import Path

import pytest

from dpo_video.check.training import KNOWN_OPTIMIZERS, KNOWN_SCHEDULERS, check_dpo_config
from dpo_video.core.errors import UserError
from dpo_video.data.samples import TOY_CLIPS
from dpo_video.recipe import DataSettings, JudgeSettings, ModelSettings, Recipe, TrainSettings
from dpo_video.recipe.file import load_recipe
from dpo_video.toy.clips import write_split
from dpo_video.train.dpo_config import LOSSES, dpo_config


def recipe(train: TrainSettings) -> Recipe:
    return Recipe(
        name="r",
        model=ModelSettings(name="m", device="cpu"),
        data=DataSettings(samples="s.jsonl"),
        judge=JudgeSettings(model="j"),
        train=train,
    )


def test_trl_takes_every_known_optimizer_scheduler_and_loss(tmp_path: Path) -> None:
    losses = [name for name in LOSSES if name != "exo_pair"]  # refused without label_smoothing
    tried = [
        TrainSettings(optimizer=optimizer, scheduler=scheduler)
        for optimizer in KNOWN_OPTIMIZERS
        for scheduler in KNOWN_SCHEDULERS
    ] + [TrainSettings(loss=[name]) for name in losses]
    for train in tried:
        check_dpo_config(recipe(train))
        for use_cpu in (True, False):
            dpo_config(recipe(train), output_dir=tmp_path, precision="no", use_cpu=use_cpu)


@pytest.mark.parametrize(
    ("train", "refusal"),
    [
        (TrainSettings(optimizer="adamm"), "TRL refuses the training settings: adamm is not"),
        (TrainSettings(scheduler="cosin"), "TRL refuses the training settings: cosin is not"),
        (TrainSettings(loss=["exo_pair"]), "needs `train.trl.label_smoothing` above 0"),
        (TrainSettings(trl={"adam_beta": 0.9}), "unknown field `train.trl.adam_beta`"),
        (TrainSettings(activation_offloading=True), "this runs on the CPU"),
    ],
)
def test_what_trl_or_we_refuse_is_refused(train: TrainSettings, refusal: str) -> None:
    with pytest.raises(UserError, match=refusal):
        check_dpo_config(recipe(train))


def test_a_plan_imports_no_trainer_adapter_decoder_or_model_of_the_judge(tmp_path: Path) -> None:
    toy = tmp_path / "runs" / "quickstart" / "toy"
    for split in ("train", "heldout"):  # where no clips are yet, an encoder is needed to make them
        num_clips = TOY_CLIPS[f"toy:{split}"]
        write_split(split, toy / split, num_clips=num_clips, seed=load_recipe("quickstart").seed)
    program = (
        "import sys; sys.argv = ['', 'check', 'quickstart', '--no-judge', '--no-sample']\n"
        "from dpo_video.cli.app import main\n"
        "try: main()\nexcept SystemExit as exit: assert not exit.code\n"
        "heavy = {'trl', 'peft', 'bitsandbytes', 'wandb', 'datasets', 'pandas', 'sklearn', 'av',"
        " 'transformers.models.qwen2.modeling_qwen2'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "heavy: []"
