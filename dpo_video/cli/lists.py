"""What `dpo-video list` shows: recipes, scorers, families, losses and GPUs, each with one line."""

from collections.abc import Callable

import yaml

from dpo_video.core.imports import large_imports
from dpo_video.core.names import find_yaml, shipped_names
from dpo_video.recipe.presets import PRESETS

Rows = list[tuple[str, str]]


def recipes() -> Rows:
    """Shipped recipes with the first line of their header."""
    rows = []
    for name in shipped_names("recipes"):
        first = find_yaml("recipes", name).read_text(encoding="utf-8").splitlines()[0]
        rows.append((name, first.lstrip("# ")))
    return rows


def scorers() -> Rows:
    """Shipped scorers with their description."""
    texts = {
        name: find_yaml("scorers", name).read_text(encoding="utf-8")
        for name in shipped_names("scorers")
    }
    return [(name, yaml.safe_load(text)["description"]) for name, text in texts.items()]


def families() -> Rows:
    """Model families, those in their authors' own code last, with a word of those that hear."""
    with large_imports():
        from dpo_video.models.families import FAMILIES, hears_nothing
        from dpo_video.models.hub import own_code_rows, own_layout_rows

    on_transformers = {**FAMILIES, **own_layout_rows()}
    return [
        *(
            (name, family.title + "; hears" * (family.hearing is not hears_nothing))
            for name, family in sorted(on_transformers.items())
        ),
        *(
            (name, f"{family.title}: with model.trust_remote_code")
            for name, family in sorted(own_code_rows().items())
        ),
    ]


def presets() -> Rows:
    """Frames as the families' own code takes them, for `video.preset`."""
    return [(name, preset.meaning) for name, preset in sorted(PRESETS.items())]


def formats() -> Rows:
    """Formats that `import` reads and `export` writes."""
    from dpo_video.formats.exporters import EXPORTERS
    from dpo_video.formats.importers import IMPORTERS

    return [
        *((f"import {name}", row.meaning) for name, row in sorted(IMPORTERS.items())),
        *((f"export {name}", row.meaning) for name, row in sorted(EXPORTERS.items())),
    ]


def losses() -> Rows:
    """TRL's DPO loss types, as `train.loss` takes them."""
    with large_imports():
        from dpo_video.train.dpo_config import LOSSES

    return sorted(LOSSES.items())


def gpus() -> Rows:
    """GPUs that `check` estimates times for."""
    from dpo_video.check.devices import GPUS

    return [
        (
            name,
            f"{gpu.title}: {gpu.tflops:,g} TFLOPS dense bfloat16, {gpu.terabytes:g} TB/s, "
            f"{gpu.gigabytes:g} GB",
        )
        for name, gpu in GPUS.items()
    ]


LISTS: dict[str, Callable[[], Rows]] = {
    "recipes": recipes,
    "scorers": scorers,
    "families": families,
    "presets": presets,
    "formats": formats,
    "losses": losses,
    "gpus": gpus,
}
