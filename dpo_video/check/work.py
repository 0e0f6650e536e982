"""Operations and memory traffic of a stage, counted from a checkpoint's sizes.

A linear layer takes 2 operations for each weight and token; attention 2 * layers * width * tokens^2
for a causal pass over `tokens`, half of the square of positions, for scores and sums each. Backward
through frozen weights costs a forward: they get no gradient. LoRA's own operations, the tower's
attention, norms and the reading of clips are not counted.
"""

from dataclasses import dataclass
from math import ceil

from transformers import PretrainedConfig

from dpo_video.models.activations import attentions, cached_width
from dpo_video.models.memory import Parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a device has to do; two are added with `+`, and `work * times` repeats one."""

    flops: float = 0.0
    """Operations of forwards over many tokens."""
    written_flops: float = 0.0
    """Operations of writing answers, a token at a time."""
    written_bytes: float = 0.0
    """What is read from memory for that: weights, keys and values."""
    layer_steps: float = 0.0
    """Decoder layers passed by it, one after another."""

    def __add__(self, other: "Work") -> "Work":
        return Work(
            flops=self.flops + other.flops,
            written_flops=self.written_flops + other.written_flops,
            written_bytes=self.written_bytes + other.written_bytes,
            layer_steps=self.layer_steps + other.layer_steps,
        )

    def __mul__(self, times: float) -> "Work":
        return Work(
            flops=self.flops * times,
            written_flops=self.written_flops * times,
            written_bytes=self.written_bytes * times,
            layer_steps=self.layer_steps * times,
        )

    @property
    def operations(self) -> float:
        """All operations, by which a measured sample is scaled."""
        return self.flops + self.written_flops


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """What a model's operations follow from."""

    linear: int
    """Weights that every token passes."""
    head: int
    """Weights that a token passes whose successor is looked at."""
    tower: int
    """Weights that every patch passes."""
    layers: int
    queries: int
    """Width of all layers' queries of a token."""
    cache_bytes: int
    """Keys and values of a token."""
    weight_bytes: float


def model_size(
    config: PretrainedConfig, parameters: Parameters, *, bytes_of_linear: float, size: int
) -> ModelSize:
    """Return the size of a checkpoint whose linear layers take `bytes_of_linear` a weight, and
    whose other numbers take `size` bytes.
    """
    text = config.get_text_config()
    head = text.vocab_size * text.hidden_size
    return ModelSize(
        linear=parameters.language,
        head=head,
        tower=parameters.vision,
        layers=text.num_hidden_layers,
        queries=sum(attention.queries for attention in attentions(text)),
        cache_bytes=cached_width(text) * size,
        weight_bytes=parameters.language * bytes_of_linear + head * size,
    )


def reading(model: ModelSize, tokens: float, *, before: float = 0.0, scored: float = 0.0) -> Work:
    """Return a forward over `tokens` in a row, behind `before` others whose keys are there; at
    `scored` of them the head runs.
    """
    pairs_of_positions = tokens * before + tokens * tokens / 2
    attention = 4 * model.queries * pairs_of_positions
    return Work(flops=2 * model.linear * tokens + 2 * model.head * scored + attention)


def encoding(model: ModelSize, patches: float) -> Work:
    """Return a pass of the vision tower over a clip."""
    return Work(flops=2 * model.tower * patches)


def writing(
    model: ModelSize, *, answers: int, tokens: float, prompt: float, at_once: int, sharing: float
) -> Work:
    """Return the writing of `answers` of `tokens` tokens each, `at_once` of them together.

    Args:
        prompt: tokens whose keys and values each answer looks at.
        sharing: answers that look at the same ones, which are then read once for them.
    """
    batches = ceil(answers / at_once)
    context = prompt + tokens / 2
    attention = 4 * model.queries * context
    cache = min(answers, at_once) * (prompt / sharing + tokens / 2) * model.cache_bytes
    return Work(
        written_flops=answers * tokens * (2 * (model.linear + model.head) + attention),
        written_bytes=batches * tokens * (model.weight_bytes + cache),
        layer_steps=batches * tokens * model.layers,
    )


def training(
    model: ModelSize, *, prompt: float, answers: tuple[float, float], shared: bool, again: bool
) -> Work:
    """Return a step's forward and backward of one pair, without the tower.

    Args:
        prompt: tokens of the clip and the question.
        shared: whether both answers follow one prompt, instead of a copy each.
        again: whether the backward pass computes the forward again (gradient checkpointing).
    """
    return _forward(model, prompt=prompt, answers=answers, shared=shared) * (3 if again else 2)


def referring(
    model: ModelSize, *, prompt: float, answers: tuple[float, float], shared: bool
) -> Work:
    """Return the reference's forward of one pair, without the tower."""
    return _forward(model, prompt=prompt, answers=answers, shared=shared)


def _forward(
    model: ModelSize, *, prompt: float, answers: tuple[float, float], shared: bool
) -> Work:
    work = reading(model, prompt) * (1 if shared else 2)
    for tokens in answers:
        work += reading(model, tokens, before=prompt, scored=tokens)
    return work
