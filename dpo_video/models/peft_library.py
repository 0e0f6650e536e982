"""PEFT, imported without torch's compiler.

PEFT imports bitsandbytes, and bitsandbytes 0.50 hands four functions to `torch.compile` as it is
imported (backends/default/ops.py), which imports the compiler: seconds of CPU time in each
command, for kernels that a CPU without 4-bit weights never calls. Here they are handed over when
they are first called.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch


@contextmanager
def compiled_when_called() -> Iterator[None]:
    """Let what is decorated with `torch.compile` while the block runs be compiled when it is first
    called.
    """
    library: Any = torch
    compile_now = library.compile

    def compile_later(function: Callable[..., Any] | None = None, **options: Any) -> Any:
        if function is None:
            return lambda decorated: compile_later(decorated, **options)
        compiled = cache(lambda: compile_now(function, **options))

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return compiled()(*args, **kwargs)

        return call

    library.compile = compile_later
    try:
        yield
    finally:
        library.compile = compile_now


if find_spec("bitsandbytes") is not None:
    with compiled_when_called():
        import_module("bitsandbytes")

from peft import (  # noqa: E402
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    set_peft_model_state_dict,
)

__all__ = [
    "LoraConfig",
    "PeftConfig",
    "PeftModel",
    "get_peft_model",
    "set_peft_model_state_dict",
]
