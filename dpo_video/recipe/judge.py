"""Section `judge`."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from dpo_video.recipe.section import Section


class JudgeSettings(Section):
    """Who scores the candidates, and by which scorer."""

    backend: Literal["local", "openai"] = "openai"
    """`local` runs a transformers causal LM here; `openai` asks any compatible server."""
    model: str
    """Hub id, folder or `toy:judge` for `local`; the served name for `openai`."""
    revision: str | None = None
    """Hub revision of a local judge."""
    scorer: str = "hound_quality"
    """Shipped scorer or a path that ends in .yaml."""
    base_url: str | None = None
    """Server address, e.g. http://localhost:8000/v1; None is the vendor's default."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; servers on loopback need none."""
    score_from: Literal["scorer", "verdict"] = "scorer"
    """`scorer` reads the score as the scorer file says; `verdict` has a label scorer's verdict written out instead, for
    servers without logprobs."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature of written verdicts."""
    repeat: int = Field(default=0, ge=0)
    """Which of several independent judgments of a prompt this is, for verdicts sampled at a temperature; `agree` asks
    for 1, 2, ... to measure how far they differ. A local judge draws by it, a server draws anew by itself."""
    max_tokens: PositiveInt = 512
    """Longest reply."""
    batch_size: PositiveInt = 32
    """Prompts per forward under `local`."""
    concurrency: PositiveInt = 32
    """Requests in flight under `openai`."""
    timeout: PositiveFloat = 120.0
    """Seconds per request."""
    retries: int = Field(default=5, ge=0)
    """Attempts after the first for connection errors, 408, 429 and 5xx."""
    max_failed_fraction: float = Field(default=0.2, ge=0, le=1)
    """Stop when a larger share of judgments failed."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights of a local judge."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of a local judge."""
