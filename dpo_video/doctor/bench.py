"""`doctor --bench`: pairs a second through a language model of the recipe's size with random
weights.
"""

import time
from typing import NamedTuple

import torch
from peft import get_peft_model
from torch import Tensor
from transformers import AutoModelForImageTextToText

from dpo_video.core.errors import UserError
from dpo_video.models.hub import model_spec
from dpo_video.models.load import choose_device, choose_dtype
from dpo_video.models.lora import LANGUAGE_ONLY, lora_config, lora_targets
from dpo_video.models.memory import GIB
from dpo_video.recipe import Recipe

ANSWER_TOKENS = 128
VIDEO_TOKENS = 2048
"""Of a clip, where `video.max_tokens` says nothing."""
STEPS = 3
MOST_CPU_PARAMETERS = 3e8


class BenchResult(NamedTuple):
    """What was timed."""

    parameters: float
    tokens: int
    """Of a row: clip, question and answer."""
    pairs_per_second: float
    peak_gib: float | None
    """None on a CPU."""


def bench(recipe: Recipe) -> BenchResult:
    """Return how fast plain rows of one pair go forward and back through the recipe's language
    model with LoRA: without the vision tower, 4 bit, or what rows have in common run once.
    """
    device, dtype = choose_device(recipe.model), choose_dtype(recipe.model)
    spec = model_spec(recipe.model)
    config, family = spec.config, spec.family
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    parameters = sum(each.numel() for each in model.get_decoder().parameters())
    if device.type == "cpu" and parameters > MOST_CPU_PARAMETERS:
        raise UserError(
            f"--bench: {recipe.model.name} has {parameters / 1e9:.1f} billion parameters, and "
            "there is no GPU here. Run it on the machine that trains, or leave --bench out"
        )
    tuned = get_peft_model(
        model,
        lora_config(recipe.train.lora, targets=lora_targets(model, family, LANGUAGE_ONLY)),
    )
    decoder = model.get_decoder()
    decoder.to_empty(device=device)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_(std=0.02)
        for buffer in decoder.buffers():
            buffer.normal_(std=0.02)
    del tuned
    width = config.get_text_config().hidden_size
    tokens = min(recipe.video.max_tokens or VIDEO_TOKENS, VIDEO_TOKENS) + ANSWER_TOKENS
    rows = torch.randn(2, tokens, width, device=device, dtype=dtype) * 0.02  # (2, T, width)
    if recipe.train.gradient_checkpointing is not False and device.type == "cuda":
        decoder.gradient_checkpointing_enable()
    decoder.train()
    seconds = min(_step(decoder, rows) for _ in range(STEPS))
    peak = torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None
    return BenchResult(parameters, tokens, 1 / seconds, peak)


def _step(decoder: torch.nn.Module, rows: Tensor) -> float:
    """Return the seconds of one forward and backward of both rows of a pair."""
    is_gpu = rows.device.type == "cuda"
    if is_gpu:
        torch.cuda.synchronize()
    begin = time.perf_counter()
    with torch.autocast(rows.device.type, rows.dtype, enabled=rows.dtype != torch.float32):
        decoder(inputs_embeds=rows, use_cache=False).last_hidden_state.float().mean().backward()
    if is_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - begin
