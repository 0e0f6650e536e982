"""Architecture numbers of checkpoints whose language models are Qwen's, GLM's or Llama 3's; rows of PUBLISHED."""

from typing import Any

from transformers import (
    BaseVideoProcessor,
    Glm4vVideoProcessor,
    LlavaOnevisionVideoProcessor,
    Molmo2VideoProcessor,
    PerceptionLMVideoProcessor,
    Qwen3VLVideoProcessor,
    VideoLlama3VideoProcessor,
)

QWEN_IDS = {"image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652,
            "vision_end_token_id": 151653}
QWEN2_7B = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
            "num_key_value_heads": 4, "max_position_embeddings": 32768}
SIGLIP_SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "patch_size": 14}

QWEN2_VL_7B: dict[str, Any] = {
    "model_type": "qwen2_vl", "tie_word_embeddings": False, **QWEN_IDS,
    "text_config": {**QWEN2_7B, "vocab_size": 152064, "rope_parameters": {
        "rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1000000.0}},
    "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4, "num_heads": 16,
                      "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}}
QWEN3_VL_8B: dict[str, Any] = {
    "model_type": "qwen3_vl", "tie_word_embeddings": False, **QWEN_IDS,
    "text_config": {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144,
        "rope_parameters": {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True,
                            "rope_theta": 5000000.0}},
    "vision_config": {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
                      "out_hidden_size": 4096, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
                      "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24]}}
LLAVA_ONEVISION_7B: dict[str, Any] = {
    "model_type": "llava_onevision", "tie_word_embeddings": False, "image_token_index": 151646,
    "video_token_index": 151647, "text_config": {"model_type": "qwen2", "vocab_size": 152000, **QWEN2_7B},
    "vision_config": {"model_type": "siglip_vision_model", "num_hidden_layers": 26, "image_size": 384,
                      "vision_use_head": False, **SIGLIP_SO400M}}
VIDEO_LLAMA_3_2B: dict[str, Any] = {
    "model_type": "video_llama_3", "tie_word_embeddings": True,
    "text_config": {"model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960,
                    "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
                    "max_position_embeddings": 131072, "tie_word_embeddings": True},
    "vision_config": {"num_hidden_layers": 27, **SIGLIP_SO400M}}
GLM_4_1V_9B: dict[str, Any] = {
    "model_type": "glm4v", "tie_word_embeddings": False,
    "text_config": {
        "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40,
        "num_attention_heads": 32, "num_key_value_heads": 2, "max_position_embeddings": 65536,
        "rope_parameters": {"rope_type": "default", "mrope_section": [8, 12, 12], "partial_rotary_factor": 0.5,
                            "rope_theta": 10000.0}},
    "vision_config": {"depth": 24, "hidden_size": 1536, "num_heads": 12, "out_hidden_size": 4096,
                      "intermediate_size": 13696, "image_size": 336, "patch_size": 14, "spatial_merge_size": 2,
                      "temporal_patch_size": 2}}
MOLMO2_8B: dict[str, Any] = {
    "model_type": "molmo2", "tie_word_embeddings": False,
    "text_config": {"vocab_size": 151936, "additional_vocab_size": 128, "hidden_size": 4096,
                    "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
                    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 36864},
    "vision_config": {"num_hidden_layers": 25, "num_key_value_heads": 16, "head_dim": 72, "image_size": [378, 378],
                      **SIGLIP_SO400M},
    "adapter_config": {"hidden_size": 1152, "intermediate_size": 12288, "text_hidden_size": 4096}}
PERCEPTION_LM_1B: dict[str, Any] = {
    "model_type": "perception_lm", "projector_pooling_ratio": 2, "image_token_id": 128002, "video_token_id": 128003,
    "text_config": {"model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
                    "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
                    "max_position_embeddings": 11520, "tie_word_embeddings": True},
    "vision_config": {
        "model_type": "timm_wrapper", "architecture": "vit_pe_core_large_patch14_336", "do_pooling": True,
        "global_pool": "map", "initializer_range": 0.02, "model_args": {
            "depth": 23, "embed_dim": 1024, "global_pool": "", "img_size": [448, 448], "init_values": 0.1,
            "ref_feat_shape": [32, 32], "use_post_transformer_norm": False}}}


def qwen3_processor() -> BaseVideoProcessor:
    """Return Qwen3-VL's video processor."""
    return Qwen3VLVideoProcessor(size={"shortest_edge": 4096, "longest_edge": 25165824}, cap_pixels_per_frame=False)


def onevision_processor() -> BaseVideoProcessor:
    """Return LLaVA-OneVision's video processor."""
    return LlavaOnevisionVideoProcessor(size={"height": 384, "width": 384})


def video_llama_processor() -> BaseVideoProcessor:
    """Return VideoLLaMA 3's video processor, whose bounds are not transformers' own defaults.

    Second-hand, as the 2B model's context of 131,072 (the 7B's is 32,768): an audit of this family, in a public
    repository, tells them from the files on the hub that it saved.
    """
    return VideoLlama3VideoProcessor(size={"shortest_edge": 12544, "longest_edge": 12845056})


def glm_processor() -> BaseVideoProcessor:
    """Return GLM-4.1V's video processor."""
    return Glm4vVideoProcessor(size={"shortest_edge": 12544, "longest_edge": 47040000})


def molmo_processor() -> BaseVideoProcessor:
    """Return Molmo 2's video processor."""
    return Molmo2VideoProcessor(size={"height": 378, "width": 378}, pooling_size=[3, 3])


def perception_processor() -> BaseVideoProcessor:
    """Return Perception LM's video processor."""
    return PerceptionLMVideoProcessor(size={"height": 448, "width": 448})
