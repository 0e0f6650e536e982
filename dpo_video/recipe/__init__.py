"""Every setting with its default, once: a file per section.

`file.py` reads YAML into these and names file and line of an error; `affects.py` says what each of
them changes.
"""

from os.path import normpath
from pathlib import Path, PurePosixPath
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from dpo_video.core.names import did_you_mean
from dpo_video.recipe.affects import Affects
from dpo_video.recipe.agree import AgreeSettings
from dpo_video.recipe.card import CardSettings
from dpo_video.recipe.clean import CleanSettings
from dpo_video.recipe.data import DataSettings
from dpo_video.recipe.evaluate import EvaluateSettings, EvaluationSetSettings
from dpo_video.recipe.generate import GenerateSettings, SamplerSettings
from dpo_video.recipe.judge import JudgeSettings
from dpo_video.recipe.model import ModelSettings
from dpo_video.recipe.pair import PairSettings
from dpo_video.recipe.rounds import RoundsSettings
from dpo_video.recipe.section import Section
from dpo_video.recipe.tracking import TrackingSettings
from dpo_video.recipe.train import LoraSettings, TrainSettings
from dpo_video.recipe.video import VideoSettings

__all__ = [
    "AgreeSettings",
    "CardSettings",
    "CleanSettings",
    "DataSettings",
    "EvaluateSettings",
    "EvaluationSetSettings",
    "GenerateSettings",
    "JudgeSettings",
    "LoraSettings",
    "ModelSettings",
    "PairSettings",
    "Recipe",
    "RoundsSettings",
    "SamplerSettings",
    "Section",
    "TrackingSettings",
    "TrainSettings",
    "VideoSettings",
]


