"""The conformance suite: what every family must do before its row may stand in FAMILIES.

scripts/families_table.py runs these checks and writes their outcomes into docs/families.md.
"""

import re
from pathlib import Path

import pytest
import torch
from clips import write_clip
from family_cases import each_family, plain_policy, subject_of
from tiny_families import BUILDERS
from tiny_world import make_recipe

from dpo_video.family.run import CHECKS, Check, check_name
from dpo_video.models.clip_source import open_source
from dpo_video.models.families import FAMILIES
from dpo_video.video import ClipRequest

LAYER = (
    r"(model\.)?(language_model|text_model)\.(model\.)?layers\.\d+\.\w+\.\w+"
    r"(\.(gate|up|down)_proj)?"
)
"""A linear layer by transformers' weight names since 4.52, as vLLM maps them once PEFT's prefix is
off; the last part is that of experts that all tokens share.
"""


def test_every_family_has_a_tiny_model_and_every_tiny_model_a_family() -> None:
    assert set(BUILDERS) == set(FAMILIES)


@each_family
@pytest.mark.parametrize("check", CHECKS, ids=check_name)
def test_family(family: str, check: Check, tmp_path: Path) -> None:
    subject = subject_of(family)
    assert subject.family is FAMILIES[family]
    check(subject, tmp_path)


@each_family
def test_adapters_have_the_layer_names_that_vllm_maps(family: str) -> None:
    wrong = [name for name in subject_of(family).decoder_linears if not re.fullmatch(LAYER, name)]
    assert not wrong


@each_family
def test_what_is_kept_of_a_clip_by_default_comes_back_as_it_was(
    family: str, tmp_path: Path
) -> None:
    """A second reader decodes nothing, and has the features and inputs of one without a cache."""
    request = ClipRequest(key="c.mp4", video=tmp_path / "c.mp4")
    write_clip(tmp_path / "c.mp4", 12, size=(160, 64))
    clips = []
    for cache in ("none", "auto", "auto"):
        recipe = make_recipe(tmp_path, video={"num_frames": 6, "cache": cache})
        with open_source(plain_policy(family), recipe) as source:
            ((_, clip),) = source.map([request])
            clips.append(source.encode(clip))  # type: ignore[arg-type]
    assert source.counts["decoded"] == 0
    tensors = []
    for made in (clips[0], clips[2]):
        named = {f"input {name}": tensor for name, tensor in made.inputs.clip_inputs.items()}
        layers = {f"layer {number}": layer for number, layer in enumerate(made.features.layers)}
        tensors.append({"features": made.features.embeddings, **layers, **named})
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in tensors[0].items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in tensors[1].items()
    }
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())
    facts = [(made.inputs.expansions, made.inputs.typed, made.frames_dropped) for made in clips]
    assert facts[0] == facts[2]
