"""What a judge's replies cost: tokens as the server counts them, money by the user's own price
list.
"""

from pathlib import Path

from dpo_video.core.errors import UserError
from dpo_video.core.yaml_file import load
from dpo_video.judge.types import Price, Spending
from dpo_video.recipe import JudgeSettings


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
    return load(
        path,
        dict[str, Price],
        expected="a price list is a mapping of model names, each with `input` and `output`",
    )
