"""Whether a server takes an adapter beside its base."""

from dpo_video.models.hub import model_spec
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
