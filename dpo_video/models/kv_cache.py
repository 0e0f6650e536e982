"""What a language model keeps of the tokens it has read, as transformers holds it."""

import inspect

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationMixin

CACHE_ARGUMENT = (
    "cache"
    if "cache" in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    else "past_key_values"
)
"""What forwards and `generate` call them: `cache` from transformers 5.24 on."""


def cache_bytes(cache: DynamicCache) -> int:
    """Return the memory of the keys and values, and of recurrent states, that a cache holds."""
    states: list[Tensor] = []
    for layer in cache.layers:
        states += [state for state in vars(layer).values() if isinstance(state, torch.Tensor)]
    return sum(state.nbytes for state in states)
