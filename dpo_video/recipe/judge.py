"""Section `judge`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from dpo_video.core.names import did_you_mean
from dpo_video.core.text import without_secrets
from dpo_video.recipe.affects import OVERRIDES, Affects
from dpo_video.recipe.section import Section, server_address

SEVERAL_JUDGES = {"jury", "cascade", "scorer"}
"""What one judge among several cannot override."""


class CascadeSettings(Section):
    """A cheaper judge that is asked first; its other keys override those of the section."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Affects.SCORES]
    """The first judge; other keys of the section (backend, base_url, ...) may stand beside it."""
    below: Annotated[float, Affects.SCORES] = Field(default=0.7, gt=0, le=1)
    """Probability of the likeliest label under which the section's own judge decides."""


class JudgeSettings(Section):
    """Who scores the candidates, and by which scorer."""

    backend: Annotated[Literal["local", "openai"], Affects.SCORES] = "openai"
    """`local` runs a transformers causal LM here; `openai` asks any compatible server."""
    engine: Annotated[Literal["here", "ray"], Affects.SPEED] = "here"
    """Where the backend works: `here`, in this process, or `ray`, on the workers of a Ray cluster.
    """
    model: Annotated[str, Affects.SCORES]
    """Hub id, folder or `toy:judge` for `local`; the served name for `openai`."""
    revision: Annotated[str | None, Affects.SCORES] = None
    """Hub revision of a local judge. Under `openai`, your name for the version that the servers
    run: they are not told it, and replies under another are asked for again."""
    scorer: Annotated[str, Affects.SCORES] = "hound_quality"
    """Shipped scorer or a path that ends in .yaml."""
    base_url: Annotated[str | Annotated[list[str], Field(min_length=1)] | None, Affects.SPEED] = (
        None
    )
    """Server address, e.g. http://localhost:8000/v1, or a list of servers of the same model; None
    is the vendor's default."""
    api_key_env: Annotated[str, Affects.SPEED] = "OPENAI_API_KEY"
    """Environment variable that holds the key; servers on loopback need none, and `none` says that
    another does not either."""
    score_from: Annotated[Literal["scorer", "verdict"], Affects.SCORES] = "scorer"
    """`scorer` reads the score as the scorer file says; `verdict` has a label scorer's verdict
    written out instead, for servers without logprobs."""
    temperature: Annotated[float, Affects.SCORES] = Field(default=0.0, ge=0)
    """Sampling temperature of written verdicts."""
    repeat: Annotated[int, Affects.SCORES] = Field(default=0, ge=0)
    """Which of several independent judgments of a prompt this is, for verdicts sampled at a
    temperature; `agree` asks for 1, 2, ... to measure how far they differ. A local judge draws by
    it, a server draws anew by itself.
    """
    max_tokens: Annotated[PositiveInt, Affects.SCORES] = 512
    """Longest reply."""
    batch_size: Annotated[PositiveInt, Affects.SPEED] = 32
    """Prompts per forward under `local`."""
    concurrency: Annotated[PositiveInt, Affects.SPEED] = 32
    """Most requests in flight at each server under `openai`; it grows there from 32, and shrinks
    after 429.
    """
    while_generating: Annotated[bool, Affects.SPEED] = True
    """`dpo-video run` asks a judge behind a server about answers while the next are being written.
    Not where a score takes several replies, nor under `max_cost`.
    """
    timeout: Annotated[PositiveFloat, Affects.SPEED] = 120.0
    """Seconds per request."""
    retries: Annotated[int, Affects.SPEED] = Field(default=5, ge=0)
    """Attempts after the first for connection errors, timeouts, 408, 409 and 5xx; 429 is waited
    out, and is none.
    """
    max_failed_fraction: Annotated[float, Affects.SPEED] = Field(default=0.2, ge=0, le=1)
    """Stop when a larger share of judgments failed or was refused, those aside that did in an
    earlier run too.
    """
    max_unscored_fraction: Annotated[float, Affects.SPEED] = Field(default=0.9, ge=0, le=1)
    """Stop when a larger share of the first 200 replies gives no score for one reason, 20 of them
    or more: most likely the judge cannot give what the scorer asks for.
    """
    ask_refused_again: Annotated[bool, Affects.SCORES] = False
    """Ask again what the judge refused before (too long, filtered): after its server has changed.
    """
    answers_as: Annotated[str | None, Affects.SPEED] = None
    """Model name in the server's replies, where it is another than `model`: a deployment or a
    gateway's alias.
    """
    prices: Annotated[str | None, Affects.SPEED] = None
    """YAML file with US dollars for a million tokens: `model: {input: .., output: .., cached: ..}`.
    """
    max_cost: Annotated[PositiveFloat | None, Affects.SPEED] = None
    """Most US dollars that one command may spend on the judge; needs `prices`."""
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], Affects.SCORES] = "auto"
    """Weights of a local judge."""
    device: Annotated[Literal["auto", "cpu", "cuda"], Affects.SCORES] = "auto"
    """Device of a local judge."""
    split_claims: Annotated[Literal["judge", "sentences"], Affects.SCORES] = "judge"
    """Who takes answers apart under a `claims` scorer: the judge writes a list, or every sentence
    is a claim.
    """
    opponents: Annotated[PositiveInt | None, Affects.SCORES] = None
    """Answers that each answer to a question meets under a `pairwise` scorer, in both orders; None:
    all others.
    """
    jury: Annotated[list[dict[str, Any]] | None, Affects.SCORES, OVERRIDES] = Field(
        default=None, min_length=2
    )
    """Several judges, each as overrides of this section (`{}` is its own judge); their standardised
    scores are averaged."""
    cascade: Annotated[CascadeSettings | None, OVERRIDES] = None
    """A cheaper judge that is asked first; this section's own judge decides where the first is
    unsure.
    """

    @field_validator("base_url")
    @classmethod
    def _check_addresses(cls, value: str | list[str] | None) -> str | list[str] | None:
        for url in [value] if isinstance(value, str) else value or ():
            server_address(url)
        return value

    @model_validator(mode="after")
    def _check_backend(self) -> Self:
        if self.base_url is not None and self.backend == "local":
            raise ValueError(
                "`base_url` names a server, but `backend` is local, which asks none: set "
                "judge.backend to "
                "openai, or leave judge.base_url out"
            )
        return self

    @model_validator(mode="after")
    def _check_several(self) -> Self:
        """Check the settings of every judge, so that a wrong key is found before any work."""
        if self.jury is not None and self.cascade is not None:
            raise ValueError(
                "`jury` and `cascade` are two ways to use several judges; give one of them"
            )
        for index, row in enumerate(self.jury or ()):
            self._check_one(f"jury[{index}]", row)
        if self.cascade is not None:
            self._check_one("cascade", self.cascade.model_extra or {})
        return self

    def _check_one(self, name: str, row: Mapping[str, Any]) -> None:
        for key in row:
            if key in SEVERAL_JUDGES:
                raise ValueError(f"`{name}.{key}` cannot differ: all judges use one `{key}`")
        try:
            self.overridden(row)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(key) for key in first["loc"])
            if first["type"] == "extra_forbidden":
                raise ValueError(
                    f"unknown key `{name}.{key}`.{did_you_mean(key, JudgeSettings.model_fields)} "
                    f"Known "
                    f"keys: {', '.join(JudgeSettings.model_fields)}"
                ) from None
            given = without_secrets(repr(first["input"]))
            raise ValueError(f"`{name}.{key}`: {first['msg']}, got {given}") from None

    def overridden(self, row: Mapping[str, Any]) -> "JudgeSettings":
        """Return the settings of one judge: these, with its own keys in their place, and no other
        judges.
        """
        left_out = {"jury", "cascade"} | ({"base_url"} if row.get("backend") == "local" else set())
        if self.backend == "local" and row.get("backend") == "openai":
            left_out.add("revision")  # of the weights here, not of the server's
        return JudgeSettings(**self.model_dump(exclude=left_out, exclude_unset=True) | dict(row))

    def first_judge(self) -> "JudgeSettings":
        """Return the settings of the judge that `cascade` asks first."""
        assert self.cascade is not None, "without a cascade there is no first judge"
        return self.overridden({"model": self.cascade.model} | (self.cascade.model_extra or {}))
