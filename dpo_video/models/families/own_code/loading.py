"""What repositories' own code, written for earlier transformers, needs to load on this one."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from transformers import AutoModel, GenerationConfig, PretrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module

_finishing: set[type] = set()
"""Classes whose __init__ is wrapped already."""


class OwnCodeModel:
    """AutoModel for repositories' own code: their classes end as transformers >= 5 needs it."""

    @staticmethod
    def from_pretrained(name: str, *, config: PretrainedConfig, **options: Any) -> Any:
        """Load a checkpoint; `options` as AutoModel's, attention being the language model's."""
        _prepare(config, name, options.get("revision"))
        if "attn_implementation" in options:
            config.get_text_config()._attn_implementation = options.pop("attn_implementation")
        model = AutoModel.from_pretrained(name, config=config, **options)
        if not model.can_generate():  # transformers >= 4.50: only classes that say so have one
            model.generation_config = GenerationConfig.from_model_config(config.get_text_config())
        return model

    @staticmethod
    def from_config(config: PretrainedConfig, **options: Any) -> Any:
        """Make a model of random weights; `options` as AutoModel's."""
        _prepare(config, str(config.name_or_path), None)
        return AutoModel.from_config(config, **options)


def _prepare(config: PretrainedConfig, name: str, revision: str | None) -> None:
    reference = config.to_dict()["auto_map"]["AutoModel"]
    finish(get_class_from_dynamic_module(reference, name, revision=revision))


def finish(model_class: Any) -> None:
    """Make a class call `post_init` at the end of its __init__ where its own code does not.

    Before transformers 5 nothing was amiss without; since then weights cannot be loaded.
    """
    if model_class in _finishing:
        return
    _finishing.add(model_class)
    own_init: Callable[..., None] = model_class.__init__

    @wraps(own_init)
    def init(self: Any, *values: Any, **named: Any) -> None:
        own_init(self, *values, **named)
        if "all_tied_weights_keys" not in vars(self):
            self.post_init()

    model_class.__init__ = init


def text_config_at(config: PretrainedConfig, name: str) -> PretrainedConfig:
    """Return the config, its `get_text_config` giving the part called `name`.

    Its class becomes a subclass of the same name: what is saved stays as the repository writes it.
    Which attention the published config asks for (`flash_attention_2`) is forgotten.
    """
    vars(config)[name]._attn_implementation = None

    def get_text_config(self: PretrainedConfig, *_: Any, **__: Any) -> PretrainedConfig:
        part: PretrainedConfig = vars(self)[name]
        return part

    return _with_method(config, get_text_config)


def with_text_config(config: PretrainedConfig, text: PretrainedConfig) -> PretrainedConfig:
    """Return the config, its `get_text_config` giving `text`, which is not saved with it."""

    def get_text_config(self: PretrainedConfig, *_: Any, **__: Any) -> PretrainedConfig:
        return text

    return _with_method(config, get_text_config)


def _with_method(config: PretrainedConfig, method: Callable[..., Any]) -> PretrainedConfig:
    own = type(config)
    config.__class__ = type(
        own.__name__, (own,), {"__module__": own.__module__, method.__name__: method}
    )
    return config


def own_function(reference: str, name: str, source: Mapping[str, Any]) -> Any:
    """Return a function of a repository's own code, such as `conversation.get_conv_template`."""
    where = {key: source[key] for key in ("revision", "local_files_only") if key in source}
    return get_class_from_dynamic_module(reference, name, **where)
