"""Section `generate`."""

import re
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from dpo_video.core.names import did_you_mean
from dpo_video.recipe.affects import ABSENT_AT_DEFAULT, Affects
from dpo_video.recipe.model import ModelSettings
from dpo_video.recipe.section import Section, server_address

PLACEHOLDERS = ("prompt", "caption", "answer")
"""What an instruction may hold of a sample, in braces."""
PRIVILEGES = ("caption", "answer")
"""Those of them that a policy does not know when it is used."""
WITH_MAGNITUDE = ("drop", "reverse", "shuffle")
"""What is done to a clip more or less strongly."""


class SamplerSettings(Section):
    """One way of drawing candidates; what it leaves out is as in the `generate` section."""

    name: Annotated[str, Affects.ANSWERS]
    """Stands in each of its candidates, so that shares can be counted."""
    num_candidates: Annotated[PositiveInt, Affects.ANSWERS]
    """Answers per sample from this sampler."""
    model: ModelSettings | None = None
    """Another policy than the recipe's `model`."""
    adapter: Annotated[str | None, Affects.ANSWERS] = None
    """Folder of a LoRA adapter on top of it."""
    instruction: Annotated[str, Affects.ANSWERS] = "{prompt}"
    """What the policy is asked, with the question in it; pairs keep the question alone. It may also
    hold `{caption}` and `{answer}`: the sampler then knows more than the policy ever will, its
    answers that cite what they were shown are kept from the judge, and evaluation never uses it.
    """
    clip: Annotated[
        Literal["none", "drop", "reverse", "shuffle", "other_clip"],
        Affects.ANSWERS,
        ABSENT_AT_DEFAULT,
    ] = "none"
    """What is done to the clip that the policy sees; pairs keep the clip as it is. `drop`: all
    frames but a fifth in a row are gone; `reverse` and `shuffle`: its frames in another order;
    `other_clip`: the clip of another question's file.
    """
    magnitude: Annotated[int | None, Affects.ANSWERS, ABSENT_AT_DEFAULT] = Field(
        default=None, ge=2, lt=1_000_000
    )
    """How strongly, as in TEMPLE: `drop` keeps one frame in this many, `reverse` and `shuffle`
    exchange about this many groups of frames. None is `generate.magnitude`; without that a fifth
    stays, and every frame is a group.
    """
    temperature: Annotated[float | None, Affects.ANSWERS] = Field(default=None, ge=0)
    """Sampling temperature; 0 is greedy."""
    first_temperature: Annotated[float | None, Affects.ANSWERS] = Field(default=None, gt=0)
    """Temperature of the first tokens."""
    top_p: Annotated[float | None, Affects.ANSWERS] = Field(default=None, gt=0, le=1)
    """Nucleus sampling."""
    top_k: Annotated[int | None, Affects.ANSWERS] = Field(default=None, ge=0)
    """Keep the k likeliest tokens; 0 keeps all."""
    min_p: Annotated[float | None, Affects.ANSWERS] = Field(default=None, ge=0, lt=1)
    """Keep tokens at least this likely against the likeliest one."""

    @field_validator("model")
    @classmethod
    def _has_no_adapter(cls, value: ModelSettings | None) -> ModelSettings | None:
        if value is not None and value.adapter is not None:
            raise ValueError("must not hold `adapter`: a sampler has one of its own beside `model`")
        return value

    @field_validator("instruction")
    @classmethod
    def _check_placeholders(cls, value: str) -> str:
        if value.count("{prompt}") != 1:
            raise ValueError("must contain {prompt} once: the sample's question goes there")
        for name in re.findall(r"\{([A-Za-z_]+)\}", value):
            hint = "" if name in PLACEHOLDERS else did_you_mean(name, PLACEHOLDERS)
            if hint:
                raise ValueError(f"unknown placeholder {{{name}}}.{hint}")
        return value

    @model_validator(mode="after")
    def _check_magnitude(self) -> Self:
        if self.magnitude is not None and self.clip not in WITH_MAGNITUDE:
            raise ValueError(
                f"`magnitude` says how strongly a clip is changed, and `clip` is {self.clip}: set "
                "clip to drop, reverse or shuffle, or leave magnitude out"
            )
        return self

    @property
    def privileges(self) -> tuple[str, ...]:
        """What the instruction shows that the policy does not know when it is used."""
        return tuple(name for name in PRIVILEGES if f"{{{name}}}" in self.instruction)

    @property
    def why_not_evaluated(self) -> str:
        """Why its answers to held-out questions would say nothing of the policy; empty where they
        do.
        """
        if self.privileges:
            shown = " and ".join(f"{{{name}}}" for name in self.privileges)
            return f"is privileged: it is shown {shown}, which the policy never sees in use"
        if self.clip != "none":
            return (
                f"sees its clips under `clip: {self.clip}`, and evaluation shows them as they are"
            )
        if self.model is not None or self.adapter is not None:
            return "has a policy of its own, and held-out pairs are the base model's answers"
        return ""


