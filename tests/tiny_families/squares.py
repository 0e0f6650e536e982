"""Tiny models that bring every frame to one square: LLaVA-OneVision."""

from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedModel,
)

from tiny_families.parts import CHATML, chatml_tokenizer, siglip_config, text_config

SQUARE = {"height": 56, "width": 56}


def llava_onevision() -> tuple[PreTrainedModel, LlavaOnevisionProcessor]:
    """Return a tiny LLaVA-OneVision and its processor."""
    tokenizer = chatml_tokenizer()
    grid = [[56, 56], [56, 112], [112, 56], [112, 112]]
    config = LlavaOnevisionConfig(
        vision_config=siglip_config(), text_config=text_config(tokenizer, "qwen2"), image_grid_pinpoints=grid,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), tie_word_embeddings=False,
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"))
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=grid), tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=SQUARE), num_image_tokens=16, chat_template=CHATML,
        vision_feature_select_strategy="full")
    return LlavaOnevisionForConditionalGeneration(config), processor
