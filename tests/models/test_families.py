"""The conformance suite: what every family must do before its row may stand in FAMILIES.

scripts/families_table.py runs these checks and writes their outcomes into docs/families.md; a
check's name is its column there.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from blindness import shuffled_video_changes_logps
from family_cases import (
    CLIPS,
    TOLERANCE,
    each_family,
    family_rows,
    family_settings,
    plain_policy,
    processor_outputs,
    row_logits,
    tuned_family,
    with_adapter,
)
from peft import PeftModel
from policies import make_frames
from safetensors.torch import load_file
from tiny_families import BUILDERS
from torch import nn

from dpo_video.models.collate import TokenRow, collate
from dpo_video.models.families import FAMILIES
from dpo_video.models.generation import generate_answers
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import adapter_parameters
from dpo_video.models.prompts import answer_ids, encode_prompt, video_inputs
from dpo_video.models.sampling import Sampler
from dpo_video.models.tokens import video_tokens, vision_patches
from dpo_video.recipe import VideoSettings

SHAPES = [(6, 100, 150), (2, 240, 320), (3, 37, 300), (12, 180, 320)]
LAYER = r"(model\.)?(language_model|text_model)\.(model\.)?layers\.\d+\.\w+\.\w+"


def test_every_family_has_a_tiny_model_and_every_tiny_model_a_family() -> None:
    assert set(BUILDERS) == set(FAMILIES)


def decoder_linears(policy: Policy) -> set[str]:
    """Return the linear layers inside the text decoder, by walking it: no regex of ours is
    asked.
    """
    decoder = policy.bare.get_decoder()
    (prefix,) = (name for name, module in policy.bare.named_modules() if module is decoder)
    return {
        f"{prefix}.{name}"
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear)
    }


@each_family
def test_saves_and_reloads(family: str, tmp_path: Path) -> None:
    policy = plain_policy(family)
    assert policy.family is FAMILIES[family]
    policy.bare.save_pretrained(tmp_path)
    policy.processor.save_pretrained(tmp_path)
    again = load_policy(policy.settings.model_copy(update={"name": str(tmp_path)}))
    ours, theirs = policy.bare.state_dict(), again.bare.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    row = family_rows(family)[0][0]
    prompt = encode_prompt(again, CLIPS[0].question, row.clip)
    assert torch.equal(prompt.input_ids, row.prompt.input_ids)
    assert torch.equal(row_logits(again, row), row_logits(policy, row))


@each_family
def test_prompt_is_the_processors_and_a_prefix(family: str) -> None:
    """Prompt + answer as one text, through the processor with the frames, are our prompt's ids,
    then our answer's.
    """
    policy = plain_policy(family)
    for clip, rows in zip(CLIPS, family_rows(family), strict=True):
        end = policy.processor.tokenizer.decode([policy.end_id])
        for row, answer in zip(rows, clip.answers, strict=True):
            whole = processor_outputs(policy, clip, answer + end)["input_ids"][0].tolist()
            assert whole == [*row.prompt.input_ids.tolist(), *answer_ids(policy, answer)]
        alone = processor_outputs(policy, clip)
        assert alone["input_ids"][0].tolist() == rows[0].prompt.input_ids.tolist()
        if rows[0].prompt.token_types is not None:
            assert torch.equal(alone["mm_token_type_ids"][0], rows[0].prompt.token_types)


@each_family
def test_tokens_are_counted_from_the_config(family: str) -> None:
    policy = plain_policy(family)
    for clip, rows in zip(CLIPS, family_rows(family), strict=True):
        holes = int(
            (rows[0].prompt.input_ids == policy.family.placeholder(policy.bare.config)).sum()
        )
        counted = video_tokens(
            policy.spec,
            VideoSettings(),
            num_frames=clip.count,
            height=clip.height,
            width=clip.width,
        )
        assert counted == holes == len(rows[0].features.embeddings), (
            "noise has no near-duplicate tokens"
        )
    for count, height, width in SHAPES:
        settings = VideoSettings()
        inputs = video_inputs(policy, make_frames(count, height=height, width=width), settings)
        ids = encode_prompt(policy, "?", inputs).input_ids
        counted = video_tokens(policy.spec, settings, num_frames=count, height=height, width=width)
        assert counted == int((ids == policy.family.placeholder(policy.bare.config)).sum())
        assert (
            vision_patches(policy.spec, settings, num_frames=count, height=height, width=width)
            >= counted
        )


@each_family
@pytest.mark.parametrize("side", ["left", "right"])
def test_batched_equals_unbatched(family: str, side: str) -> None:
    """Clips of different frame counts and shapes in one batch, padded on either side."""
    policy = plain_policy(family)
    rows = [row for rows in family_rows(family) for row in rows]
    with torch.no_grad():
        together = policy.model(**collate(policy, rows, side)).logits  # type: ignore[arg-type]
    for place, row in enumerate(rows):
        mine = together[place, -len(row) :] if side == "left" else together[place, : len(row)]
        torch.testing.assert_close(mine, row_logits(policy, row), atol=TOLERANCE, rtol=0)


@each_family
def test_features_equal_pixels(family: str) -> None:
    """Logits with features made once equal those of transformers' own call with pixels."""
    policy = plain_policy(family)
    for clip, rows in zip(CLIPS, family_rows(family), strict=True):
        end = policy.processor.tokenizer.decode([policy.end_id])
        inputs = processor_outputs(policy, clip, clip.answers[0] + end)
        with torch.no_grad():
            stock = policy.bare(**inputs, use_cache=False).logits[0]
        assert stock.std() > 0.1
        torch.testing.assert_close(row_logits(policy, rows[0]), stock, atol=TOLERANCE, rtol=0)


