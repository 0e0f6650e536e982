"""Section `generate`."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from dpo_video.recipe.section import Section


class GenerateSettings(Section):
    """Candidates: N sampled answers of the policy to each sample."""

    engine: Literal["local", "openai"] = "local"
    """`local` runs the policy here; `openai` asks a compatible server that takes video (vLLM, SGLang)."""
    num_candidates: PositiveInt = 8
    """Answers per sample."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature; 0 is greedy."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus sampling."""
    top_k: int = Field(default=0, ge=0)
    """Keep the k likeliest tokens; 0 keeps all."""
    max_new_tokens: PositiveInt = 256
    """An answer is cut there, and marked as cut."""
    batch_size: PositiveInt = 8
    """Sequences (answers) generated at a time."""
    base_url: str | None = None
    """Server address under `openai`."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key; servers on loopback need none."""
    served_model: str | None = None
    """The model's name on the server; None uses `model.name`."""
    video_as: Literal["images", "video_url"] = "images"
    """How a server gets the clip: the policy's frames as images, or the file."""
    concurrency: PositiveInt = 16
    """Requests in flight under `openai`."""
    timeout: PositiveFloat = 300.0
    """Seconds per request."""
    retries: int = Field(default=5, ge=0)
    """Attempts after the first for connection errors, 408, 429 and 5xx."""
