"""Whether TRL would refuse the training settings, found without it where that can be known."""

from dpo_video.recipe import Recipe
from dpo_video.train.dpo_config import check_train_settings, dpo_config

KNOWN_OPTIMIZERS = ("adamw_torch",)
KNOWN_SCHEDULERS = ("linear", "cosine", "constant", "constant_with_warmup")
"""Those that TRL takes on every machine and without further settings, as a test tries."""


def check_dpo_config(recipe: Recipe) -> None:
    """Raise UserError where `dpo_config` would; without TRL, which takes seconds to import, where
    nothing is left that only TRL knows.
    """
    train = recipe.train
    if (
        not train.trl
        and not train.activation_offloading
        and train.optimizer in KNOWN_OPTIMIZERS
        and train.scheduler in KNOWN_SCHEDULERS
    ):
        check_train_settings(recipe)
        return
    dpo_config(
        recipe,
        output_dir=recipe.run_folder / "checkpoints",
        precision="no",
        use_cpu=recipe.model.device == "cpu",
    )
