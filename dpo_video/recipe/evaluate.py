"""Section `evaluate`."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from dpo_video.recipe.affects import ABSENT_AT_DEFAULT, Affects
from dpo_video.recipe.requirement import NO_REGRESSION, parse_requirement
from dpo_video.recipe.section import Section

SET_NAME = re.compile(r"[A-Za-z0-9_-]+")
HELDOUT = "heldout"
"""Name of the set of `data.heldout`."""


class EvaluationSetSettings(Section):
    """Questions that the base and the tuned model answer beside `data.heldout`."""

    name: Annotated[str, Affects.METRICS]
    """Names the set in tables, metrics.json and answers.jsonl."""
    samples: Annotated[str, Affects.SAMPLES]
    """JSONL of Sample; its clips must not be among the training clips."""
    video_root: Annotated[str | None, Affects.SAMPLES] = None
    """Folder that relative video paths start from; None is the folder of the JSONL file."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not SET_NAME.fullmatch(value):
            raise ValueError("must be letters, digits, _ and -, so that metrics can be named by it")
        if value == HELDOUT:
            raise ValueError("is the name of the set of data.heldout; take another one")
        return value


class EvaluateSettings(Section):
    """Before and after on held-out clips."""

    sets: Annotated[list[EvaluationSetSettings], Affects.METRICS, ABSENT_AT_DEFAULT] = Field(
        default=[]
    )
    """More questions to answer before and after: benchmarks, or your own, each with a name."""
    parser: Annotated[Literal["strict", "published"], Affects.METRICS, ABSENT_AT_DEFAULT] = "strict"
    """How a letter, yes or no is read from an answer: by one strict rule, or by the published rule
    of the benchmark that `dpo-video import` took a question from, defects included. Where the two
    differ both numbers are told."""
    choice: Annotated[Literal["generate", "likelihood"], Affects.ANSWERS, ABSENT_AT_DEFAULT] = (
        "generate"
    )
    """How a question to choose from is answered: in writing, or by the likeliest choice, one
    forward a clip for all its questions."""
    choice_max_new_tokens: Annotated[PositiveInt, Affects.ANSWERS, ABSENT_AT_DEFAULT] = 16
    """A written answer to a question to choose from is cut there."""
    correctness_scorer: Annotated[str | None, Affects.METRICS, ABSENT_AT_DEFAULT] = None
    """Scorer, such as `qa_correctness`, that says whether the answer to a text question is right:
    from the scorer's threshold on. None counts exact matches."""
    temperature: Annotated[float, Affects.ANSWERS] = Field(default=0.0, ge=0)
    """Sampling temperature of the evaluated answers; 0 is greedy."""
    max_new_tokens: Annotated[PositiveInt, Affects.ANSWERS] = 256
    """An evaluated answer is cut there."""
    hallucination_scorer: Annotated[str | None, Affects.METRICS] = "caption_support"
    """Scorer whose share below its threshold is the hallucination rate; None leaves it out."""
    pairwise_scorer: Annotated[str | None, Affects.METRICS] = None
    """Scorer of `mode: pairwise` that compares each answer before with the one after, in both
    orders.
    """
    pair_samples: Annotated[int, Affects.METRICS] = Field(default=100, ge=0)
    """Held-out samples to build held-out pairs from."""
    pair_candidates: Annotated[int, Affects.METRICS] = Field(default=4, ge=0)
    """Answers of the base model per such sample."""
    pair_sampler: Annotated[str | None, Affects.METRICS, ABSENT_AT_DEFAULT] = None
    """Which sampler of `generate.mix` draws them; None draws as the `generate` section says. Never
    one that is privileged, sees a corrupted clip or has a policy of its own.
    """
    bootstrap: Annotated[PositiveInt, Affects.METRICS] = 2000
    """Resamples behind every 95 % interval; whole clips are resampled."""

    require: Annotated[list[str], Affects.DISPLAY] = Field(default=[NO_REGRESSION])
    """What must hold, else `run` and `evaluate` end with exit code 1: `no_regression` (no set came
    out worse), `SET.METRIC >= before - 0.01`, `SET.METRIC <= 0.2`; [] demands nothing."""

    @model_validator(mode="after")
    def _check_requirements(self) -> Self:
        names = [HELDOUT, *(settings.name for settings in self.sets)]
        for text in self.require:
            parse_requirement(text, sets=names)
        return self

    @field_validator("sets")
    @classmethod
    def _check_names(cls, value: list[EvaluationSetSettings]) -> list[EvaluationSetSettings]:
        names = [settings.name for settings in value]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two sets are named {twice!r}; each needs a name of its own")
        return value
