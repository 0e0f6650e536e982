"""Families that take frames as images, and those that cut frames into parts: counts, bounds and
traps.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from family_cases import (
    clip_of_rows,
    family_settings,
    plain_policy,
    processor_outputs,
    row_logits,
    tuned_family,
)
from policies import make_frames, make_row
from tiny_families import images
from tiny_models import write_tiny
from tokenizers.processors import TemplateProcessing
from transformers import (
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    MiniCPMV4_6VideoProcessor,
    PixtralImageProcessor,
)
from transformers.models.pixtral.image_processing_pixtral import get_resize_output_image_size
from trees import answer_part, run_engine

from dpo_video.core.errors import UserError
from dpo_video.family.subject import CheckClip
from dpo_video.models.clip_source import EncodedClip, read_features, write_features
from dpo_video.models.collate import TokenRow
from dpo_video.models.families import FAMILIES, FrameSize
from dpo_video.models.features import encode_video
from dpo_video.models.hub import model_spec
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.prompts import answer_ids, encode_prompt, video_inputs
from dpo_video.models.shared_prefix.packed_rows import why_not_shared
from dpo_video.models.tokens import video_tokens, vision_patches
from dpo_video.recipe import ModelSettings, VideoSettings
from dpo_video.train.shared_prefix import shared_prefix_engine

OURS = (
    "video_llava",
    "internvl",
    "smolvlm",
    "llava",
    "llava_next",
    "pixtral",
    "mistral3",
    "minicpmv4_6",
)
SHAPES = [(6, 100, 150), (2, 240, 320), (3, 320, 240), (1, 64, 64), (4, 37, 300), (2, 360, 640)]
"""Frames, height, width."""
_FOLDER = TemporaryDirectory()


@cache
def interleave() -> Policy:
    """Return a tiny LLaVA-NeXT-Interleave."""
    folder = write_tiny(images.llava_interleave, Path(_FOLDER.name))
    return load_policy(ModelSettings(name=str(folder), device="cpu"))


@pytest.mark.parametrize("family", [*OURS, "interleave"])
def test_tokens_and_patches_are_those_of_the_processor_and_the_tower(family: str) -> None:
    """Patches are counted on what enters the tower's first layer, from a spec that has no
    weights.
    """
    policy = interleave() if family == "interleave" else plain_policy(family)
    spec, seen = model_spec(policy.settings), []
    text = {"language_model", "text_model"}
    first = next(
        module
        for name, module in policy.bare.named_modules()
        if name.endswith(("layers.0", "layer.0")) and not text & {*name.split(".")}
    )
    hook = first.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    try:
        for count, height, width in SHAPES:
            seen.clear()
            row = make_row(policy, make_frames(count, height=height, width=width))
            shape = {"num_frames": count, "height": height, "width": width}
            holes = int(
                (row.prompt.input_ids == policy.family.placeholder(policy.bare.config)).sum()
            )
            assert (
                video_tokens(spec, VideoSettings(), **shape)
                == holes
                == len(row.features.embeddings)
            )
            assert vision_patches(spec, VideoSettings(), **shape) == sum(
                states.shape[:-1].numel() for states in seen
            )
    finally:
        hook.remove()


def test_tokens_of_tiles_are_those_of_the_published_processor_at_any_shape() -> None:
    row, grid = (
        FAMILIES["llava_next"],
        [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    )
    resize = LlavaNextImageProcessor(
        size={"shortest_edge": 336},
        crop_size={"height": 336, "width": 336},
        image_grid_pinpoints=grid,
    )
    processor = LlavaNextProcessor(
        resize,
        images.llama_tokenizer(),
        patch_size=14,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
    )
    config = plain_policy("llava_next").bare.config
    draw = torch.Generator().manual_seed(0)
    shapes = torch.randint(20, 2000, (200, 2), generator=draw).tolist()
    for height, width in [(720, 1280), (336, 336), (672, 672), *shapes]:
        size = row.frame_size(resize, 1, FrameSize(height, width), {})
        (wanted,) = processor._get_num_multimodal_tokens([[height, width]])["num_image_tokens"]
        assert row.video_tokens(resize, config, 1, size) == wanted, (height, width)
    assert row.video_tokens(resize, config, 3, FrameSize(720, 1280)) == 3 * 1948
    assert row.video_tokens(resize, config, 1, FrameSize(672, 672)) == 576 + 48 * 48 + 48


@pytest.mark.parametrize(
    ("max_pixels", "tokens"), [(None, 444), (448**2, 66), (4 * 448**2 - 1, 194)]
)
def test_tokens_of_slices_are_those_of_the_published_processor_at_any_shape(
    max_pixels: int | None, tokens: int
) -> None:
    row, resize = FAMILIES["minicpmv4_6"], MiniCPMV4_6VideoProcessor()
    kwargs = row.pixel_kwargs(resize, None, max_pixels)
    draw = torch.Generator().manual_seed(0)
    for height, width in [
        (720, 1280),
        (240, 320),
        *torch.randint(20, 1500, (20, 2), generator=draw).tolist(),
    ]:
        made = resize(
            videos=[make_frames(1, height=height, width=width).pixels],
            do_sample_frames=False,
            **kwargs,
        )
        parts = made["target_sizes_videos"].prod(-1)
        size = row.frame_size(resize, 1, FrameSize(height, width), kwargs)
        assert row.video_tokens(resize, None, 1, size) == int((parts // 16).sum())
        assert row.vision_patches(resize, None, 1, size) == int(parts.sum())
    for height, width, wanted in [(720, 1280, tokens), (240, 320, 63)]:
        size = row.frame_size(resize, 1, FrameSize(height, width), kwargs)
        assert row.video_tokens(resize, None, 1, size) == wanted


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [({"min_pixels": 10**6}, "leave out video.min_pixels"), ({"max_pixels": 9}, "set it to 12544")],
)
def test_minicpms_frames_are_enlarged_by_its_processor_alone(
    bounds: dict[str, int], reason: str
) -> None:
    policy = plain_policy("minicpmv4_6")
    with pytest.raises(UserError, match=reason):
        video_inputs(policy, make_frames(2), VideoSettings(**bounds))


@pytest.mark.parametrize("family", ["minicpmv4_6", "minicpmv4_7"])
def test_minicpms_frames_may_be_left_whole(family: str) -> None:
    """As its model card does with videos; tiny ones have squares of 112 pixels a side."""
    policy, settings = plain_policy(family), VideoSettings(max_pixels=112**2)
    prompt = encode_prompt(
        policy, "?", video_inputs(policy, make_frames(3, height=300, width=400), settings)
    )
    holes = int((prompt.input_ids == policy.family.placeholder(policy.bare.config)).sum())
    assert holes == video_tokens(policy.spec, settings, num_frames=3, height=300, width=400)
    assert holes < video_tokens(policy.spec, VideoSettings(), num_frames=3, height=300, width=400)


@pytest.mark.parametrize(
    ("family", "patch", "token", "edge"), [("pixtral", 16, 16, 1024), ("mistral3", 14, 28, 1540)]
)
def test_frames_of_any_shape_keep_below_max_pixels(
    family: str, patch: int, token: int, edge: int
) -> None:
    row = FAMILIES[family]
    resize = PixtralImageProcessor(
        size={"longest_edge": edge}, patch_size={"height": patch, "width": patch}
    )
    config = type(
        "Config",
        (),
        {
            "vision_config": type("Vision", (), {"patch_size": patch}),
            "model_type": {"pixtral": "llava"}.get(family, family),
            "spatial_merge_size": 2,
        },
    )
    draw = torch.Generator().manual_seed(0)
    for height, width, most in torch.randint(2000, 300_000, (200, 3), generator=draw).tolist():
        height, width = height % 2000 + 20, width % 2000 + 20
        for bound in (None, most):
            kwargs = row.pixel_kwargs(resize, None, bound)
            tokens = row.video_tokens(
                resize, config, 1, row.frame_size(resize, 1, FrameSize(height, width), kwargs)
            )
            side = kwargs.get("size", {"longest_edge": edge})["longest_edge"]
            high, wide = get_resize_output_image_size(
                torch.zeros(3, height, width), (side, side), (token, token)
            )
            assert tokens == high // token * (wide // token)
            assert bound is None or high * wide <= bound
    for settings, message in [
        ((100, None), "never enlarges a frame"),
        ((None, 500), "a square of one token takes"),
    ]:
        with pytest.raises(UserError, match=message):
            row.pixel_kwargs(resize, *settings)


@pytest.mark.parametrize("family", ["pixtral", "mistral3"])
def test_max_pixels_reach_the_processor(family: str) -> None:
    policy, settings = plain_policy(family), VideoSettings(max_pixels=56 * 56)
    clip = video_inputs(policy, make_frames(2, height=112, width=112), settings)
    assert clip.pixels["image_sizes"].tolist() == [[56, 56], [56, 56]]
    counted = video_tokens(policy.spec, settings, num_frames=2, height=112, width=112)
    assert (
        counted
        == len(encode_video(policy, clip).embeddings)
        == 2 * {"pixtral": 16, "mistral3": 4}[family]
    )


def test_a_pixtral_is_known_by_its_tower_though_its_model_type_is_llavas() -> None:
    for family, tower in (("pixtral", "pixtral"), ("llava", "clip_vision_model")):
        config = plain_policy(family).bare.config
        assert (config.model_type, config.vision_config.model_type) == ("llava", tower)
        assert plain_policy(family).family is FAMILIES[family]
        assert model_spec(family_settings(family)).family is FAMILIES[family]


@pytest.mark.parametrize("family", ["pixtral", "mistral3"])
def test_frames_through_the_tower_one_by_one_are_those_of_one_call(family: str) -> None:
    policy, sizes = plain_policy(family), []
    tower = policy.bare.model.vision_tower
    hook = tower.register_forward_hook(
        lambda _, inputs, output: sizes.append(output.last_hidden_state.shape[1])
    )
    try:
        clip = video_inputs(policy, make_frames(3, height=56, width=112), VideoSettings())
        features = encode_video(policy, clip).embeddings
    finally:
        hook.remove()
    assert sizes == [32, 32, 32], "4 x 8 patches a frame: the mask between frames is never built"
    with torch.no_grad():
        whole = policy.bare.get_image_features(**clip.pixels, return_dict=True).pooler_output
    torch.testing.assert_close(features, torch.cat(list(whole)), atol=1e-5, rtol=0)


def test_a_template_that_writes_bos_itself_gets_one_bos() -> None:
    """Pixtral's and Llama 3's do, and their tokenizers add one as well."""
    policy = load_policy(family_settings("pixtral"))
    tokenizer = policy.processor.tokenizer
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    assert tokenizer("yes")["input_ids"][0] == tokenizer.bos_token_id
    frames = make_frames(2, height=56, width=56)
    ids = encode_prompt(
        policy, "what ?", video_inputs(policy, frames, VideoSettings())
    ).input_ids.tolist()
    assert ids.count(tokenizer.bos_token_id) == 1
    content = [
        *({"type": "image", "image": frame} for frame in frames.pixels),
        {"type": "text", "text": "what ?"},
    ]
    stock = policy.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
    )
    assert ids == stock["input_ids"][0].tolist()


CLIP = CheckClip(
    count=3,
    height=64,
    width=80,
    seconds_apart=1.0,
    question="what happens ?",
    answers=(" a red square",),
)


def test_llava_next_interleave_goes_through_the_row_of_llava() -> None:
    """A SigLIP tower without a class token, no crop, all its tokens: prompt, tokens and logits of
    the stock call.
    """
    policy = interleave()
    assert policy.family is FAMILIES["llava"]
    (row,) = clip_of_rows(policy, CLIP)
    end = policy.processor.tokenizer.decode([policy.end_id])
    inputs = processor_outputs(policy, CLIP, CLIP.answers[0] + end)
    assert inputs["input_ids"][0].tolist() == [
        *row.prompt.input_ids.tolist(),
        *answer_ids(policy, CLIP.answers[0]),
    ]
    assert len(row.features.embeddings) == 3 * 16
    with torch.no_grad():
        stock = policy.bare(**inputs, use_cache=False).logits[0]
    torch.testing.assert_close(row_logits(policy, row), stock, atol=2e-5, rtol=0)


def test_a_template_that_does_not_repeat_the_image_is_refused() -> None:
    policy = load_policy(family_settings("llava"))
    clip = video_inputs(policy, make_frames(3), VideoSettings())
    policy.processor.chat_template = (
        "USER: <image>\n{{ messages[0]['content'][-1]['text'] }} ASSISTANT:"
    )
    with pytest.raises(
        UserError,
        match=r"writes '<image>' 1 times for a clip that takes it 3 times: use a checkpoint",
    ):
        encode_prompt(policy, "what ?", clip)


def test_a_shared_prefix_would_leak_minicpms_chosen_answer_into_the_rejected_one() -> None:
    """Packed all the same, the rejected answer's log-probs change with the chosen one; run as rows
    they cannot.
    """
    policy = tuned_family("minicpmv4_6")
    assert "recurrent layers" in str(why_not_shared(policy))

    def rejected(chosen: str) -> torch.Tensor:
        prompt = make_row(policy, make_frames(2, height=56, width=56))
        rows = [
            TokenRow(
                prompt=prompt.prompt,
                clip=prompt.clip,
                features=prompt.features,
                answer=tuple(answer_ids(policy, text)),
            )
            for text in (chosen, "the man is cooking")
        ]
        with torch.no_grad():
            return answer_part(
                rows, run_engine(policy, shared_prefix_engine, rows, dense=True).log_probs
            )[1]

    assert (rejected("a red square") - rejected("no no no no")).abs().max() > 1e-3


def test_minicpms_frames_are_not_stacked_whatever_its_checkpoint_says() -> None:
    """With `stack_frames` the processor would take frames off the clip's end and tile them into one
    picture.
    """
    policy = load_policy(family_settings("minicpmv4_6"))
    policy.processor.video_processor.stack_frames = 3
    frames = make_frames(6, height=56, width=56)
    clip = video_inputs(policy, frames, VideoSettings())
    plain = video_inputs(plain_policy("minicpmv4_6"), frames, VideoSettings())
    assert clip.expansions == plain.expansions
    assert all(torch.equal(clip.pixels[name], tensor) for name, tensor in plain.pixels.items())


@pytest.mark.parametrize("family", OURS)
def test_a_features_cache_keeps_clips_of_all_families(family: str) -> None:
    """What is written is what is read: features, and a text for each placeholder."""
    policy = plain_policy(family)
    row: Any = make_row(policy, make_frames(3))
    clip = EncodedClip(inputs=replace(row.clip, pixels={}), features=row.features, frames_dropped=1)
    again = read_features(write_features(clip))
    assert torch.equal(again.features.embeddings, row.features.embeddings)
    assert (again.inputs.expansions, again.inputs.typed) == (row.clip.expansions, row.clip.typed)
    prompt = encode_prompt(policy, "what happens ?", again.inputs)
    assert torch.equal(prompt.input_ids, row.prompt.input_ids)
