"""What of a run other programs take: its adapter beside the base, its merged model."""

from dpo_video.models.hub import ModelSpec, model_spec, own_code_rows, own_layout_rows
from dpo_video.recipe import Recipe

UPDATES_OF_EXPERTS = "no server was seen to read PEFT's updates of experts"
NAMES_OF_LAYERS = "its layers have names of this package, and not those of the base's own code"
NOTED = "served_merged_alone_as"
"""Under this name training notes why, where that is so."""


def why_merged_only(recipe: Recipe, spec: ModelSpec | None = None) -> str | None:
    """Return why a run can be served merged alone, what follows "as"; None where a server takes its
    adapter beside the base.

    Args:
        spec: of the base, where it is known.
    """
    if recipe.train.lora.experts:
        return UPDATES_OF_EXPERTS
    known = spec or model_spec(recipe.model)
    return NAMES_OF_LAYERS if known.family.own_names(known.config) else None


def served_note(recipe: Recipe, spec: ModelSpec) -> dict[str, str]:
    """Return what training notes of a run: nothing where a server takes its adapter."""
    why = why_merged_only(recipe, spec)
    return {} if why is None else {NOTED: why}


def fits_auto_classes(recipe: Recipe) -> bool:
    """Return whether transformers alone loads a run's model: not those in a layout or code of their
    own.
    """
    return model_spec(recipe.model).family.name not in {**own_code_rows(), **own_layout_rows()}
