"""Plans from config alone: published numbers, local configs, parameters and memory."""

import json
from pathlib import Path

import pytest
from policies import each_kind, policy, tiny_folder

from dpo_video.core.errors import UserError
from dpo_video.models.families import FAMILIES, row_name
from dpo_video.models.hub import model_spec, published_names
from dpo_video.models.memory import (
    PeakLoad,
    count_parameters,
    estimate_training,
)
from dpo_video.models.published import PUBLISHED
from dpo_video.models.published import __file__ as published_module
from dpo_video.models.tokens import sound_tokens, video_tokens, vision_patches
from dpo_video.recipe import ModelSettings, TrainSettings, VideoSettings

PUBLISHED_FILES = Path(published_module).parent
PUBLISHED_CONTEXT = {
    "Qwen/Qwen2.5-VL-3B-Instruct": 128000,
    "Qwen/Qwen2.5-VL-7B-Instruct": 128000,
    "llava-hf/LLaVA-NeXT-Video-7B-hf": 4096,
    "llava-hf/LLaVA-NeXT-Video-7B-DPO-hf": 4096,
    "Qwen/Qwen2-VL-7B-Instruct": 32768,
    "Qwen/Qwen3-VL-8B-Instruct": 262144,
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": 32768,
    "lkhl/VideoLLaMA3-2B-Image-HF": 131072,
    "zai-org/GLM-4.1V-9B-Thinking": 65536,
    "allenai/Molmo2-8B": 36864,
    "facebook/Perception-LM-1B": 11520,
    "LanguageBind/Video-LLaVA-7B-hf": 4096,
    "OpenGVLab/InternVL3-8B-hf": 32768,
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": 8192,
    "llava-hf/llava-1.5-7b-hf": 4096,
    "llava-hf/llava-v1.6-mistral-7b-hf": 32768,
    "mistral-community/pixtral-12b": 1024000,
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": 131072,
    "openbmb/MiniCPM-V-4.6": 262144,
    "Qwen/Qwen3-VL-30B-A3B-Instruct": 262144,
    "Qwen/Qwen3.6-35B-A3B": 262144,
    "Qwen/Qwen3.5-9B": 262144,
    "Qwen/Qwen3.5-27B": 262144,
    "Qwen/Qwen2.5-Omni-3B": 32768,
    "Qwen/Qwen2.5-Omni-7B": 32768,
    "Qwen/Qwen3-Omni-30B-A3B-Instruct": 65536,
    "lkhl/VideoLLaMA3-7B-Image-HF": 32768,
    "zai-org/GLM-4.6V-Flash": 131072,
    "zai-org/GLM-4.5V": 65536,
    "zai-org/GLM-4.6V": 131072,
    "LGAI-EXAONE/EXAONE-4.5-33B": 262144,
    "google/gemma-4-E4B-it": 131072,
    "google/gemma-4-31B-it": 262144,
    "google/gemma-4-26B-A4B-it": 262144,
    "openbmb/MiniCPM-V-4.7-1B": 262144,
    "baidu/ERNIE-4.5-VL-28B-A3B-PT": 131072,
    "moonshotai/Kimi-K2.5": 262144,
}


def language_model(
    hidden: int, inner: int, layers: int, keys: int, *, bias: bool
) -> tuple[int, int]:
    """Return parameters of a gated-MLP decoder's linear weights, and of its norms and
    query/key/value biases.
    """
    weights = layers * (2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * inner)
    return weights, layers * (2 * hidden + bias * (hidden + 2 * keys)) + hidden


def qwen_vision(out: int, inner: int = 3420, hidden: int = 1280, depth: int = 32) -> int:
    """Patch embedding (2 x 14 x 14 x 3 inputs), blocks with biases and RMS norms, the merger over 2
    x 2 patches.
    """
    block = (
        3 * hidden * hidden
        + 3 * hidden
        + hidden * hidden
        + hidden
        + 3 * hidden * inner
        + 2 * inner
        + hidden
    )
    merged = 4 * hidden
    return (
        1176 * hidden
        + depth * (block + 2 * hidden)
        + hidden
        + merged * merged
        + merged
        + merged * out
        + out
    )


def clip_vision(hidden: int = 1024, inner: int = 4096, depth: int = 24) -> int:
    """Patches without bias, class token, 577 positions, blocks with biases and layer norms, two
    outer norms.
    """
    block = 4 * (hidden * hidden + hidden) + 2 * hidden * inner + inner + hidden + 4 * hidden
    return 588 * hidden + hidden + 577 * hidden + depth * block + 4 * hidden


