"""Tiny models whose towers take a grid of patches of any size: VideoLLaMA 3 and GLM-4.1V."""

from typing import Any

from tiny_models import make_tokenizer, mrope_text_config
from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vImageProcessor,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
    Glm4vProcessor,
    Glm4vVideoProcessor,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    Glm46VImageProcessor,
    Glm46VProcessor,
    Glm46VVideoProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
    VideoLlama3ImageProcessor,
    VideoLlama3Processor,
    VideoLlama3VideoProcessor,
)

from tiny_families.parts import CHATML, chatml_tokenizer, text_config

FRAME = 28 * 28
# The form of the published GLM-4.1V template.
GLM_TEMPLATE = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m['role'] }}|>\n{% for c in m['content'] %}{% if "
    "c['type'] == 'video' %}"
    "<|begin_of_video|><|video|><|end_of_video|>{% elif c['type'] == 'text' %}{{ c['text'] }}{% "
    "endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def video_llama_3() -> tuple[PreTrainedModel, VideoLlama3Processor]:
    """Return a tiny VideoLLaMA 3 and its processor."""
    tokenizer = chatml_tokenizer()
    vision = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 14,
    }
    config = VideoLlama3Config(
        vision_config=vision,
        text_config=text_config(tokenizer, "qwen2"),
        tie_word_embeddings=False,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
    )
    processor = VideoLlama3Processor(
        image_processor=VideoLlama3ImageProcessor(
            size={"shortest_edge": 4 * FRAME, "longest_edge": 16 * FRAME}
        ),
        tokenizer=tokenizer,
        chat_template=CHATML,
        video_processor=VideoLlama3VideoProcessor(
            size={"shortest_edge": 4 * FRAME, "longest_edge": 48 * FRAME}
        ),
    )
    return VideoLlama3ForConditionalGeneration(config), processor


def glm4v() -> tuple[PreTrainedModel, Glm4vProcessor]:
    """Return a tiny GLM-4.1V and its processor."""
    tokenizer, text, marks = _glm_parts()
    config = Glm4vConfig(text_config=text, vision_config=GLM_TOWER, **marks)
    return Glm4vForConditionalGeneration(config), _glm_processor(tokenizer)


def glm46v() -> tuple[PreTrainedModel, Glm46VProcessor]:
    """Return a tiny GLM-4.6V-Flash and its processor."""
    tokenizer, text, marks = _glm_parts()
    config = Glm46VConfig(
        text_config={"model_type": "glm4v_text", **text},
        vision_config={"model_type": "glm4v_vision", **GLM_TOWER},
        **marks,
    )
    processor = Glm46VProcessor(
        image_processor=Glm46VImageProcessor(
            size={"shortest_edge": 4 * FRAME, "longest_edge": 32 * FRAME}
        ),
        tokenizer=tokenizer,
        chat_template=GLM_TEMPLATE,
        video_processor=Glm46VVideoProcessor(
            size={"shortest_edge": 4 * FRAME, "longest_edge": 96 * FRAME}
        ),
    )
    return Glm46VForConditionalGeneration(config), processor


def glm4v_moe() -> tuple[PreTrainedModel, Glm4vProcessor]:
    """Return a tiny GLM-4.5V: a dense layer and one of 4 experts beside a shared one."""
    tokenizer, text, marks = _glm_parts()
    experts = {
        "moe_intermediate_size": 64,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
    }
    config = Glm4vMoeConfig(text_config={**text, **experts}, vision_config=GLM_TOWER, **marks)
    return Glm4vMoeForConditionalGeneration(config), _glm_processor(tokenizer)


GLM_TOWER = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 2,
    "out_hidden_size": 128,
    "image_size": 56,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


def _glm_parts() -> tuple[PreTrainedTokenizerFast, dict[str, Any], dict[str, int]]:
    """Return a tokenizer, the config of a language model, and the ids of the marks."""
    special = ["<|endoftext|>", "<|user|>", "<|assistant|>", "[gMASK]", "<sop>"]
    special += ["<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"]
    tokenizer = make_tokenizer(
        [*special, "<|image|>", "<|video|>"],
        eos="<|endoftext|>",
        pad="<|endoftext|>",
        extra={"image_token": "<|image|>", "video_token": "<|video|>"},
    )
    marks = {
        f"{modality}{mark}_token_id": tokenizer.convert_tokens_to_ids(token.format(modality))
        for modality in ("image", "video")
        for mark, token in (
            ("", "<|{}|>"),
            ("_start", "<|begin_of_{}|>"),
            ("_end", "<|end_of_{}|>"),
        )
    }
    rope = {
        "rope_type": "default",
        "mrope_section": [4, 6, 6],
        "partial_rotary_factor": 1.0,
        "rope_theta": 10000.0,
    }
    text = mrope_text_config(tokenizer, rope_parameters=rope)
    return tokenizer, text, marks


def _glm_processor(tokenizer: PreTrainedTokenizerFast) -> Glm4vProcessor:
    return Glm4vProcessor(
        image_processor=Glm4vImageProcessor(
            size={"shortest_edge": 4 * FRAME, "longest_edge": 32 * FRAME}
        ),
        tokenizer=tokenizer,
        chat_template=GLM_TEMPLATE,
        video_processor=Glm4vVideoProcessor(
            size={"shortest_edge": 4 * FRAME, "longest_edge": 96 * FRAME}
        ),
    )