@each_family
def test_lora_is_on_all_language_layers(family: str) -> None:
    policy = tuned_family(family)
    hit = {
        name.removeprefix("base_model.model.").partition(".lora_")[0]
        for name, _ in adapter_parameters(policy.model)
    }
    linears = decoder_linears(plain_policy(family))
    assert hit == linears and linears
    assert {
        name for name, parameter in policy.model.named_parameters() if parameter.requires_grad
    } == {name for name, _ in adapter_parameters(policy.model)}


@each_family
def test_4_bit_is_the_language_model_only(family: str) -> None:
    policy = load_policy(family_settings(family, quantize="nf4"))
    in_4bit = {
        name for name, module in policy.model.named_modules() if isinstance(module, Linear4bit)
    }
    assert in_4bit == decoder_linears(plain_policy(family))
    row = family_rows(family)[0][0]
    quantised, full = row_logits(policy, row), row_logits(plain_policy(family), row)
    assert torch.isfinite(quantised).all()
    assert 0 < (quantised - full).abs().max() < full.abs().max(), (
        "close to the full model, and not the same"
    )


@each_family
def test_generates_as_teacher_forced(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log-probs that N sampled answers were drawn from are those of a forward over prompt and
    answer.
    """
    policy = plain_policy(family)
    rows = [prompt_only(rows[0]) for rows in family_rows(family)]
    logits: list[torch.Tensor] = []
    made: list[torch.Tensor] = []
    own = policy.bare.generate

    def recorded(**kwargs: torch.Tensor) -> torch.Tensor:
        made.append(own(**kwargs)[:, kwargs["input_ids"].shape[1] :])
        return made[0]

    monkeypatch.setattr(policy.bare, "generate", recorded)
    hook = policy.bare.get_output_embeddings().register_forward_hook(
        lambda *call: logits.append(call[2][:, -1])
    )
    try:
        generate_answers(
            policy,
            rows,
            seeds=[[1, 2, 3], [4]],
            sampler=Sampler(temperature=1.0, max_new_tokens=5),
            share_prefix=False,  # what tests/models/test_generation.py holds the trees against
        )
    finally:
        hook.remove()
    steps = torch.stack(logits, dim=1).log_softmax(-1)  # (R, steps, V)
    assert len(made[0]) == 4 and len({tuple(answer.tolist()) for answer in made[0]}) > 1
    for answer, drawn, row in zip(made[0], steps, [rows[0]] * 3 + [rows[1]], strict=True):
        ids = answer.tolist()
        ids = ids[: ids.index(policy.end_id)] if policy.end_id in ids else ids
        whole = TokenRow(prompt=row.prompt, clip=row.clip, features=row.features, answer=tuple(ids))
        forced = row_logits(policy, whole)[len(row) - 1 :].log_softmax(-1)[: len(drawn)]
        torch.testing.assert_close(drawn[: len(forced)], forced, atol=1e-4, rtol=0)


@each_family
def test_shuffled_frames_are_noticed(family: str) -> None:
    policy, clip = plain_policy(family), CLIPS[0]
    seen = shuffled_video_changes_logps(
        policy, clip.frames(), VideoSettings(), question=clip.question, answers=clip.answers
    )
    assert seen.shuffled > 1e-3 and seen.blanked > 1e-3


@each_family
def test_adapter_reloads_and_merges(family: str, tmp_path: Path) -> None:
    policy = with_adapter(load_policy(family_settings(family)))
    row = family_rows(family)[0][0]
    tuned, base = row_logits(policy, row), row_logits(plain_policy(family), row)
    assert (tuned - base).abs().max() > 0.1
    policy.model.save_pretrained(tmp_path / "adapter")
    again = load_policy(family_settings(family), adapter=tmp_path / "adapter")
    torch.testing.assert_close(row_logits(again, row), tuned, atol=TOLERANCE, rtol=0)
    assert isinstance(again.model, PeftModel)
    merged = again.model.merge_and_unload(safe_merge=True)
    merged.save_pretrained(tmp_path / "merged")
    policy.processor.save_pretrained(tmp_path / "merged")
    whole = load_policy(policy.settings.model_copy(update={"name": str(tmp_path / "merged")}))
    torch.testing.assert_close(row_logits(whole, row), tuned, atol=1e-3, rtol=0)


@each_family
def test_adapter_has_the_names_of_peft_and_vllm(family: str, tmp_path: Path) -> None:
    """PEFT writes base_model.model.<module>.lora_A.weight; vLLM takes off that prefix and maps
    <module> as it maps transformers' weight names since 4.52, in which the decoder's layers are
    model.language_model.layers.N or the like.
    """
    tuned_family(family).model.save_pretrained(tmp_path)
    saved = set(load_file(tmp_path / "adapter_model.safetensors"))
    linears = decoder_linears(plain_policy(family))
    assert saved == {
        f"base_model.model.{name}.lora_{side}.weight" for name in linears for side in "AB"
    }
    assert not [name for name in linears if not re.fullmatch(LAYER, name)]
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]


def prompt_only(row: TokenRow) -> TokenRow:
    """Return the row without its answer."""
    return TokenRow(prompt=row.prompt, clip=row.clip, features=row.features)
