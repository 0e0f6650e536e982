"""Tiny models that bring every frame to one square: LLaVA-OneVision, Molmo 2, Perception LM."""

from tiny_models import make_tokenizer
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Molmo2Config,
    Molmo2ForConditionalGeneration,
    Molmo2ImageProcessor,
    Molmo2Processor,
    Molmo2VideoProcessor,
    PerceptionLMConfig,
    PerceptionLMForConditionalGeneration,
    PerceptionLMImageProcessor,
    PerceptionLMProcessor,
    PerceptionLMVideoProcessor,
    PreTrainedModel,
)

from tiny_families.parts import CHATML, chatml_tokenizer, siglip_config, text_config

SQUARE = {"height": 56, "width": 56}


def llava_onevision() -> tuple[PreTrainedModel, LlavaOnevisionProcessor]:
    """Return a tiny LLaVA-OneVision and its processor."""
    tokenizer = chatml_tokenizer()
    grid = [[56, 56], [56, 112], [112, 56], [112, 112]]
    config = LlavaOnevisionConfig(
        vision_config=siglip_config(),
        text_config=text_config(tokenizer, "qwen2"),
        image_grid_pinpoints=grid,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
    )
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=grid),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=SQUARE),
        num_image_tokens=16,
        chat_template=CHATML,
        vision_feature_select_strategy="full",
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def molmo2() -> tuple[PreTrainedModel, Molmo2Processor]:
    """Return a tiny Molmo 2 and its processor."""
    special = [
        "<im_start>",
        "<im_end>",
        "<im_patch>",
        "<im_col>",
        "<low_res_im_start>",
        "<|image|>",
        "<im_low>",
        "<frame_start>",
        "<frame_end>",
        "<|video|>",
    ]
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *special],
        eos="<|im_end|>",
        pad="<|endoftext|>",
    )
    ids = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in [
            ("image_start_token_id", "<im_start>"),
            ("low_res_image_start_token_id", "<low_res_im_start>"),
            ("image_end_token_id", "<im_end>"),
            ("image_patch_id", "<im_patch>"),
            ("frame_start_token_id", "<frame_start>"),
            ("frame_end_token_id", "<frame_end>"),
        ]
    }
    text = text_config(tokenizer, "molmo2_text", head_dim=32, additional_vocab_size=8)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}
    vision = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "image_size": [56, 56],
        "patch_size": 14,
        **heads,
    }
    adapter = {
        "vision_feature_layer": [-1, -2],
        "hidden_size": 64,
        "intermediate_size": 128,
        "text_hidden_size": 128,
        **heads,
    }
    processor = Molmo2Processor(
        image_processor=Molmo2ImageProcessor(size=SQUARE),
        tokenizer=tokenizer,
        video_processor=Molmo2VideoProcessor(
            size=SQUARE,
            pooling_size=[3, 3],
            do_resize=True,
            do_rescale=True,
            do_normalize=True,
            do_convert_rgb=True,
        ),
        chat_template=CHATML.replace("<image>", "<|image|>").replace("<video>", "<|video|>"),
    )
    config = Molmo2Config(text_config=text, vision_config=vision, adapter_config=adapter, **ids)
    return Molmo2ForConditionalGeneration(config), processor


def perception_lm() -> tuple[PreTrainedModel, PerceptionLMProcessor]:
    """Return a tiny Perception LM and its processor."""
    tokenizer = make_tokenizer(
        ["<|end_of_text|>", "<|im_start|>", "<|im_end|>", "<|image|>", "<|video|>"],
        eos="<|im_end|>",
        pad="<|end_of_text|>",
        extra={"image_token": "<|image|>", "video_token": "<|video|>"},
    )
    tower = {
        "embed_dim": 64,
        "depth": 2,
        "num_heads": 2,
        "img_size": [56, 56],
        "patch_size": 14,
        "global_pool": "",
        "use_post_transformer_norm": False,
        "init_values": 0.1,
        "ref_feat_shape": [4, 4],
        "class_token": True,
    }
    vision = {
        "model_type": "timm_wrapper",
        "architecture": "vit_pe_core_large_patch14_336",
        "num_classes": 32,
        "initializer_range": 0.02,
        "do_pooling": False,
        "global_pool": "map",
        "model_args": tower,
    }
    config = PerceptionLMConfig(
        vision_config=vision,
        text_config=text_config(tokenizer, "llama"),
        vision_use_cls_token=True,
        projector_pooling_ratio=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
    )
    processor = PerceptionLMProcessor(
        video_processor=PerceptionLMVideoProcessor(size=SQUARE),
        tokenizer=tokenizer,
        patch_size=14,
        pooling_ratio=2,
        image_processor=PerceptionLMImageProcessor(tile_size=56, max_num_tiles=4, size=SQUARE),
        chat_template=CHATML.replace("<image>", "<|image|>").replace("<video>", "<|video|>"),
    )
    return PerceptionLMForConditionalGeneration(config), processor
