"""What a judge's replies cost: tokens as the server counts them, money by the user's own price
list.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import ValidationError

from dpo_video.core.errors import UserError
from dpo_video.core.names import did_you_mean
from dpo_video.judge.types import Price, Spending
from dpo_video.recipe import JudgeSettings

if TYPE_CHECKING:
    pass


def open_spending(settings: JudgeSettings) -> Spending:
    """Return an empty count with the price of `judge.model`; UserError for a cap that no price can
    keep.
    """
    price = (
        load_prices(Path(settings.prices).expanduser()).get(settings.model)
        if settings.prices
        else None
    )
    if settings.max_cost is not None and price is None:
        why = (
            f"{settings.prices} has no price of {settings.model!r}"
            if settings.prices
            else "judge.prices is not set"
        )
        raise UserError(
            f"judge.max_cost is {settings.max_cost:g} US dollars, and {why}: without it nothing "
            f"can be "
            "counted. Give judge.prices a YAML file with lines such as "
            f"`{settings.model}: {{input: 0.15, output: 0.6}}` (US dollars for a million tokens)"
        )
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
        raise UserError(
            f"{path}:1: a price list is a mapping of model names, each with `input` and `output`"
        )
    lines = {key.value: key.start_mark.line + 1 for key, _ in node.value}
    return {
        str(name): _price(row, f"{path}:{lines.get(str(name), 1)}: {name}")
        for name, row in rows.items()
    }


def _price(row: object, where: str) -> Price:
    if not isinstance(row, Mapping):
        raise UserError(
            f"{where}: needs `input` and `output` (US dollars for a million tokens), got {row!r}"
        )
    known = list(Price.model_fields)
    for key in row:
        if key not in known:
            raise UserError(
                f"{where}: unknown key `{key}`.{did_you_mean(str(key), known)} A price has: "
                f"{', '.join(known)}"
            )
    try:
        return Price(**row)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{where}: `{first['loc'][0]}`: {first['msg']}") from error
