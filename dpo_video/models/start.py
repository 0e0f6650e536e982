"""Whether training can start as it is set: the model has what is to be tuned, and an adapter that
it goes on from fits the model and is what `train` tunes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.models.hub import load_config, model_spec, revision_of
from dpo_video.models.lora import LANGUAGE_ONLY, is_of_tower, lora_shapes
from dpo_video.models.names import resolve_model
from dpo_video.recipe import ModelSettings, Recipe

PLAIN = {"use_dora": False, "use_rslora": False, "modules_to_save": None, "bias": "none"}
"""What an adapter of ours is in PEFT's terms, beside rank, alpha and layers."""


def check_start(recipe: Recipe) -> None:
    """Raise UserError for `model.adapter`, or an adapter that is the reference, where it is
    missing, damaged, of another model, or where `train` tunes another adapter than it is, and for
    experts or further parts to be tuned that a model has not; nothing is loaded but the shapes.
    """
    if recipe.train.tunes_further:
        _lora_shapes(recipe)
    adapters = {"model.adapter": recipe.start_adapter, "train.reference": recipe.reference_adapter}
    if not any(adapters.values()):
        return
    from dpo_video.models.load import find_adapter  # here: it needs PEFT, as WEIGHTS below

    for setting, folder in adapters.items():
        if folder is not None:
            find_adapter(folder)
            config = strict_json.loads_foreign(
                (folder / "adapter_config.json").read_text(encoding="utf-8")
            )
            _check_base(recipe.model, config, f"{setting} {str(folder)!r}")
    if recipe.start_adapter is not None:
        _check_trainable(recipe, recipe.start_adapter)
    if recipe.reference_adapter is not None:
        _check_reference(recipe, recipe.reference_adapter)


def _check_base(model: ModelSettings, config: Mapping[str, Any], adapter: str) -> None:
    """Raise UserError where an adapter says that it was trained on another model."""
    trained_on = config.get("base_model_name_or_path")
    name = resolve_model(model.name)
    if not trained_on or trained_on == name:
        return
    other = Path(trained_on)
    is_copy = False
    if other.is_dir() and Path(name).is_dir():
        revisions = {
            revision_of(settings, load_config(settings)[0])
            for settings in (model, model.model_copy(update={"name": trained_on, "revision": None}))
        }
        is_copy = len(revisions) == 1
    lies_elsewhere = Path(name).is_dir() and not other.is_dir()  # the shapes must tell
    if not is_copy and not lies_elsewhere:
        raise UserError(
            f"{adapter} was trained on {trained_on!r}, and model.name is {model.name!r}: weights "
            "of one model mean nothing to another. Set model.name to it, or give another adapter"
        )


def _check_trainable(recipe: Recipe, adapter: Path) -> None:
    """Raise UserError where the adapter that `train` makes has other settings or layers."""
    config = strict_json.loads_foreign(
        (adapter / "adapter_config.json").read_text(encoding="utf-8")
    )
    lora, setting = recipe.train.lora, f"model.adapter {str(adapter)!r}"
    for name, key, value in (("rank", "r", lora.rank), ("alpha", "lora_alpha", lora.alpha)):
        if config.get(key) != value:
            raise UserError(
                f"{setting} has {name} {config.get(key)}, and train.lora.{name} is {value}: "
                f"training goes on from it as it is. Set train.lora.{name}={config.get(key)}"
            )
    others = {
        name: config[name] for name, plain in PLAIN.items() if (config.get(name) or plain) != plain
    }
    if config.get("peft_type") != "LORA" or config.get("rank_pattern") or others:
        raise UserError(
            f"{setting} is no plain LoRA ({config.get('peft_type')}, {others or 'ranks by layer'}),"
            " and training could not go on from it. Merge it into its model, and set model.name to "
            "the result"
        )
    expected, shapes = _lora_shapes(recipe), _stored_shapes(adapter)
    if expected == shapes:
        return
    wrong = next(iter(expected.items() ^ shapes.items()))[0]
    raise UserError(
        f"{setting} does not fit: train.tune {recipe.train.tune} of {recipe.model.name!r} has "
        f"{len(expected)} tensors, it has {len(shapes)}, and they differ first at {wrong} "
        f"({expected.get(wrong, 'not tuned')} here, {shapes.get(wrong, 'missing')} there). Give an "
        "adapter of this model, and set train.tune to the parts that it tunes"
    )


def _check_reference(recipe: Recipe, adapter: Path) -> None:
    """Raise UserError where the reference would see clips in another way than the policy, whose
    features are made once for both.
    """
    tuned = [name for name in _stored_shapes(adapter) if is_of_tower(name)]
    if tuned and set(recipe.train.tune) == set(LANGUAGE_ONLY):
        raise UserError(
            f"train.reference {str(adapter)!r} tunes what makes a clip's features ({tuned[0]}), "
            f"and train.tune is {recipe.train.tune}: features are then made once, without it. Tune "
            "these parts too, e.g. train.tune=[language,projector,vision], or give another "
            "reference"
        )


def _lora_shapes(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the adapter that `train` would make, by PEFT's names in its file."""
    spec = model_spec(recipe.model)
    model = spec.meta_model
    return {**lora_shapes(model, spec.family, recipe.train.tune, recipe.train.lora)}


def _stored_shapes(adapter: Path) -> dict[str, tuple[int, ...]]:
    from dpo_video.models.adapter import WEIGHTS

    with safe_open(adapter / WEIGHTS, framework="pt") as weights:
        names = list(weights.keys())
        return {name: tuple(weights.get_slice(name).get_shape()) for name in names}