class Recipe(Section):
    """All settings of a run."""

    name: Annotated[str, Affects.DISPLAY]
    """Run folder under `runs_folder`."""
    description: Annotated[str, Affects.DISPLAY] = ""
    """What the run is for; shown in tracking."""
    seed: Annotated[int, Affects.ANSWERS | Affects.PAIRS | Affects.WEIGHTS] = Field(
        default=0, ge=0, lt=1 << 32
    )
    """Seeds sampling, pair rules, LoRA initialisation and data order."""
    runs_folder: Annotated[str, Affects.DISPLAY] = "runs"
    """Folder that holds the run folders."""
    store: Annotated[str | None, Affects.SPEED] = None
    """Run folder that keeps the working store, the toy clips and the cache of this run, too, as a
    path from the run folder on; None is the run folder itself. Rounds share that of their run."""
    model: ModelSettings
    data: DataSettings
    clean: CleanSettings = CleanSettings()
    video: VideoSettings = VideoSettings()
    generate: GenerateSettings = GenerateSettings()
    judge: JudgeSettings
    pair: PairSettings = PairSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    agree: AgreeSettings = AgreeSettings()
    tracking: TrackingSettings = TrackingSettings()
    card: Annotated[CardSettings, Affects.DISPLAY] = CardSettings()
    rounds: RoundsSettings | None = None
    """Do the stages several times, each from the adapter of the round before: `count`, `reference`
    (`base` or `previous`), `samples` (`all` or `split`), `keep_pairs`, `each` (settings of single
    rounds) and `stop` (`never` or `no_gain`), as docs/rounds.md says. None does them once."""

    @field_validator("name")
    @classmethod
    def _is_a_folder(cls, value: str) -> str:
        parts = PurePosixPath(value).parts
        if not value.strip() or not parts or parts[0] == "/" or ".." in parts:
            raise ValueError(
                "must be a folder inside `runs_folder`: a name, without `..` and without a leading "
                "slash"
            )
        return value

    @model_validator(mode="after")
    def _check_sides(self) -> Self:
        pair, names = self.pair, [sampler.name for sampler in self.generate.mix]
        sides = {
            "chosen_samplers": pair.chosen_samplers,
            "rejected_samplers": pair.rejected_samplers,
        }
        for setting, samplers in sides.items():
            if samplers and pair.rule != "across":
                raise ValueError(
                    f"pair.{setting} belongs to `pair.rule: across`, and the rule is {pair.rule}"
                )
            if self.data.pairs is not None or pair.rule != "across":
                continue
            if not samplers:
                raise ValueError(
                    f"pair.rule is across, and pair.{setting} names no sampler: pairs need both "
                    f"sides. generate.mix has: {', '.join(names) or 'none'}"
                )
            for name in samplers:
                if name not in names:
                    raise ValueError(
                        f"pair.{setting}: no sampler of generate.mix is called {name!r}."
                        f"{did_you_mean(name, names)} Known: {', '.join(names) or 'none'}"
                    )
        for name in pair.chosen_longer_than:
            if name not in pair.rejected_samplers:
                raise ValueError(
                    f"pair.chosen_longer_than: {name!r} is not among pair.rejected_samplers "
                    f"({', '.join(pair.rejected_samplers) or 'none'}), whose answers it is about."
                    f"{did_you_mean(name, pair.rejected_samplers)}"
                )
        both = sorted({*pair.chosen_samplers} & {*pair.rejected_samplers})
        if both:
            raise ValueError(
                f"pair.chosen_samplers and pair.rejected_samplers both name {both[0]!r}: a sampler "
                "is on one side"
            )
        return self

    @model_validator(mode="after")
    def _check_pair_sampler(self) -> Self:
        name = self.evaluate.pair_sampler
        if name is None:
            return self
        names = [sampler.name for sampler in self.generate.mix]
        if name not in names:
            raise ValueError(
                f"evaluate.pair_sampler: no sampler of generate.mix is called {name!r}."
                f"{did_you_mean(name, names)} Known: {', '.join(names) or 'none'}"
            )
        problem = self.generate.mix[names.index(name)].why_not_evaluated
        if problem:
            raise ValueError(
                f"evaluate.pair_sampler: {name!r} {problem}. Name another, or leave it out"
            )
        return self

    @property
    def pair_sampler(self) -> SamplerSettings | None:
        """The sampler of the mix that draws the answers behind held-out pairs; None for the plain
        one.
        """
        name = self.evaluate.pair_sampler
        return next((sampler for sampler in self.generate.mix if sampler.name == name), None)

    @model_validator(mode="after")
    def _check_rounds(self) -> Self:
        if self.rounds is None:
            return self
        if self.data.pairs is not None:
            raise ValueError("`rounds` sample and judge anew each time, and `data.pairs` are fixed")
        if self.generate.engine == "openai":
            raise ValueError(
                "`rounds` sample with another adapter each time, and `generate.engine` openai with "
                "what the server holds: use local or ray"
            )
        if self.pair.implicit_rewards is not None:
            raise ValueError(
                "`rounds` have other candidates each time, and `pair.implicit_rewards` is a file "
                "about those of one run"
            )
        if self.rounds.stop == "no_gain" and self.data.heldout is None:
            raise ValueError(
                "`rounds.stop` no_gain needs held-out samples to see a gain on: set data.heldout, "
                "or stop to never"
            )
        return self

    @property
    def run_folder(self) -> Path:
        """The folder that holds everything of this run."""
        return Path(self.runs_folder).expanduser() / self.name

    @property
    def store_folder(self) -> Path:
        """The folder whose store this run uses."""
        return (
            self.run_folder if self.store is None else Path(normpath(self.run_folder / self.store))
        )

    @property
    def start_adapter(self) -> Path | None:
        """The adapter that the policy starts with; None where it is the model alone."""
        return None if self.model.adapter is None else Path(self.model.adapter).expanduser()

    @property
    def family_file(self) -> Path | None:
        """The Python file of a family of the user's own; None where `model.family` names none."""
        family = self.model.family
        return Path(family).expanduser() if family and family.endswith(".py") else None

    @property
    def reference_adapter(self) -> Path | None:
        """The adapter of the reference; None where that is the model alone."""
        if self.train.reference == "start":
            return self.start_adapter
        if self.train.reference == "base":
            return None
        return Path(self.train.reference).expanduser()
