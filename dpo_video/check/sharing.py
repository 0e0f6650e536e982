"""What it costs where answers do not share their prompt: against a family of the same size that
shares.
"""

from dpo_video.check.findings import Findings, warn
from dpo_video.models.hub import ModelSpec
from dpo_video.models.memory import PeakLoad
from dpo_video.recipe import Recipe


def check_sharing(recipe: Recipe, spec: ModelSpec, load: PeakLoad) -> Findings:
    """Say why a family's prompts are not shared, and how many tokens that adds to the largest
    pair's.
    """
    family = spec.family
    if family.shared_prefix:
        return Findings()
    prompt, answers = load.prompt_tokens, 2 * load.answer_tokens
    rows, shared = 2 * prompt + answers, prompt + answers
    again = (
        ", the tower runs in each forward instead of once a clip"
        if family.encode == "in_forward"
        else ""
    )
    return warn(
        f"the family {family.name!r} shares no prompt between answers, as {family.why_not_shared}: "
        f"the largest pair takes {rows:,} tokens in training where a family of its size that "
        f"shares takes {shared:,} ({rows / shared:.1f} times){again}, and each of the "
        f"{recipe.generate.candidates_per_sample} answers to a question keeps a copy of what is "
        "kept of its prompt"
    )
