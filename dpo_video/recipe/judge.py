"""Section `judge`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from dpo_video.recipe.section import Section


class JudgeSettings(Section):
    """Who scores the candidates, and by which scorer."""

    backend: Literal["local", "openai"] = "openai"
    """`local` runs a transformers causal LM here; `openai` asks any compatible server."""
    engine: Literal["here", "ray"] = "here"
    """Where the backend works: `here`, in this process, or `ray`, on the workers of a Ray cluster."""
    model: str
    """Hub id, folder or `toy:judge` for `local`; the served name for `openai`."""
    revision: str | None = None
    """Hub revision of a local judge."""
    scorer: str = "hound_quality"
    """Shipped scorer or a path that ends in .yaml."""
    base_url: str | Annotated[list[str], Field(min_length=1)] | None = None
    """Server address, e.g. http://localhost:8000/v1, or a list of servers of the same model; None is the vendor's
    default."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; servers on loopback need none."""
    score_from: Literal["scorer", "verdict"] = "scorer"
    """`scorer` reads the score as the scorer file says; `verdict` has a label scorer's verdict written out instead, for
    servers without logprobs."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature of written verdicts."""
    max_tokens: PositiveInt = 512
    """Longest reply."""
    batch_size: PositiveInt = 32
    """Prompts per forward under `local`."""
    concurrency: PositiveInt = 32
    """Most requests in flight at each server under `openai`; it grows there from 32, and shrinks after 429."""
    timeout: PositiveFloat = 120.0
    """Seconds per request."""
    retries: int = Field(default=5, ge=0)
    """Attempts after the first for connection errors, timeouts, 408, 409, 429 and 5xx."""
    max_failed_fraction: float = Field(default=0.2, ge=0, le=1)
    """Stop when a larger share of judgments failed or was refused."""
    ask_refused_again: bool = False
    """Ask again what the judge refused before (too long, filtered): after its server has changed."""
    answers_as: str | None = None
    """Model name in the server's replies, where it is another than `model`: a deployment or a gateway's alias."""
    prices: str | None = None
    """YAML file with US dollars for a million tokens: `model: {input: .., output: .., cached: ..}`."""
    max_cost: PositiveFloat | None = None
    """Most US dollars that one command may spend on the judge; needs `prices`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights of a local judge."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of a local judge."""
