"""What repositories' own code, written for earlier transformers, needs to load on this one."""

import os
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from types import ModuleType
from typing import Any

from transformers import AutoModel, GenerationConfig, PretrainedConfig
from transformers.dynamic_module_utils import get_cached_module_file, get_class_from_dynamic_module

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
        loaded = AutoModel.from_pretrained(name, config=config, **options)
        model = loaded[0] if options.get("output_loading_info") else loaded
        _compute_once(model)
        if not model.can_generate():  # transformers >= 4.50: only classes that say so have one
            model.generation_config = GenerationConfig.from_model_config(config.get_text_config())
        return loaded

    @staticmethod
    def from_config(config: PretrainedConfig, **options: Any) -> Any:
        """Make a model of random weights; `options` as AutoModel's, which would run the code of a
        hub id's newest commit.
        """
        model_class = _prepare(config, str(config.name_or_path), commit_of(config))
        options.pop("trust_remote_code", None)
        return model_class._from_config(config, **options)


def _compute_once(model: Any) -> None:
    """Switch off the gradient checkpointing that a tower's own code begins with (InternVL), in
    place: TRL would take the whole model for one that has it on, and switch it on again.
    """
    for module in model.modules():
        if "gradient_checkpointing" in vars(module):
            module.gradient_checkpointing = False


def commit_of(config: PretrainedConfig) -> str | None:
    """Return the hub's commit that a config was read from, whose code is then run too; None for a
    folder.
    """
    commit: str | None = vars(config).get("_commit_hash")
    return commit


def _prepare(config: PretrainedConfig, name: str, revision: str | None) -> Any:
    model_class = get_class_from_dynamic_module(_reference(config), name, revision=revision)
    finish(model_class)
    return model_class


def _reference(config: PretrainedConfig) -> str:
    reference: str = config.to_dict()["auto_map"]["AutoModel"]
    return reference


def put_modules(
    config: PretrainedConfig,
    name: str,
    revision: str | None,
    modules: Mapping[str, Mapping[str, Any]],
) -> None:
    """Have a repository's code find ours where it imports modules of its own, by their names and
    what they hold: those files are then never read.
    """
    repository, _, main = _reference(config).rpartition("--")  # one of its own, or `name`
    pinned = revision if repository in ("", name) else None
    file = f"{main.split('.')[0]}.py"
    path = get_cached_module_file(repository or name, file, revision=pinned)
    package = os.path.dirname(os.path.normpath(path)).replace(os.sep, ".")
    for module, contents in modules.items():
        ours = ModuleType(f"{package}.{module}")
        vars(ours).update(contents)
        sys.modules[ours.__name__] = ours


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


def text_config_at(
    config: PretrainedConfig,
    name: str,
    *,
    written: Callable[[PretrainedConfig], dict[str, Any]] = lambda part: part.to_dict(),
) -> PretrainedConfig:
    """Return the config, its `get_text_config` giving the part called `name`.

    Its class becomes a subclass of the same name: what is saved stays as the repository writes it.
    Which attention the published config asks for (`flash_attention_2`) is forgotten.

    Args:
        written: the part as it is saved.
    """
    own = type(config)
    vars(config)[name]._attn_implementation = None

    def get_text_config(self: PretrainedConfig, *_: Any, **__: Any) -> PretrainedConfig:
        part: PretrainedConfig = vars(self)[name]
        return part

    def to_dict(self: PretrainedConfig) -> dict[str, Any]:
        return {**own.to_dict(self), name: written(vars(self)[name])}

    return _with_methods(config, get_text_config, to_dict)


def with_text_config(config: PretrainedConfig, text: PretrainedConfig) -> PretrainedConfig:
    """Return the config, its `get_text_config` giving `text`, which is not saved with it."""

    def get_text_config(self: PretrainedConfig, *_: Any, **__: Any) -> PretrainedConfig:
        return text

    return _with_methods(config, get_text_config)


def _with_methods(config: PretrainedConfig, *methods: Callable[..., Any]) -> PretrainedConfig:
    own = type(config)
    named = {method.__name__: method for method in methods}
    config.__class__ = type(own.__name__, (own,), {"__module__": own.__module__, **named})
    return config


def own_function(reference: str, name: str, source: Mapping[str, Any]) -> Any:
    """Return a function of a repository's own code, such as `conversation.get_conv_template`."""
    where = {key: source[key] for key in ("revision", "local_files_only") if key in source}
    return get_class_from_dynamic_module(reference, name, **where)
