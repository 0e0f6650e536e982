"""What of a run other programs take: its adapter beside the base, its merged model."""

from dpo_video.models.hub import model_spec, own_code_rows, own_layout_rows
from dpo_video.recipe import Recipe


def why_merged_only(recipe: Recipe) -> str | None:
    """Return why a run can be served merged alone, what follows "as"; None where a server takes its
    adapter beside the base.

    Raises UserError where the base cannot be told, see `model_spec`.
    """
    if recipe.train.lora.experts:
        return "no server was seen to read PEFT's updates of experts"
    spec = model_spec(recipe.model)
    if spec.family.own_names(spec.config):
        return "its layers have names of this package, and not those of the base's own code"
    return None


def fits_auto_classes(recipe: Recipe) -> bool:
    """Return whether transformers alone loads a run's model: not those in a layout or code of their
    own.
    """
    return model_spec(recipe.model).family.name not in {**own_code_rows(), **own_layout_rows()}
