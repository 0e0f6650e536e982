"""What a check knows of the data: samples or pairs of a file, or what it assumes in their place.

Nothing here needs torch: wrong data are told before a model is looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from dpo_video.check.findings import Findings, attempt, warn
from dpo_video.core.errors import UserError
from dpo_video.core.names import shipped_names
from dpo_video.core.records import Pair, Sample
from dpo_video.data.heldout import check_disjoint
from dpo_video.data.removed import removal_counts
from dpo_video.data.samples import load_samples, load_set
from dpo_video.models.control_tokens import recipe_tokens
from dpo_video.recipe import Recipe
from dpo_video.recipe.file import load_recipe
from dpo_video.video import clip_key

NOMINAL_SAMPLE = Sample(
    id="nominal", video="nominal.mp4", prompt="x" * 80, caption="x" * 1000, answer="x" * 80
)
NOMINAL_QUESTIONS = {"samples": 1000, "heldout": 200}
"""Questions of a split where there is no data, one per clip."""


@dataclass(frozen=True, slots=True)
class SplitData:
    """The samples of a split; `root` is None where they are assumed."""

    samples: Sequence[Sample]
    root: Path | None
    pairs: Sequence[Pair] = ()
    """Those of `data.pairs`, which the samples are the questions of."""
    findings: Findings = field(default_factory=Findings)
    file: Path | None = None
    """Where they stand; None where they are assumed, or of the toy world."""

    @property
    def num_clips(self) -> int:
        """How many different clips; every assumed question has one of its own."""
        return (
            len(self.samples)
            if self.root is None
            else len({clip_key(sample) for sample in self.samples})
        )


class Data(NamedTuple):
    """What there is to train on and to evaluate on, and what was found on reading it."""

    train: SplitData
    heldout: SplitData
    findings: Findings
    sets: Sequence[Sequence[Sample]] = ()
    """The questions of each of `evaluate.sets`."""


def load_data(recipe: Recipe) -> Data:
    """Return the samples of both splits.

    Samples are assumed only where the recipe names an example path of the shipped recipes, which
    everyone replaces by their own. Raises UserError with all that is wrong in the files of both
    splits: then there is nothing to plan for.
    """
    heldout, heldout_findings = attempt(_load_split, recipe, "heldout")
    heldout_samples = () if heldout is None or heldout.root is None else heldout.samples
    load_train = partial(_load_split, recipe, "samples", heldout=heldout_samples)
    train, train_findings = attempt(load_train)
    sets = [attempt(load_set, recipe, each, recipe_tokens(recipe)) for each in recipe.evaluate.sets]
    set_findings = sum((found for _, found in sets), Findings())
    if train is None or heldout is None or set_findings.problems:
        raise UserError("\n".join((train_findings + heldout_findings + set_findings).problems))
    findings = train.findings + heldout.findings
    if train.root is not None and heldout.root is not None:
        apart = partial(check_disjoint, video_root=train.root, heldout_root=heldout.root)
        findings += attempt(apart, train.samples, heldout.samples)[1]
    for evaluation_set, _ in sets:
        if evaluation_set is not None and train.root is not None:
            loaded = evaluation_set.loaded
            apart = partial(
                check_disjoint,
                video_root=train.root,
                heldout_root=loaded.root,
                name=f"set {evaluation_set.name!r}",
            )
            findings += attempt(apart, train.samples, loaded.samples)[1]
    loaded_sets = [each.loaded.samples for each, _ in sets if each is not None]
    return Data(train, heldout, findings, loaded_sets)


def _load_split(
    recipe: Recipe, split: Literal["samples", "heldout"], *, heldout: Sequence[Sample] = ()
) -> SplitData:
    """Return what there is of a split, or what is assumed of it."""
    pairs_given = split == "samples" and recipe.data.pairs is not None
    source = recipe.data.samples if split == "samples" else recipe.data.heldout
    if source is None:
        return SplitData([], None)
    if not pairs_given and not _is_there(source) and source in _example_paths():
        count = NOMINAL_QUESTIONS[split]
        assumption = (
            f"data.{split}: {count:,} questions about as many clips ({source!r} is the example "
            "path of the shipped recipes: put your own samples there)"
        )
        return SplitData(
            [NOMINAL_SAMPLE] * count, None, findings=Findings(assumptions=(assumption,))
        )
    loaded = load_samples(recipe, split, heldout=heldout, tokens=recipe_tokens(recipe))
    findings = Findings()
    if loaded.removed:
        findings = warn(f"cleaning: {removal_counts(loaded.num_records, loaded.removed)}")
    return SplitData(
        loaded.samples,
        loaded.root,
        loaded.pairs or (),
        findings=findings,
        file=_data_file(recipe.data.pairs if pairs_given else source),
    )


def _data_file(source: str | None) -> Path | None:
    return None if source is None or source.startswith("toy:") else Path(source).expanduser()


def _is_there(source: str) -> bool:
    return source.startswith("toy:") or Path(source).exists()


def _example_paths() -> set[str]:
    """Return the paths that shipped recipes name: to find them all of these are read."""
    shipped = [load_recipe(name).data for name in shipped_names("recipes")]
    paths = {data.samples for data in shipped} | {data.heldout for data in shipped}
    return {path for path in paths if path is not None and not path.startswith("toy:")}
