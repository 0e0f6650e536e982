"""Memory of training and generation, and answers at a time, planned from published configs."""

import json

import pytest

from dpo_video.models.activations import attentions
from dpo_video.models.hub import model_spec
from dpo_video.models.memory import (
    GIB,
    PeakLoad,
    answers_at_once,
    count_parameters,
    estimate_generation,
    estimate_training,
)
from dpo_video.recipe import LoraSettings, ModelSettings, TrainSettings

LOAD = PeakLoad(sequences=1, prompt_tokens=1200, answer_tokens=100, patches=4620)


def test_weights_in_4_bit_and_16_bit_take_what_their_bits_say():
    spec = model_spec(ModelSettings(name="llava-hf/LLaVA-NeXT-Video-7B-hf"))
    counted = count_parameters(spec)
    full = estimate_training(spec, ModelSettings(name="x"), TrainSettings(), LOAD)
    small = estimate_training(spec, ModelSettings(name="x", quantize="nf4"), TrainSettings(), LOAD)
    assert full["weights"] == pytest.approx(2 * counted.total / GIB)
    wanted = (counted.language * 4.127 / 8 + 2 * (counted.total - counted.language)) / GIB
    assert small["weights"] == pytest.approx(wanted)
    assert small["weights"] / full["weights"] < 0.35
    assert small["total"] == pytest.approx(
        sum(value for name, value in small.items() if name != "total")
    )


def test_adapter_gradients_and_optimizer_follow_rank_and_optimizer():
    spec = model_spec(ModelSettings(name="llava-hf/LLaVA-NeXT-Video-7B-hf"))
    parameters = count_parameters(spec).lora_per_rank
    train = TrainSettings(lora=LoraSettings(rank=32, alpha=32))
    estimate = estimate_training(spec, ModelSettings(name="x"), train, LOAD)
    assert (
        estimate["adapter"]
        == estimate["adapter gradients"]
        == pytest.approx(4 * 32 * parameters / GIB)
    )
    assert estimate["optimizer"] == 2 * estimate["adapter"]
    small = estimate_training(
        spec,
        ModelSettings(name="x"),
        train.model_copy(update={"optimizer": "paged_adamw_8bit"}),
        LOAD,
    )
    assert small["optimizer"] == pytest.approx(estimate["optimizer"] / 4)


def test_activations_grow_with_tokens_and_shrink_with_checkpointing():
    spec = model_spec(ModelSettings(name="Qwen/Qwen2.5-VL-7B-Instruct"))
    model = ModelSettings(name="x")
    kept = estimate_training(spec, model, TrainSettings(gradient_checkpointing=False), LOAD)[
        "activations"
    ]
    redone = estimate_training(spec, model, TrainSettings(), LOAD)["activations"]
    longer = PeakLoad(sequences=1, prompt_tokens=2 * 1200 + 200, answer_tokens=100, patches=4620)
    assert redone < kept / 8
    assert estimate_training(spec, model, TrainSettings(), longer)["activations"] == pytest.approx(
        2 * redone, rel=0.01
    )


def test_generation_counts_the_cache_of_all_answers():
    spec = model_spec(ModelSettings(name="Qwen/Qwen2.5-VL-7B-Instruct"))
    many = PeakLoad(sequences=8, prompt_tokens=1200, answer_tokens=256, patches=4620)
    estimate = estimate_generation(spec, ModelSettings(name="x"), many)
    # keys and values, 28 layers, 4 heads of 128, 2 bytes
    assert estimate["cache"] == pytest.approx(8 * 1456 * 2 * 28 * 512 * 2 / GIB)
    shared = estimate_generation(spec, ModelSettings(name="x"), many, answers_per_clip=8)
    assert shared["cache"] == pytest.approx((1200 + 8 * 256) * 2 * 28 * 512 * 2 / GIB)
    assert json.dumps(estimate)


@pytest.mark.parametrize(
    ("name", "queries", "cached"),
    [
        (
            "google/gemma-4-31B-it",
            50 * 32 * 256 + 10 * 32 * 512,
            2 * (50 * 16 * 256 + 10 * 4 * 512),
        ),
        (
            "google/gemma-4-26B-A4B-it",
            25 * 16 * 256 + 5 * 16 * 512,
            2 * (25 * 8 * 256 + 5 * 2 * 512),
        ),
        ("google/gemma-4-E4B-it", 35 * 8 * 256 + 7 * 8 * 512, 2 * (35 * 2 * 256 + 7 * 2 * 512)),
        ("moonshotai/Kimi-K2.5", 61 * 64 * (192 + 128) // 2, 61 * (512 + 64)),
    ],
)
def test_each_layer_counts_with_its_own_heads(name, queries, cached):
    """Every sixth layer of Gemma 4 sees all tokens and has heads of 512, where others have 256.
    Kimi's have queries of 192 and values of 128, and its cache holds 512 and 64 for both.
    """
    spec = model_spec(ModelSettings(name=name))
    widths = attentions(spec.config.get_text_config())
    assert sum(layer.queries for layer in widths) == queries
    load = PeakLoad(sequences=1, prompt_tokens=1200, answer_tokens=0, patches=4620)
    estimate = estimate_generation(spec, ModelSettings(name="x"), load)
    assert estimate["cache"] == pytest.approx(1200 * cached * 2 / GIB)


def test_auto_writes_as_many_answers_as_half_of_the_free_memory_holds():
    """An answer of 256 tokens of Qwen2.5-VL-7B: 256 x 57,344 bytes of keys and values in bfloat16,
    152,064 logits of 16 bytes.
    """
    spec, model = (
        model_spec(ModelSettings(name="Qwen/Qwen2.5-VL-7B-Instruct")),
        ModelSettings(name="x"),
    )
    an_answer = 256 * 2 * 28 * 512 * 2 + 152_064 * 16

    def at_once(batch_size, *, shared=True, free=None):
        return answers_at_once(
            batch_size, spec, model, shared=shared, answer_tokens=256, free_bytes=free
        )

    assert at_once("auto", free=2 * 40 * an_answer + 1) == 40
    assert at_once("auto", free=1000 * an_answer) == 256 and at_once("auto", free=1) == 1
    assert (at_once("auto"), at_once("auto", shared=False), at_once(5, free=1)) == (64, 8, 5)
