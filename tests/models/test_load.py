"""Loading a policy: what is quantised, tuned and frozen, and what a user is told when it cannot be
loaded.
"""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import get_peft_model
from policies import each_kind, make_frames, make_row, policy, tiny_folder
from safetensors.torch import load_file, save_file

from dpo_video.core.errors import UserError
from dpo_video.models.collate import collate
from dpo_video.models.families import FAMILIES, KEEP_UNQUANTIZED
from dpo_video.models.generation import generate_answers
from dpo_video.models.hub import OWN_CODE_ROWS, OWN_LAYOUT_ROWS, SUCCESSORS
from dpo_video.models.load import language_linears, load_policy
from dpo_video.models.lora import (
    adapter_parameters,
    assert_fp32_adapter,
    keep_adapter_fp32,
    lora_config,
)
from dpo_video.models.names import resolve_model
from dpo_video.models.sampling import Sampler
from dpo_video.recipe import LoraSettings, ModelSettings

LAYERS = 2
PROJECTIONS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
LANGUAGE_LINEARS = {
    f"model.language_model.layers.{layer}.{name}" for layer in range(LAYERS) for name in PROJECTIONS
}


@each_kind
def test_a_policy_is_frozen_in_eval_mode_in_float32_on_a_cpu(kind):
    model = policy(kind)
    assert model.dtype == torch.float32 and model.device.type == "cpu"
    assert {parameter.dtype for parameter in model.model.parameters()} == {torch.float32}
    assert not model.model.training
    assert not any(parameter.requires_grad for parameter in model.model.parameters())


@each_kind
def test_nf4_quantises_every_linear_layer_of_the_language_model_and_nothing_else(kind):
    model = policy(kind, quantize="nf4")
    in_4bit = {
        name for name, module in model.model.named_modules() if isinstance(module, Linear4bit)
    }
    assert in_4bit == LANGUAGE_LINEARS
    assert model.bare.lm_head.weight.dtype == torch.float32
    row = make_row(model, make_frames(4), answer="yes")
    with torch.no_grad():
        quantised = model.model(**collate(model, [row], "right")).logits
        full = policy(kind).model(**collate(model, [row], "right")).logits
    assert torch.isfinite(quantised).all()
    assert 0 < (quantised - full).abs().max() < full.abs().max(), (
        "close to the full model, and not the same"
    )


@each_kind
def test_a_4_bit_model_gives_the_same_numbers_and_gradients_after_a_forward_in_eval_mode(kind):
    """bitsandbytes repacks the weights there on CPUs with AVX512-BF16; on others the flag alone
    tells.
    """
    model = policy.__wrapped__(kind, quantize="nf4")  # its own: an adapter is put on
    in_4bit = [module for module in model.bare.modules() if isinstance(module, Linear4bit)]
    assert in_4bit and not any(module.support_avx512bf16_for_cpu for module in in_4bit)
    batch = collate(model, [make_row(model, make_frames(4), answer="yes")], "right")
    with torch.no_grad():
        first = model.model.eval()(**batch).logits
    tuned = get_peft_model(model.bare, lora_config(LoraSettings(), model.family))
    again = tuned.train()(**batch).logits
    again.sum().backward()
    assert torch.allclose(first, again, atol=1e-5), "a fresh adapter changes nothing"
    grads = [parameter.grad for name, parameter in tuned.named_parameters() if "lora_B" in name]
    assert grads and all(grad is not None and grad.abs().sum() > 0 for grad in grads)


@each_kind
def test_a_skip_list_that_leaves_the_tower_in_4_bit_is_refused(kind, monkeypatch):
    """`["visual", "lm_head"]`, as other trainers pass it: transformers 5 matches from the start of
    the full name.
    """
    row = dataclasses.replace(
        FAMILIES[kind], keep_unquantized=("visual", "vision_tower", "lm_head")
    )
    monkeypatch.setitem(FAMILIES, kind, row)
    with pytest.raises(
        AssertionError, match=r"outside the language model \['model\.(visual|multi_modal|vision)"
    ):
        load_policy(ModelSettings(name=str(tiny_folder(kind)), device="cpu", quantize="nf4"))


@each_kind
def test_a_skip_list_that_leaves_out_language_layers_is_refused(kind, monkeypatch):
    row = dataclasses.replace(FAMILIES[kind], keep_unquantized=(*KEEP_UNQUANTIZED, r".*q_proj"))
    monkeypatch.setitem(FAMILIES, kind, row)
    with pytest.raises(
        AssertionError, match=r"missing in it \['model.language_model.layers.0.self_attn.q_proj'"
    ):
        load_policy(ModelSettings(name=str(tiny_folder(kind)), device="cpu", quantize="nf4"))


