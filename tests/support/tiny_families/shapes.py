"""Tiny models whose frames keep a shape of their own: Gemma 4 and Kimi K2.5."""

from typing import Any

from tiny_models import make_tokenizer
from transformers import (
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4VideoProcessor,
    Kimi_K25Config,
    Kimi_K25ForConditionalGeneration,
    Kimi_K25ImageProcessor,
    Kimi_K25Processor,
    Kimi_K25VideoProcessor,
    PreTrainedModel,
)

from tiny_families.parts import CHATML, text_config


def gemma4() -> tuple[PreTrainedModel, Gemma4Processor]:
    """Return a tiny Gemma 4: a layer that sees 16 tokens back, and one that sees all, whose heads
    are twice as wide.
    """
    return _gemma4(hidden_size_per_layer_input=64)


def gemma4_moe() -> tuple[PreTrainedModel, Gemma4Processor]:
    """Return the same with 4 experts beside the dense part of each layer. As the published one it
    has no embeddings of the layers' own, tokens of a frame see each other, and keys of the layer
    that sees all are its values too, of one head.
    """
    experts = {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 64}
    attention = {
        "use_bidirectional_attention": "vision",
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
    }
    return _gemma4(hidden_size_per_layer_input=0, enable_moe_block=True, **experts, **attention)


def _gemma4(**of_text: Any) -> tuple[PreTrainedModel, Gemma4Processor]:
    named = {
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
    }
    tokenizer = make_tokenizer(
        ["<pad>", "<eos>", "<bos>", "<|im_start|>", "<|im_end|>", "<|video|>", *named.values()],
        eos="<eos>",
        pad="<pad>",
        bos="<bos>",
        extra=named,
    )
    text = text_config(
        tokenizer,
        "gemma4_text",
        head_dim=32,
        global_head_dim=64,
        sliding_window=16,
        vocab_size_per_layer_input=len(tokenizer),
        layer_types=["sliding_attention", "full_attention"],
        **of_text,
    )
    vision = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "patch_size": 4,
        "position_embedding_size": 256,
    }
    config = Gemma4Config(
        text_config=text,
        vision_config=vision,
        audio_config=None,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
        audio_token_id=tokenizer.convert_tokens_to_ids("<|audio|>"),
    )
    processor = Gemma4Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessor(patch_size=4),
        tokenizer=tokenizer,
        video_processor=Gemma4VideoProcessor(patch_size=4),
        chat_template=CHATML.replace("<image>", "<|image|>").replace("<video>", "<|video|>"),
    )
    return Gemma4ForConditionalGeneration(config), processor


def kimi_k25() -> tuple[PreTrainedModel, Kimi_K25Processor]:
    """Return a tiny Kimi K2.5: a dense layer and one of 4 experts."""
    media = ["<|media_begin|>", "<|media_content|>", "<|media_end|>"]
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>", *media],
        eos="<|im_end|>",
        pad="<|endoftext|>",
        extra={"image_token": "<image>", "video_token": "<video>"},
    )
    text = text_config(
        tokenizer,
        "deepseek_v3",
        num_key_value_heads=4,
        q_lora_rank=64,
        kv_lora_rank=64,
        qk_nope_head_dim=16,
        qk_rope_head_dim=16,
        v_head_dim=32,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        first_k_dense_replace=1,
    )
    vision = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "pos_emb_height": 8,
        "pos_emb_width": 8,
    }
    config = Kimi_K25Config(
        text_config=text,
        vision_config=vision,
        projection_hidden_size=64,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        tie_word_embeddings=False,
    )
    sizes = {"max_patches": 64}
    processor = Kimi_K25Processor(
        image_processor=Kimi_K25ImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=Kimi_K25VideoProcessor(**sizes),
        chat_template=CHATML,
    )
    return Kimi_K25ForConditionalGeneration(config), processor
