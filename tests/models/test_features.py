"""Features of the vision tower against the pixel path; how often the tower runs."""

import pytest
import torch
from peft import get_peft_model
from policies import each_kind, make_frames, make_row, policy, tiny_folder

from dpo_video.core.errors import UserError
from dpo_video.models.collate import TokenRow, collate, row_ids, row_positions
from dpo_video.models.families import ClipFeatures
from dpo_video.models.features import encode_video
from dpo_video.models.generation import generate_answers
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import lora_config
from dpo_video.models.prompts import answer_ids, prompt_text, video_inputs
from dpo_video.models.sampling import Sampler
from dpo_video.recipe import LoraSettings, ModelSettings, VideoSettings
from dpo_video.video import Frames, video_metadata

TOLERANCE = 1e-5


def vision_tower(model: Policy) -> torch.nn.Module:
    return (
        model.bare.model.visual
        if model.family.name == "qwen2_5_vl"
        else model.bare.model.vision_tower
    )


def pixel_logits(model: Policy, frames: Frames, question: str, answer: str) -> torch.Tensor:
    """Return (T, V) logits of the stock path: text and pixels through the processor, one sequence,
    no features.
    """
    text = prompt_text(model.processor, question) + answer + model.processor.tokenizer.eos_token
    inputs = model.processor(
        text=[text],
        videos=[frames.pixels],
        return_tensors="pt",
        videos_kwargs={"video_metadata": [video_metadata(frames)], "do_sample_frames": False},
    )
    with torch.no_grad():
        return model.bare(**inputs).logits[0]


CASES = [
    (6, "what happens ?", " a red square"),
    (2, "describe the video in detail please", "no"),
    (8, "?", "yes"),
]


@each_kind
@pytest.mark.parametrize("side", ["left", "right"])
def test_features_of_clips_with_different_frame_counts_equal_the_pixel_path(kind, side):
    model = policy(kind)
    frames = [make_frames(count, height=100 + 28 * count) for count, _, _ in CASES]
    rows = [
        make_row(model, clip, question, answer)
        for clip, (_, question, answer) in zip(frames, CASES, strict=True)
    ]
    with torch.no_grad():
        together = model.model(**collate(model, rows, side)).logits
    for place, (row, clip, (_, question, answer)) in enumerate(
        zip(rows, frames, CASES, strict=True)
    ):
        alone = pixel_logits(model, clip, question, answer)
        mine = together[place, -len(row) :] if side == "left" else together[place, : len(row)]
        assert alone.std() > 0.1
        assert torch.allclose(mine, alone, atol=TOLERANCE)


@each_kind
def test_the_tower_runs_once_per_clip_whatever_is_asked_of_it(kind):
    model, calls = policy(kind), []
    hook = vision_tower(model).register_forward_hook(lambda *_: calls.append(1))
    try:
        rows = [make_row(model, make_frames(count)) for count in (4, 6)]
        answer = tuple(answer_ids(model, "yes"))
        answered = [
            TokenRow(prompt=row.prompt, clip=row.clip, features=row.features, answer=answer)
            for row in rows
        ]
        with torch.no_grad():
            model.model(**collate(model, [*rows, *answered], "right"))
            model.model(**collate(model, answered, "right"))
        generate_answers(
            model, rows, seeds=[[1, 2], [3]], sampler=Sampler(temperature=1.0, max_new_tokens=4)
        )
    finally:
        hook.remove()
    assert len(calls) == 2


@each_kind
def test_features_carry_no_gradient_even_with_checkpointing_hooks_in_the_tower(kind):
    loaded = load_policy(ModelSettings(name=str(tiny_folder(kind)), device="cpu"))
    loaded.bare.activation_checkpointing_enable()
    loaded.bare.enable_input_require_grads()
    model = Policy(
        model=get_peft_model(loaded.bare, lora_config(LoraSettings(rank=4, alpha=4))).train(),
        processor=loaded.processor,
        family=loaded.family,
        settings=loaded.settings,
        device=loaded.device,
        dtype=loaded.dtype,
        revision=loaded.revision,
    )
    features = encode_video(model, video_inputs(model, make_frames(4), VideoSettings()))
    assert not features.embeddings.requires_grad
    inputs = vision_tower(model).parameters()
    row = make_row(model, make_frames(4), answer="yes")
    model.model(**collate(model, [row], "right")).logits.sum().backward()
    assert all(parameter.grad is None for parameter in inputs)
    tuned = [parameter for name, parameter in model.model.named_parameters() if ".lora_B." in name]
    assert tuned and all(parameter.grad is not None for parameter in tuned)


@each_kind
def test_a_row_whose_video_tokens_and_features_differ_in_number_is_refused(kind):
    model = policy(kind)
    row = make_row(model, make_frames(4))
    short = TokenRow(
        prompt=row.prompt, clip=row.clip, features=ClipFeatures(row.features.embeddings[:-1])
    )
    with pytest.raises(UserError, match="rows of a clip, and its prompt has"):
        collate(model, [short], "left")


@each_kind
def test_a_batch_is_padded_with_masked_tokens_on_the_side_asked_for(kind):
    model = policy(kind)
    rows = [make_row(model, make_frames(2), "?"), make_row(model, make_frames(6), answer="yes")]
    short, long = map(len, rows)
    for side, kept in (("left", slice(long - short, long)), ("right", slice(0, short))):
        batch = collate(model, rows, side)
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, long)
        assert torch.equal(batch["input_ids"][0, kept], row_ids(rows[0]))
        assert batch["attention_mask"][0].sum() == batch["attention_mask"][0, kept].sum() == short
        assert (batch["input_ids"][0][batch["attention_mask"][0] == 0] == model.pad_id).all()
        positions = batch["position_ids"].reshape(-1, 2, long)
        assert torch.equal(positions[:, 0, kept], row_positions(rows[0]))
        assert torch.equal(positions[:, 1], row_positions(rows[1]))