@each_kind
def test_lora_hits_every_linear_layer_of_the_language_model_and_no_other_module(kind):
    loaded = load_policy(ModelSettings(name=str(tiny_folder(kind)), device="cpu"))
    assert set(language_linears(loaded.bare, loaded.family)) == LANGUAGE_LINEARS
    tuned = get_peft_model(loaded.bare, lora_config(LoraSettings(rank=4, alpha=8)))
    prefix = "base_model.model."
    hit = {
        name.removeprefix(prefix).partition(".lora_")[0] for name, _ in adapter_parameters(tuned)
    }
    assert hit == LANGUAGE_LINEARS
    assert {name for name, parameter in tuned.named_parameters() if parameter.requires_grad} == {
        name for name, _ in adapter_parameters(tuned)
    }


@each_kind
def test_a_trained_adapter_is_loaded_in_float32_and_changes_the_answers(kind, tmp_path):
    settings = ModelSettings(name=str(tiny_folder(kind)), device="cpu")
    tuned = get_peft_model(load_policy(settings).bare, lora_config(LoraSettings(rank=4, alpha=8)))
    with torch.no_grad():
        for name, parameter in adapter_parameters(tuned):
            parameter.copy_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
            )
    wanted = {name: parameter.detach().clone() for name, parameter in adapter_parameters(tuned)}
    for _, parameter in adapter_parameters(tuned):
        parameter.data = parameter.data.bfloat16()
    with pytest.raises(AssertionError, match="must be float32"):
        assert_fp32_adapter(tuned)
    keep_adapter_fp32(tuned)
    assert_fp32_adapter(tuned)
    tuned.save_pretrained(tmp_path / "adapter")
    loaded = load_policy(settings, adapter=tmp_path / "adapter")
    assert_fp32_adapter(loaded.model)
    for name, parameter in adapter_parameters(loaded.model):
        assert torch.equal(parameter, wanted[name].bfloat16().float())
    row = make_row(loaded, make_frames(4), answer="yes")
    with torch.no_grad():
        batch = collate(loaded, [row], "right")
        assert not torch.allclose(
            loaded.model(**batch).logits, policy(kind).model(**batch).logits, atol=1e-2
        )


def test_an_adapter_that_is_not_there_is_refused_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(UserError, match=r"no adapter_config.json in it.*dpo-video train RECIPE"):
        load_policy(ModelSettings(name=str(tiny_folder("qwen2_5_vl"))), adapter=tmp_path)


def test_the_checkpoints_own_sampling_settings_do_not_mix_with_ours(tmp_path):
    """A repetition penalty of 50 in generation_config.json would make every answer free of
    repetitions.
    """
    folder = shutil.copytree(tiny_folder("llava_next_video"), tmp_path / "model")
    path = folder / "generation_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "repetition_penalty": 50.0, "do_sample": True})
    )
    greedy = Sampler(temperature=0, max_new_tokens=12)
    answers = []
    for name in (folder, tiny_folder("llava_next_video")):
        model = load_policy(ModelSettings(name=str(name), device="cpu"))
        answers.append(
            generate_answers(model, [make_row(model, make_frames(4))], seeds=[[0]], sampler=greedy)
        )
    assert answers[0] == answers[1]


def test_the_revision_of_a_folder_changes_with_its_content_and_not_with_its_place(tmp_path):
    first = policy("qwen2_5_vl").revision
    folder = shutil.copytree(tiny_folder("qwen2_5_vl"), tmp_path / "copy")
    assert load_policy(ModelSettings(name=str(folder))).revision == first
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert load_policy(ModelSettings(name=str(folder))).revision != first


def changed_copy(folder: Path, change: dict) -> Path:
    copy = shutil.copytree(tiny_folder("qwen2_5_vl"), folder / "changed")
    path = copy / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    return copy


def test_an_unknown_model_type_names_the_nearest_and_all_families(tmp_path):
    folder = changed_copy(tmp_path, {"model_type": "qwen2_5_lv"})
    with pytest.raises(UserError) as caught:
        load_policy(ModelSettings(name=str(folder)))
    assert (
        "is of model type 'qwen2_5_lv', which is not a known family. Did you mean 'qwen2_5_vl'? "
        "Known: " in str(caught.value)
    )
    known = {*FAMILIES, *OWN_LAYOUT_ROWS, *OWN_CODE_ROWS}
    assert all(name in str(caught.value) for name in known)


def test_a_copy_without_its_repositorys_code_is_told_what_to_copy(tmp_path):
    for kind in OWN_CODE_ROWS:
        folder = changed_copy(tmp_path / kind, {"model_type": kind})
        with pytest.raises(UserError, match=r"names none of the code .*Copy config\.json and the"):
            load_policy(ModelSettings(name=str(folder), trust_remote_code=True))