class GenerateSettings(Section):
    """Candidates: N sampled answers of the policy to each sample."""

    engine: Annotated[Literal["local", "openai", "ray"], Affects.ANSWERS] = "local"
    """`local` runs the policy here, `ray` on the workers of a Ray cluster; `openai` asks a
    compatible server that takes video (vLLM, SGLang)."""
    num_candidates: Annotated[PositiveInt, Affects.ANSWERS] = 8
    """Answers per sample."""
    first_number: Annotated[NonNegativeInt, Affects.ANSWERS, ABSENT_AT_DEFAULT] = 0
    """Number of each sample's first candidate, which names it and seeds it: rounds count on, so
    that no draw is repeated."""
    temperature: Annotated[float, Affects.ANSWERS] = Field(default=1.0, ge=0)
    """Sampling temperature; 0 is greedy."""
    first_temperature: Annotated[float | None, Affects.ANSWERS] = Field(default=None, gt=0)
    """Temperature of the first `first_tokens` tokens, where answers part; higher there and lower
    after gives answers that differ and still end well. None is `temperature`."""
    first_tokens: Annotated[PositiveInt, Affects.ANSWERS] = 8
    """How many tokens `first_temperature` holds for."""
    top_p: Annotated[float, Affects.ANSWERS] = Field(default=0.95, gt=0, le=1)
    """Nucleus sampling."""
    top_k: Annotated[int, Affects.ANSWERS] = Field(default=0, ge=0)
    """Keep the k likeliest tokens; 0 keeps all."""
    min_p: Annotated[float, Affects.ANSWERS] = Field(default=0.0, ge=0, lt=1)
    """Keep tokens at least this likely against the likeliest one (arXiv 2407.01082); 0 keeps all.
    """
    mix: list[SamplerSettings] = Field(default=[])
    """Several samplers in place of one: other temperatures, instructions, policies or adapters,
    each with its own number of candidates. Empty draws `num_candidates` from the policy."""
    magnitude: Annotated[int | None, Affects.ANSWERS, ABSENT_AT_DEFAULT] = Field(
        default=None, ge=2, lt=1_000_000
    )
    """How strongly samplers of the mix change their clips that do not say it themselves."""
    max_new_tokens: Annotated[PositiveInt, Affects.ANSWERS] = 256
    """An answer is cut there, and marked as cut."""
    batch_size: Annotated[PositiveInt | Literal["auto"], Affects.SPEED] = "auto"
    """Answers written at a time. `auto` is what half of the GPU's free memory holds, at most 256;
    64 on the CPU; 8 where each answer has its own copy of the prompt (docs/families.md)."""
    base_url: Annotated[str | None, Affects.SPEED] = None
    """Server address under `openai`."""
    api_key_env: Annotated[str, Affects.SPEED] = "OPENAI_API_KEY"
    """Environment variable that holds the server's key; servers on loopback need none."""
    served_model: Annotated[str | None, Affects.ANSWERS] = None
    """The model's name on the server; None uses `model.name`."""
    video_as: Annotated[Literal["images", "video_url"], Affects.ANSWERS] = "images"
    """How a server gets the clip: the policy's frames as images, or the file."""
    concurrency: Annotated[PositiveInt, Affects.SPEED] = 16
    """Requests in flight under `openai`."""
    timeout: Annotated[PositiveFloat, Affects.SPEED] = 300.0
    """Seconds per request."""
    retries: Annotated[int, Affects.SPEED] = Field(default=5, ge=0)
    """Attempts after the first for connection errors, 408 and 5xx; 429 is waited out, and is none.
    """

    @field_validator("base_url")
    @classmethod
    def _check_address(cls, value: str | None) -> str | None:
        return None if value is None else server_address(value)

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        if self.base_url is not None and self.engine != "openai":
            raise ValueError(
                f"`base_url` names a server, but `engine` is {self.engine}, which asks none: set "
                "generate.engine to openai, or leave generate.base_url out"
            )
        return self

    @model_validator(mode="after")
    def _check_magnitude(self) -> Self:
        if self.magnitude is not None and not any(
            sampler.clip in WITH_MAGNITUDE for sampler in self.mix
        ):
            raise ValueError(
                "`magnitude` says how strongly clips are changed, and no sampler of `mix` has clip "
                f"{' or '.join(WITH_MAGNITUDE)}: leave it out"
            )
        return self

    @property
    def candidates_per_sample(self) -> int:
        """Answers per sample from all samplers."""
        return (
            sum(sampler.num_candidates for sampler in self.mix) if self.mix else self.num_candidates
        )
