"""Tiny models that take videos at one size: Video-LLaVA, InternVL and SmolVLM."""

from typing import Any

from tiny_models import VICUNA_TEMPLATE, make_tokenizer
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaImageProcessor,
    VideoLlavaProcessor,
    VideoLlavaVideoProcessor,
)

from tiny_families.parts import CHATML, text_config

CROP_56 = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
SIDE_56 = {"size": {"height": 56, "width": 56}}


def tower(model_type: str, **more: Any) -> dict[str, Any]:
    """Return the config of a tiny vision tower: 56 pixels, patches of 14."""
    named = {"model_type": model_type} if model_type else {}
    return {
        **named,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        **more,
    }


def clip_tower() -> dict[str, Any]:
    """Return the config of a tiny CLIP tower, with a class token."""
    return tower("clip_vision_model", projection_dim=64)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with Llama's and LLaVA's special tokens."""
    return make_tokenizer(
        ["<unk>", "<s>", "</s>", "<pad>", "<image>", "<video>"],
        eos="</s>",
        pad="<pad>",
        bos="<s>",
        extra={"image_token": "<image>", "video_token": "<video>"},
    )


def video_llava() -> tuple[PreTrainedModel, VideoLlavaProcessor]:
    """Return a Video-LLaVA of 17 tokens a frame."""
    tokenizer = llama_tokenizer()
    config = VideoLlavaConfig(
        vision_config=clip_tower(),
        text_config=text_config(tokenizer, "llama"),
        image_seq_length=16,
        video_seq_length=136,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
    )
    processor = VideoLlavaProcessor(
        image_processor=VideoLlavaImageProcessor(**CROP_56),
        video_processor=VideoLlavaVideoProcessor(**CROP_56),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA_TEMPLATE,
    )
    return VideoLlavaForConditionalGeneration(config), processor


def internvl() -> tuple[PreTrainedModel, InternVLProcessor]:
    """Return an InternVL of 4 tokens a frame."""
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *named.values()],
        eos="<|im_end|>",
        pad="<|endoftext|>",
        extra=named,
    )
    config = InternVLConfig(
        vision_config=tower("", image_size=[56, 56], patch_size=[14, 14]),
        text_config=text_config(tokenizer, "qwen2"),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(**SIDE_56),
        tokenizer=tokenizer,
        image_seq_length=4,
        video_processor=InternVLVideoProcessor(**SIDE_56),
        chat_template=CHATML.replace("<image>", "<IMG_CONTEXT>"),
    )
    return InternVLForConditionalGeneration(config), processor


def smolvlm() -> tuple[PreTrainedModel, SmolVLMProcessor]:
    """Return a SmolVLM of 4 tokens a frame, with transformers' own template for video."""
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

    named = {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", *named.values()],
        eos="<end_of_utterance>",
        pad="<|endoftext|>",
        extra=named,
    )
    config = SmolVLMConfig(
        vision_config=tower(""),
        text_config=text_config(tokenizer, "llama"),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    sampling = {"fps": 1, "max_frames": 8, "video_size": {"longest_edge": 56}}
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(size={"longest_edge": 112}, max_image_size={"longest_edge": 56}),
        tokenizer,
        SmolVLMVideoProcessor(
            size={"longest_edge": 56}, max_image_size={"longest_edge": 56}, video_sampling=sampling
        ),
        image_seq_len=4,
        chat_template=DEFAULT_CHAT_TEMPLATE,
    )
    return SmolVLMForConditionalGeneration(config), processor
