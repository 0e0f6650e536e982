"""The control tokens of a checkpoint's tokenizer, read from its files without transformers: texts
are looked through for them before anything is paid.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from dpo_video.core import strict_json
from dpo_video.core.control_tokens import ControlTokens
from dpo_video.core.errors import UserError
from dpo_video.models.names import local_file
from dpo_video.recipe import ModelSettings, Recipe


def recipe_tokens(recipe: Recipe) -> ControlTokens:
    """Return the special tokens of the policy, and of the other ones that `generate.mix` asks the
    questions.
    """
    mixed = [] if recipe.data.pairs is not None else recipe.generate.mix or []
    further = [sampler.model for sampler in mixed if sampler.model is not None]
    of_models = [checkpoint_tokens(settings) for settings in (recipe.model, *further)]
    return ControlTokens(
        tokens=frozenset().union(*(tokens.tokens for tokens in of_models)),
        ends=frozenset().union(*(tokens.ends for tokens in of_models)),
    )


def checkpoint_tokens(settings: ModelSettings) -> ControlTokens:
    """Return the special tokens of a checkpoint that is on this disk; none of one that is not yet.

    Those end an answer that the tokenizer calls so, or at which the checkpoint's generation stops.
    """
    config = _read(settings, "tokenizer_config.json")
    by_id = dict(_added_tokens(_read(settings, "tokenizer.json"), config))
    named = {
        text
        for name, value in {**_read(settings, "special_tokens_map.json"), **config}.items()
        if name.endswith("_token") and (text := _token_text(value))
    }
    ends = {_token_text(config.get("eos_token"))}
    for name in ("generation_config.json", "config.json"):
        eos_ids: Any = _read(settings, name).get("eos_token_id")
        for eos_id in eos_ids if isinstance(eos_ids, list) else [eos_ids]:
            ends.add(by_id.get(eos_id, ""))
    tokens = {*named, *by_id.values()}
    return ControlTokens(
        tokens=frozenset(tokens), ends=frozenset(end for end in ends if end in tokens)
    )


def _added_tokens(
    tokenizer: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[tuple[int, str]]:
    """Yield id and text of each special token, from either of the two files that tell them."""
    for row in tokenizer.get("added_tokens") or []:
        if row.get("special") and row.get("content"):
            yield int(row["id"]), row["content"]
    for token_id, row in (config.get("added_tokens_decoder") or {}).items():
        if row.get("special") and row.get("content"):
            yield int(token_id), row["content"]


def _token_text(value: Any) -> str:
    """Return a token as it is written: a text, or the `content` of an object; "" for neither."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def _read(settings: ModelSettings, name: str) -> dict[str, Any]:
    path = local_file(settings, name)
    if path is None:
        return {}
    try:
        content = strict_json.loads_foreign(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON, so this checkpoint cannot be read: {error}") from error
    return content if isinstance(content, dict) else {}