@pytest.mark.parametrize(
    ("name", "hidden", "inner", "layers", "keys", "embeddings", "billions"),
    [
        ("Qwen/Qwen2.5-VL-3B-Instruct", 2048, 11008, 36, 256, 151936 * 2048, 3.75),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 3584, 18944, 28, 512, 2 * 152064 * 3584, 8.29),
    ],
)
def test_qwens_published_parameters_are_those_of_the_formula(
    name, hidden, inner, layers, keys, embeddings, billions
):
    counted = count_parameters(model_spec(ModelSettings(name=name)))
    weights, other = language_model(hidden, inner, layers, keys, bias=True)
    assert (counted.language, counted.norms_and_biases, counted.embeddings) == (
        weights,
        other,
        embeddings,
    )
    assert counted.vision == qwen_vision(hidden)
    assert counted.total / 1e9 == pytest.approx(billions, abs=0.01), (
        "the size that the model's page states"
    )
    per_layer = (hidden + hidden) * 2 + (hidden + keys) * 2 + (hidden + inner) * 3
    assert counted.lora_per_rank == layers * per_layer


def test_llavas_published_parameters_are_those_of_the_formula():
    counted = count_parameters(model_spec(ModelSettings(name="llava-hf/LLaVA-NeXT-Video-7B-hf")))
    weights, other = language_model(4096, 11008, 32, 4096, bias=False)
    assert (counted.language, counted.norms_and_biases) == (weights, other)
    assert counted.embeddings == 2 * 32064 * 4096
    projector = 1024 * 4096 + 4096 + 4096 * 4096 + 4096
    newline = 4096
    assert counted.vision == clip_vision() + projector + newline
    assert counted.total / 1e9 == pytest.approx(7.06, abs=0.01)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_row_builds_its_family_without_a_network(name):
    """A row by its model type, but where it is one of a type's several."""
    spec = model_spec(ModelSettings(name=name))
    model_type = json.loads((PUBLISHED[name] / "config.json").read_text())["model_type"]
    apart = {
        "mistral-community/pixtral-12b": "pixtral",
        "google/gemma-4-26B-A4B-it": "gemma4_moe",
    }
    assert spec.family.name == apart.get(name, row_name(model_type))
    assert spec.family.context_length(spec.config) == PUBLISHED_CONTEXT[name]


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen2-VL-7B-Instruct", 8.29),
        ("Qwen/Qwen3-VL-8B-Instruct", 8.77),
        ("llava-hf/llava-onevision-qwen2-7b-ov-hf", 8.03),
        ("lkhl/VideoLLaMA3-2B-Image-HF", 1.96),  # its only weight file has 3.92 GB in 16 bits
        ("zai-org/GLM-4.1V-9B-Thinking", 10.29),
        ("LanguageBind/Video-LLaVA-7B-hf", 7.37),
        ("OpenGVLab/InternVL3-8B-hf", 7.94),
        ("HuggingFaceTB/SmolVLM2-2.2B-Instruct", 2.25),
        ("llava-hf/llava-1.5-7b-hf", 7.06),
        ("llava-hf/llava-v1.6-mistral-7b-hf", 7.57),
        ("mistral-community/pixtral-12b", 12.68),
        ("mistralai/Mistral-Small-3.1-24B-Instruct-2503", 24.01),
        ("openbmb/MiniCPM-V-4.6", 1.3),
        ("openbmb/MiniCPM-V-4.7-1B", 1.55),
        ("lkhl/VideoLLaMA3-7B-Image-HF", 8.04),
        ("zai-org/GLM-4.6V-Flash", 10.29),
        ("allenai/Molmo2-8B", 8.66),
    ],
)
def test_published_parameters_add_up_to_the_size_that_the_model_s_page_states(name, billions):
    counted = count_parameters(model_spec(ModelSettings(name=name)))
    assert counted.total / 1e9 == pytest.approx(billions, abs=0.01)
    assert counted.language + counted.embeddings > counted.total / 2 and counted.vision > 0.25e9


def test_parameters_are_those_that_the_hub_counts_in_the_weights():
    counted = count_parameters(model_spec(ModelSettings(name="openbmb/MiniCPM-V-4.6")))
    assert counted.total == 1_300_428_016
    pytest.importorskip("timm", reason="the tower of perception_lm is built by timm")
    counted = count_parameters(model_spec(ModelSettings(name="facebook/Perception-LM-1B")))
    assert counted.total == 1_533_524_992


@pytest.mark.parametrize(
    ("name", "billions"),
    [("google/gemma-4-31B-it", 30.7), ("google/gemma-4-26B-A4B-it", 25.2)],
)
def test_gemmas_language_model_has_the_size_that_its_card_states(name, billions):
    counted = count_parameters(model_spec(ModelSettings(name=name)))
    assert (counted.total - counted.vision) / 1e9 == pytest.approx(billions, abs=0.05)


