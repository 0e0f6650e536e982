"""What a judge's replies cost: tokens as the server counts them, money by the user's own price list."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field, ValidationError

from dpo_video.errors import UserError
from dpo_video.names import did_you_mean
from dpo_video.recipe import JudgeSettings, Section

if TYPE_CHECKING:
    from dpo_video.judges.backends import Reply

MILLION = 1_000_000


class Price(Section):
    """US dollars for a million tokens."""

    input: float = Field(ge=0)
    """Prompt tokens."""
    output: float = Field(ge=0)
    """Reply tokens."""
    cached: float | None = Field(default=None, ge=0)
    """Prompt tokens that the server had in its cache; as `input` where it is left out."""


@dataclass(kw_only=True, slots=True)
class Spending:
    """Sums over replies. Tokens are those that the server reported; `unreported` replies came without."""

    price: Price | None = None
    replies: int = 0
    unreported: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    """None: no server said."""
    attempts: int = 0

    def add(self, reply: "Reply") -> None:
        """Count a reply."""
        self.attempts += reply.attempts
        if reply.status != "answered":
            return
        self.replies += 1
        if reply.prompt_tokens is None:
            self.unreported += 1
            return
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens or 0
        if reply.cached_tokens is not None:
            self.cached_tokens = (self.cached_tokens or 0) + reply.cached_tokens

    @property
    def dollars(self) -> float | None:
        """US dollars so far; None without a price."""
        if self.price is None:
            return None
        cached = self.cached_tokens or 0
        cached_price = self.price.input if self.price.cached is None else self.price.cached
        return ((self.prompt_tokens - cached) * self.price.input + cached * cached_price
                + self.completion_tokens * self.price.output) / MILLION

    def with_pending(self, pending: int) -> float:
        """Return US dollars once `pending` more replies have come at the mean price of those so far."""
        return (self.dollars or 0.0) * (1 + pending / max(self.replies, 1))

    def summary(self) -> dict[str, Any]:
        """Return what is known: `tokens` (prompt, completion, cached), `cached_share` of the prompt's, `dollars`."""
        if self.replies == self.unreported:
            return {}
        tokens = {"prompt": self.prompt_tokens, "completion": self.completion_tokens}
        row: dict[str, Any] = {"tokens": tokens}
        if self.cached_tokens is not None:
            tokens["cached"] = self.cached_tokens
            row["cached_share"] = self.cached_tokens / max(self.prompt_tokens, 1)
        if self.unreported:
            row["without_usage"] = self.unreported
        return row if self.dollars is None else row | {"dollars": self.dollars}


def open_spending(settings: JudgeSettings) -> Spending:
    """Return an empty count with the price of `judge.model`; UserError for a cap that no price can keep."""
    price = load_prices(Path(settings.prices).expanduser()).get(settings.model) if settings.prices else None
    if settings.max_cost is not None and price is None:
        why = f"{settings.prices} has no price of {settings.model!r}" if settings.prices else "judge.prices is not set"
        raise UserError(f"judge.max_cost is {settings.max_cost:g} US dollars, and {why}: without it nothing can be "
                        "counted. Give judge.prices a YAML file with lines such as "
                        f"`{settings.model}: {{input: 0.15, output: 0.6}}` (US dollars for a million tokens)")
    return Spending(price=price)


def load_prices(path: Path) -> dict[str, Price]:
    """Return the prices in a YAML file by model: `name: {input: .., output: .., cached: ..}`."""
    try:
        node = yaml.compose(text := path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        rows = yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"cannot read judge.prices {str(path)!r}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: not YAML: {error.problem}") from error
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}:1: a price list is a mapping of model names, each with `input` and `output`")
    lines = {key.value: key.start_mark.line + 1 for key, _ in node.value}
    return {str(name): _price(row, f"{path}:{lines.get(str(name), 1)}: {name}") for name, row in rows.items()}


def _price(row: object, where: str) -> Price:
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: needs `input` and `output` (US dollars for a million tokens), got {row!r}")
    known = list(Price.model_fields)
    for key in row:
        if key not in known:
            raise UserError(f"{where}: unknown key `{key}`.{did_you_mean(str(key), known)} A price has: "
                            f"{', '.join(known)}")
    try:
        return Price(**row)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{where}: `{first['loc'][0]}`: {first['msg']}") from error