@pytest.mark.parametrize(
    ("kind", "trusted"),
    [
        (kind, trusted)
        for kind in SUCCESSORS
        for trusted in (False, True)
        if not (trusted and kind in OWN_CODE_ROWS)
    ],
)
def test_a_system_that_cannot_be_trained_is_refused_with_its_nearest_successor(
    tmp_path, kind, trusted
):
    folder = changed_copy(tmp_path, {"model_type": kind})
    what, nearest, why = SUCCESSORS[kind]
    with pytest.raises(UserError) as caught:
        load_policy(ModelSettings(name=str(folder), trust_remote_code=trusted))
    assert f"is {what} (model type {kind!r}). {why}." in str(caught.value)
    assert f"The nearest family of transformers is {nearest!r}: {FAMILIES[nearest].title}" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "/no/such/folder",
            "no model folder at '/no/such/folder'. Give a folder that exists, a hub id",
        ),
        ("./models/none", "no model folder at './models/none'"),
        ("toy:qwen", r"unknown toy model 'toy:qwen'. Did you mean 'qwen2_5_vl'\? Known: toy:"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_in_one_line(name, message):
    with pytest.raises(UserError, match=message) as caught:
        resolve_model(name)
    assert "\n" not in str(caught.value)


def test_a_hub_model_that_is_not_here_is_refused_in_one_line_when_offline():
    with pytest.raises(
        UserError,
        match=r"cannot get the model 'owner/no-such-model': .*Check the name and the network",
    ) as caught:
        load_policy(ModelSettings(name="owner/no-such-model"))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no config.json in the model folder"):
        load_policy(ModelSettings(name=str(tmp_path)))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("tokenizer*", r"model.name .*: no tokenizer in it that can be read. Put tokenizer.json,"),
        ("*.safetensors", r"cannot get the model .* The folder must hold a whole checkpoint"),
        ("config.json", r"no config.json in the model folder"),
    ],
)
def test_a_checkpoint_without_one_of_its_files_is_refused_in_one_line(tmp_path, missing, message):
    folder = shutil.copytree(tiny_folder("qwen2_5_vl"), tmp_path / "model")
    for path in folder.glob(missing):
        path.unlink()
    with pytest.raises(UserError, match=message) as caught:
        load_policy(ModelSettings(name=str(folder), device="cpu"))
    assert "\n" not in str(caught.value) and "network" not in str(caught.value)


def test_weights_that_are_cut_short_are_refused_in_one_line(tmp_path):
    folder = shutil.copytree(tiny_folder("qwen2_5_vl"), tmp_path / "model")
    (weights,) = folder.glob("*.safetensors")
    whole = weights.read_bytes()
    for kept in (4, 100, len(whole) - 1):
        weights.write_bytes(whole[:kept])
        with pytest.raises(UserError, match="damaged or cut short") as caught:
            load_policy(ModelSettings(name=str(folder), device="cpu"))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lost", ["visual.blocks.0.", "model.layers.1.mlp.down_proj.weight"])
def test_a_checkpoint_that_lacks_weights_is_refused_in_one_line(tmp_path, lost):
    """transformers would go on with random numbers in their place."""
    folder = shutil.copytree(tiny_folder("qwen2_5_vl"), tmp_path / "model")
    (path,) = folder.glob("*.safetensors")
    weights = load_file(path)
    kept = {name: weight for name, weight in weights.items() if not name.startswith(lost)}
    count = len(weights) - len(kept)
    assert count > 0
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"lacks {count} weights .*'model.*{lost[-17:]}") as caught:
        load_policy(ModelSettings(name=str(folder), device="cpu"))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_a_family_given_by_hand_must_be_the_checkpoints():
    with pytest.raises(
        UserError,
        match=r"model.family is 'llava', but the checkpoint is of the family 'qwen2_5_vl'",
    ):
        load_policy(ModelSettings(name=str(tiny_folder("qwen2_5_vl")), family="llava"))
    same = ModelSettings(name=str(tiny_folder("qwen2_5_vl")), family="qwen2_5_vl")
    assert load_policy(same).family.name == "qwen2_5_vl"


def test_a_family_given_by_hand_must_be_known():
    with pytest.raises(UserError, match=r"unknown model.family 'qwen'"):
        load_policy(ModelSettings(name=str(tiny_folder("qwen2_5_vl")), family="qwen"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_device_is_refused():
    with pytest.raises(UserError, match="torch finds no CUDA device"):
        load_policy(ModelSettings(name=str(tiny_folder("qwen2_5_vl")), device="cuda"))


def test_an_attention_kernel_that_is_not_installed_is_refused():
    with pytest.raises(UserError, match=r"cannot load the model .*[Ff]lash"):
        load_policy(
            ModelSettings(
                name=str(tiny_folder("qwen2_5_vl")), attention="flash_attention_2", device="cpu"
            )
        )


def test_the_skip_list_names_no_language_model_layer():
    assert not [
        name for name in LANGUAGE_LINEARS for pattern in KEEP_UNQUANTIZED if re.match(pattern, name)
    ]
