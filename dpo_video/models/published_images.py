"""Architecture numbers of checkpoints with frames of one size, as images or in parts; rows of PUBLISHED."""

from typing import Any

from transformers import (
    BaseImageProcessor,
    BaseVideoProcessor,
    CLIPImageProcessor,
    InternVLVideoProcessor,
    LlavaNextImageProcessor,
    MiniCPMV4_6VideoProcessor,
    PixtralImageProcessor,
    SmolVLMVideoProcessor,
    VideoLlavaVideoProcessor,
)

from dpo_video.models.published_grids import QWEN2_7B, SIGLIP_SO400M

VICUNA_7B = {"model_type": "llama", "vocab_size": 32064, "hidden_size": 4096, "intermediate_size": 11008,
             "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
             "max_position_embeddings": 4096, "tie_word_embeddings": False}
CLIP_L = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
          "num_attention_heads": 16, "patch_size": 14, "projection_dim": 768}
MISTRAL_7B = {"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
              "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768,
              "sliding_window": None}
MISTRAL_40_LAYERS = {"model_type": "mistral", "vocab_size": 131072, "hidden_size": 5120, "num_hidden_layers": 40,
                     "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "sliding_window": None}
PIXTRAL_TOWER = {"model_type": "pixtral", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                 "num_attention_heads": 16, "head_dim": 64}
GRID_336 = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]

VIDEO_LLAVA_7B: dict[str, Any] = {
    "model_type": "video_llava", "tie_word_embeddings": False, "image_token_index": 32000, "video_token_index": 32001,
    "text_config": VICUNA_7B, "vision_config": {**CLIP_L, "image_size": 224}}
INTERNVL3_8B: dict[str, Any] = {
    "model_type": "internvl", "tie_word_embeddings": False, "image_token_id": 151667, "image_seq_length": 256,
    "downsample_ratio": 0.5, "text_config": {"model_type": "qwen2", "vocab_size": 151674, **QWEN2_7B},
    "vision_config": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                      "num_attention_heads": 16, "attention_bias": True, "image_size": [448, 448],
                      "patch_size": [14, 14]}}
SMOLVLM2_2B: dict[str, Any] = {
    "model_type": "smolvlm", "tie_word_embeddings": False, "image_token_id": 49190, "scale_factor": 3,
    "text_config": {"model_type": "llama", "vocab_size": 49280, "hidden_size": 2048, "intermediate_size": 8192,
                    "num_hidden_layers": 24, "num_attention_heads": 32, "num_key_value_heads": 32,
                    "max_position_embeddings": 8192},
    "vision_config": {**SIGLIP_SO400M, "num_hidden_layers": 27, "image_size": 384}}
LLAVA_1_5_7B: dict[str, Any] = {
    "model_type": "llava", "tie_word_embeddings": False, "image_token_index": 32000, "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default", "text_config": VICUNA_7B,
    "vision_config": {**CLIP_L, "image_size": 336}}
LLAVA_NEXT_MISTRAL_7B: dict[str, Any] = {
    "model_type": "llava_next", "tie_word_embeddings": False, "image_token_index": 32000,
    "image_grid_pinpoints": GRID_336, "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
    "text_config": {**MISTRAL_7B, "vocab_size": 32064}, "vision_config": {**CLIP_L, "image_size": 336}}
PIXTRAL_12B: dict[str, Any] = {
    "model_type": "llava", "tie_word_embeddings": False, "image_token_index": 10, "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
    "text_config": {**MISTRAL_40_LAYERS, "intermediate_size": 14336, "max_position_embeddings": 1024000},
    "vision_config": {**PIXTRAL_TOWER, "image_size": 1024, "patch_size": 16}}
MISTRAL_SMALL_24B: dict[str, Any] = {
    "model_type": "mistral3", "tie_word_embeddings": False, "image_token_index": 10, "spatial_merge_size": 2,
    "text_config": {**MISTRAL_40_LAYERS, "intermediate_size": 32768, "max_position_embeddings": 131072},
    "vision_config": {**PIXTRAL_TOWER, "image_size": 1540, "patch_size": 14}}
MINICPM_V_4_6: dict[str, Any] = {
    "model_type": "minicpmv4_6", "tie_word_embeddings": True,
    "text_config": {
        "model_type": "qwen3_5_text", "vocab_size": 248094, "hidden_size": 1024, "intermediate_size": 3584,
        "num_hidden_layers": 24, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256,
        "linear_num_key_heads": 16, "linear_num_value_heads": 16, "max_position_embeddings": 262144,
        "tie_word_embeddings": True},
    "vision_config": {**SIGLIP_SO400M, "num_hidden_layers": 27, "image_size": 980}}


def video_llava_processor() -> BaseVideoProcessor:
    """Return Video-LLaVA's video processor."""
    return VideoLlavaVideoProcessor()


def internvl_processor() -> BaseVideoProcessor:
    """Return InternVL 3's video processor."""
    return InternVLVideoProcessor(size={"height": 448, "width": 448})


def smolvlm_processor() -> BaseVideoProcessor:
    """Return SmolVLM2-2.2B's video processor."""
    return SmolVLMVideoProcessor(size={"longest_edge": 1536}, max_image_size={"longest_edge": 384})


def llava_processor() -> BaseImageProcessor:
    """Return LLaVA-1.5's image processor."""
    return CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})


def llava_next_processor() -> BaseImageProcessor:
    """Return LLaVA-NeXT's image processor."""
    return LlavaNextImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336},
                                   image_grid_pinpoints=GRID_336)


def pixtral_processor() -> BaseImageProcessor:
    """Return Pixtral's image processor."""
    return PixtralImageProcessor(size={"longest_edge": 1024}, patch_size={"height": 16, "width": 16})


def mistral3_processor() -> BaseImageProcessor:
    """Return Mistral Small 3.1's image processor."""
    return PixtralImageProcessor(size={"longest_edge": 1540}, patch_size={"height": 14, "width": 14})


def minicpm_processor() -> BaseVideoProcessor:
    """Return MiniCPM-V 4.6's video processor, with transformers' own defaults.

    Second-hand: vLLM counts with the same 9 slices a frame. The checkpoint's own file was not at hand.
    """
    return MiniCPMV4_6VideoProcessor()
