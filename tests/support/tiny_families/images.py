"""Tiny models that take frames as images: LLaVA, LLaVA-NeXT, Pixtral, Mistral 3; and MiniCPM-V."""

from typing import Any

from tiny_models import VICUNA_TEMPLATE, make_tokenizer
from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    MiniCPMV4_6Config,
    MiniCPMV4_6ForConditionalGeneration,
    MiniCPMV4_6ImageProcessor,
    MiniCPMV4_6Processor,
    MiniCPMV4_6VideoProcessor,
    MiniCPMV4_7Config,
    MiniCPMV4_7ForConditionalGeneration,
    MiniCPMV4_7Processor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
)

from tiny_families.parts import CHATML, text_config
from tiny_families.videos import CROP_56, SIDE_56, clip_tower, llama_tokenizer, tower

# The published template of LLaVA-1.5 puts all images first, each on a line.
IMAGES_TEMPLATE = VICUNA_TEMPLATE.replace("'video'", "'image'").replace("<video>", "<image>")
# The form of Pixtral's published template.
PIXTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '[INST]' }}{% for c in message['content'] %}"
    "{% if c['type'] == 'image' %}{{ '[IMG]' }}{% else %}{{ c['text'] }}{% endif %}{% endfor %}{{ "
    "'[/INST]' }}"
    "{% endfor %}"
)


def llava() -> tuple[PreTrainedModel, LlavaProcessor]:
    """Return a LLaVA-1.5 of 16 tokens a frame."""
    tokenizer = llama_tokenizer()
    config = LlavaConfig(
        vision_config=clip_tower(),
        text_config=text_config(tokenizer, "llama"),
        image_seq_length=16,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(**CROP_56),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=IMAGES_TEMPLATE,
    )
    return LlavaForConditionalGeneration(config), processor


def llava_interleave() -> tuple[PreTrainedModel, LlavaProcessor]:
    """Return a LLaVA-NeXT-Interleave: the row of LLaVA with a SigLIP tower, no crop and Qwen2."""
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"],
        eos="<|im_end|>",
        pad="<|endoftext|>",
        extra={"image_token": "<image>"},
    )
    config = LlavaConfig(
        vision_config=tower("siglip_vision_model", vision_use_head=False),
        text_config=text_config(tokenizer, "qwen2"),
        image_seq_length=16,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    processor = LlavaProcessor(
        image_processor=SiglipImageProcessor(**SIDE_56),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=CHATML,
    )
    return LlavaForConditionalGeneration(config), processor


def llava_next() -> tuple[PreTrainedModel, LlavaNextProcessor]:
    """Return a LLaVA-NeXT with tiles of 16 tokens."""
    tokenizer, grid = llama_tokenizer(), [[56, 112], [112, 56], [112, 112]]
    config = LlavaNextConfig(
        vision_config=clip_tower(),
        text_config=text_config(tokenizer, "llama"),
        image_seq_length=16,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
    )
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(**CROP_56, image_grid_pinpoints=grid),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=IMAGES_TEMPLATE,
    )
    return LlavaNextForConditionalGeneration(config), processor


def _mistral_tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(
        ["<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"],
        eos="</s>",
        pad="<pad>",
        bos="<s>",
    )


def _pixtral_processor(tokenizer: PreTrainedTokenizerFast, **merge: int) -> PixtralProcessor:
    return PixtralProcessor(
        image_processor=PixtralImageProcessor(
            size={"longest_edge": 112}, patch_size={"height": 14, "width": 14}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        chat_template=PIXTRAL_TEMPLATE,
        **merge,
    )


def _pixtral_parts(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vision_config": tower("pixtral", image_size=112, head_dim=32),
        "text_config": text_config(tokenizer, "mistral", sliding_window=None, head_dim=32),
        "image_token_index": tokenizer.convert_tokens_to_ids("[IMG]"),
        "vision_feature_layer": -1,
    }


def pixtral() -> tuple[PreTrainedModel, PixtralProcessor]:
    """Return a Pixtral, of model type `llava` as its published checkpoint, with a token per 14 x 14
    pixels.
    """
    tokenizer = _mistral_tokenizer()
    config = LlavaConfig(
        **_pixtral_parts(tokenizer), image_seq_length=1, vision_feature_select_strategy="full"
    )
    return LlavaForConditionalGeneration(config), _pixtral_processor(tokenizer)


def mistral3() -> tuple[PreTrainedModel, PixtralProcessor]:
    """Return a Mistral 3, with a token per 28 x 28 pixels."""
    tokenizer = _mistral_tokenizer()
    config = Mistral3Config(
        **_pixtral_parts(tokenizer), spatial_merge_size=2, tie_word_embeddings=False
    )
    return Mistral3ForConditionalGeneration(config), _pixtral_processor(
        tokenizer, spatial_merge_size=2
    )


def minicpmv4_6() -> tuple[PreTrainedModel, MiniCPMV4_6Processor]:
    """Return a MiniCPM-V with a recurrent layer and one of attention; frames above 112 pixels are
    sliced.
    """
    tokenizer = _minicpm_tokenizer()
    config = MiniCPMV4_6Config(**_minicpm_parts(tokenizer))
    processor = MiniCPMV4_6Processor(**_minicpm_processor(tokenizer))
    return MiniCPMV4_6ForConditionalGeneration(config), processor


def minicpmv4_7() -> tuple[PreTrainedModel, MiniCPMV4_7Processor]:
    """Return the same with positions on a canvas."""
    tokenizer = _minicpm_tokenizer()
    marks = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            ("image_start_id", "<image>"),
            ("image_end_id", "</image>"),
            ("slice_start_id", "<slice>"),
            ("slice_end_id", "</slice>"),
            ("newline_id", "\u010a"),  # a line's end in byte-level tokens
        )
    }
    config = MiniCPMV4_7Config(**_minicpm_parts(tokenizer), **marks)
    processor = MiniCPMV4_7Processor(**_minicpm_processor(tokenizer))
    return MiniCPMV4_7ForConditionalGeneration(config), processor


def _minicpm_tokenizer() -> PreTrainedTokenizerFast:
    named = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    }
    return make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *named.values()],
        eos="<|im_end|>",
        pad="<|endoftext|>",
        extra=named,
    )


def _minicpm_parts(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
        "partial_rotary_factor": 0.25,
    }
    text = text_config(
        tokenizer,
        "qwen3_5_text",
        head_dim=32,
        linear_key_head_dim=16,
        linear_value_head_dim=4,
        linear_num_key_heads=8,
        linear_num_value_heads=32,
        rope_parameters=rope,
        layer_types=["linear_attention", "full_attention"],
    )
    return {
        "text_config": text,
        "vision_config": tower(""),
        "insert_layer_id": 0,
        "image_size": 56,
        "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video_pad|>"),
    }


def _minicpm_processor(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    sizes = {"scale_resolution": 112, "max_slice_nums": 9, "slice_mode": True}
    return {
        "image_processor": MiniCPMV4_6ImageProcessor(**sizes),
        "tokenizer": tokenizer,
        "video_processor": MiniCPMV4_6VideoProcessor(**sizes),
        "chat_template": CHATML.replace("<image>", "<|image_pad|>").replace(
            "<video>", "<|video_pad|>"
        ),
    }