def test_a_mixtures_published_parameters_are_those_of_its_weight_files():
    """31,070,754,032 are in Qwen3-VL-30B-A3B's 13 files; 128 experts a layer hold most of them."""
    spec = model_spec(ModelSettings(name="Qwen/Qwen3-VL-30B-A3B-Instruct"))
    counted = count_parameters(spec, experts=True)
    assert counted.total == 31_070_754_032
    assert counted.experts == (128 * 3 * 768 * 2048,) * 48
    attention = 2 * (2048 + 4096) + 2 * (2048 + 512)
    experts = 128 * ((2048 + 2 * 768) + (768 + 2048))
    assert counted.lora_per_rank == 48 * (attention + experts)
    assert count_parameters(spec).lora_per_rank == 48 * attention


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_checkpoint_can_be_planned_for(name):
    if "Perception-LM" in name:
        pytest.importorskip("timm", reason="the tower of perception_lm is built by timm")
    spec = model_spec(ModelSettings(name=name))
    tokens = video_tokens(spec, VideoSettings(), num_frames=8, height=720, width=1280)
    patches = vision_patches(spec, VideoSettings(), num_frames=8, height=720, width=1280)
    load = PeakLoad(sequences=1, prompt_tokens=tokens, answer_tokens=100, patches=patches)
    quantize = "nf4" if spec.family.no_4_bit is None else "none"
    estimate = estimate_training(
        spec, ModelSettings(name=name, quantize=quantize), TrainSettings(), load
    )
    assert 1 < estimate["total"] - estimate["weights"] < 35 and estimate["vision"] > 0
    assert name in published_names(FAMILIES[spec.family.name])


@pytest.mark.parametrize(
    ("frames", "height", "width"), [(8, 728, 1288), (16, 672, 1176), (180, 196, 336)]
)
def test_videollama_s_frames_share_12845056_pixels(frames, height, width):
    """1280 x 720 rounded to 28 where it fits into 12,845,056 / F pixels, else the sides that do,
    rounded down.
    """
    assert height * width * frames <= 12845056 and height % 28 == width % 28 == 0
    spec = model_spec(ModelSettings(name="lkhl/VideoLLaMA3-2B-Image-HF"))
    tokens = video_tokens(spec, VideoSettings(), num_frames=frames, height=720, width=1280)
    assert tokens == frames * (height // 28) * (width // 28)


def test_every_folder_of_published_files_is_listed():
    folders = {path.parent for path in PUBLISHED_FILES.rglob("*.json")}
    assert folders == set(PUBLISHED.values())
    assert all((folder / "preprocessor_config.json").is_file() for folder in folders)


def test_planning_twice_gives_the_same_config():
    settings = ModelSettings(name="Qwen/Qwen2.5-VL-3B-Instruct")
    assert model_spec(settings).config.to_dict() == model_spec(settings).config.to_dict()


def test_a_config_in_the_hubs_cache_wins_over_the_published_numbers(tmp_path, monkeypatch):
    """Lay out the cache as huggingface_hub does: refs/main names the commit, snapshots/<commit>
    holds the files.
    """
    name, commit = "Qwen/Qwen2.5-VL-3B-Instruct", "0" * 40
    root = tmp_path / ("models--" + name.replace("/", "--"))
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    for path in tiny_folder("qwen2_5_vl").glob("*.json"):
        (snapshot / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert model_spec(ModelSettings(name=name)).config.get_text_config().hidden_size == 128


def test_a_folder_is_planned_from_its_own_config():
    spec = model_spec(ModelSettings(name=str(tiny_folder("qwen2_5_vl"))))
    assert spec.config.get_text_config().num_hidden_layers == 2
    assert spec.video_processor.size["longest_edge"] == 16 * 784


def test_a_hub_model_that_is_neither_here_nor_published_is_asked_for_and_refused_offline():
    with pytest.raises(UserError, match="cannot get the model 'owner/no-such-model'"):
        model_spec(ModelSettings(name="owner/no-such-model"))


@each_kind
def test_counted_parameters_are_those_of_the_loaded_model(kind):
    model = policy(kind)
    counted = count_parameters(model.spec)
    assert counted.total == sum(parameter.numel() for parameter in model.model.parameters())
    tower = [
        parameter
        for name, parameter in model.model.named_parameters()
        if "language_model" not in name and "lm_head" not in name
    ]
    assert counted.vision == sum(parameter.numel() for parameter in tower)


@pytest.mark.parametrize(
    ("name", "tokens"),
    [("Qwen/Qwen2.5-Omni-7B", 25), ("Qwen/Qwen3-Omni-30B-A3B-Instruct", 13)],
)
def test_ten_seconds_of_sound_take_what_the_towers_make_of_them(name, tokens):
    """Tokens a second, as the published positions count them (position_id_per_seconds)."""
    spec = model_spec(ModelSettings(name=name))
    assert sound_tokens(spec, VideoSettings(), 10 * 16_000) == 10 * tokens
    assert spec.config.position_id_per_seconds == tokens
