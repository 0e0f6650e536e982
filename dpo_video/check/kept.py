"""What of the clips a run keeps on disk, how large that is, and whether there is room for it."""

import shutil
from pathlib import Path

from dpo_video.check.data import Data
from dpo_video.check.findings import Findings, warn
from dpo_video.check.lengths import ClipLengths
from dpo_video.check.plan import KeptClips, memory_text
from dpo_video.models.hub import ModelSpec
from dpo_video.models.kept_clips import kept_of_clips
from dpo_video.models.memory import GIB
from dpo_video.recipe import Recipe
from dpo_video.video import clip_key
from dpo_video.video.cache import cache_folder, found_files


def kept_clips(
    recipe: Recipe, spec: ModelSpec, data: Data, lengths: ClipLengths
) -> tuple[KeptClips, Findings]:
    """Return what is kept of the clips of a run; a warning where it is more than there is room
    for.
    """
    limit = recipe.video.cache_gb * GIB
    folder = cache_folder(recipe)
    if recipe.video.cache == "auto":
        limit = min(limit, _free_bytes(folder) / 2)
    kept = KeptClips(
        kept=kept_of_clips(recipe, spec.family),
        clips=data.train.num_clips + evaluated_clips(data),
        clip_gib=lengths.kept_bytes.mean / GIB,
        limit_gib=limit / GIB,
        folder=str(folder),
    )
    if kept.share == 1:
        return kept, Findings()
    others = (
        "the others are decoded again"
        if recipe.video.cache == "auto"
        else "a clip that was read goes for the next, and little is found again"
    )
    return kept, warn(
        f"the {kept.kept} of all clips take {memory_text(kept.gib)}, and there is room for "
        f"{memory_text(kept.limit_gib)}, {kept.share:.0%} of them: {others}. Raise video.cache_gb, "
        "or set video.cache_folder to a folder on a larger disk"
    )


def evaluated_clips(data: Data) -> int:
    """Return the clips of all questions of the evaluation; those of a set may be those held out."""
    if data.heldout.samples and data.heldout.root is None:  # assumed, one each
        return data.heldout.num_clips
    samples = [*data.heldout.samples, *(sample for samples in data.sets for sample in samples)]
    return len({clip_key(sample) for sample in samples})


def _free_bytes(folder: Path) -> int:
    """Return the room for a folder that need not be there yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    held = sum(facts.st_size for _, facts in found_files(folder))
    return held + shutil.disk_usage(there).free
