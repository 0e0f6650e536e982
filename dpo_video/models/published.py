"""Architecture numbers of checkpoints whose language models are Qwen's, GLM's or Llama 3's; rows of
PUBLISHED.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import (
    BaseImageProcessor,
    BaseVideoProcessor,
    CLIPImageProcessor,
    Glm4vVideoProcessor,
    InternVLVideoProcessor,
    LlavaNextImageProcessor,
    LlavaNextVideoVideoProcessor,
    LlavaOnevisionVideoProcessor,
    MiniCPMV4_6VideoProcessor,
    Molmo2VideoProcessor,
    PerceptionLMVideoProcessor,
    PixtralImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLVideoProcessor,
    SmolVLMVideoProcessor,
    VideoLlama3VideoProcessor,
    VideoLlavaVideoProcessor,
)

QWEN_IDS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}
QWEN2_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
}
SIGLIP_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "patch_size": 14,
}

QWEN2_VL_7B: dict[str, Any] = {
    "model_type": "qwen2_vl",
    "tie_word_embeddings": False,
    **QWEN_IDS,
    "text_config": {
        **QWEN2_7B,
        "vocab_size": 152064,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [16, 24, 24],
            "rope_theta": 1000000.0,
        },
    },
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "hidden_size": 3584,
        "mlp_ratio": 4,
        "num_heads": 16,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}
QWEN3_VL_8B: dict[str, Any] = {
    "model_type": "qwen3_vl",
    "tie_word_embeddings": False,
    **QWEN_IDS,
    "text_config": {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262144,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
            "rope_theta": 5000000.0,
        },
    },
    "vision_config": {
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_heads": 16,
        "out_hidden_size": 4096,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [8, 16, 24],
    },
}
LLAVA_ONEVISION_7B: dict[str, Any] = {
    "model_type": "llava_onevision",
    "tie_word_embeddings": False,
    "image_token_index": 151646,
    "video_token_index": 151647,
    "text_config": {"model_type": "qwen2", "vocab_size": 152000, **QWEN2_7B},
    "vision_config": {
        "model_type": "siglip_vision_model",
        "num_hidden_layers": 26,
        "image_size": 384,
        "vision_use_head": False,
        **SIGLIP_SO400M,
    },
}
VIDEO_LLAMA_3_2B: dict[str, Any] = {
    "model_type": "video_llama_3",
    "tie_word_embeddings": True,
    "text_config": {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    },
    "vision_config": {"num_hidden_layers": 27, **SIGLIP_SO400M},
}
GLM_4_1V_9B: dict[str, Any] = {
    "model_type": "glm4v",
    "tie_word_embeddings": False,
    "text_config": {
        "vocab_size": 151552,
        "hidden_size": 4096,
        "intermediate_size": 13696,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "max_position_embeddings": 65536,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [8, 12, 12],
            "partial_rotary_factor": 0.5,
            "rope_theta": 10000.0,
        },
    },
    "vision_config": {
        "depth": 24,
        "hidden_size": 1536,
        "num_heads": 12,
        "out_hidden_size": 4096,
        "intermediate_size": 13696,
        "image_size": 336,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}
MOLMO2_8B: dict[str, Any] = {
    "model_type": "molmo2",
    "tie_word_embeddings": False,
    "text_config": {
        "vocab_size": 151936,
        "additional_vocab_size": 128,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 36864,
    },
    "vision_config": {
        "num_hidden_layers": 25,
        "num_key_value_heads": 16,
        "head_dim": 72,
        "image_size": [378, 378],
        **SIGLIP_SO400M,
    },
    "adapter_config": {"hidden_size": 1152, "intermediate_size": 12288, "text_hidden_size": 4096},
}
PERCEPTION_LM_1B: dict[str, Any] = {
    "model_type": "perception_lm",
    "projector_pooling_ratio": 2,
    "image_token_id": 128002,
    "video_token_id": 128003,
    "text_config": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 11520,
        "tie_word_embeddings": True,
    },
    "vision_config": {
        "model_type": "timm_wrapper",
        "architecture": "vit_pe_core_large_patch14_336",
        "do_pooling": True,
        "global_pool": "map",
        "initializer_range": 0.02,
        "model_args": {
            "depth": 23,
            "embed_dim": 1024,
            "global_pool": "",
            "img_size": [448, 448],
            "init_values": 0.1,
            "ref_feat_shape": [32, 32],
            "use_post_transformer_norm": False,
        },
    },
}


def qwen3_processor() -> BaseVideoProcessor:
    """Return Qwen3-VL's video processor."""
    return Qwen3VLVideoProcessor(
        size={"shortest_edge": 4096, "longest_edge": 25165824}, cap_pixels_per_frame=False
    )


def onevision_processor() -> BaseVideoProcessor:
    """Return LLaVA-OneVision's video processor."""
    return LlavaOnevisionVideoProcessor(size={"height": 384, "width": 384})


def video_llama_processor() -> BaseVideoProcessor:
    """Return VideoLLaMA 3's video processor, whose bounds are not transformers' own defaults.

    Second-hand, as the 2B model's context of 131,072 (the 7B's is 32,768): an audit of this family,
    in a public repository, tells them from the files on the hub that it saved.
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


VICUNA_7B = {
    "model_type": "llama",
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
CLIP_L = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 768,
}
MISTRAL_7B = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "sliding_window": None,
}
MISTRAL_40_LAYERS = {
    "model_type": "mistral",
    "vocab_size": 131072,
    "hidden_size": 5120,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "sliding_window": None,
}
PIXTRAL_TOWER = {
    "model_type": "pixtral",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "head_dim": 64,
}
GRID_336 = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]

VIDEO_LLAVA_7B: dict[str, Any] = {
    "model_type": "video_llava",
    "tie_word_embeddings": False,
    "image_token_index": 32000,
    "video_token_index": 32001,
    "text_config": VICUNA_7B,
    "vision_config": {**CLIP_L, "image_size": 224},
}
INTERNVL3_8B: dict[str, Any] = {
    "model_type": "internvl",
    "tie_word_embeddings": False,
    "image_token_id": 151667,
    "image_seq_length": 256,
    "downsample_ratio": 0.5,
    "text_config": {"model_type": "qwen2", "vocab_size": 151674, **QWEN2_7B},
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "attention_bias": True,
        "image_size": [448, 448],
        "patch_size": [14, 14],
    },
}
SMOLVLM2_2B: dict[str, Any] = {
    "model_type": "smolvlm",
    "tie_word_embeddings": False,
    "image_token_id": 49190,
    "scale_factor": 3,
    "text_config": {
        "model_type": "llama",
        "vocab_size": 49280,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 8192,
    },
    "vision_config": {**SIGLIP_SO400M, "num_hidden_layers": 27, "image_size": 384},
}
LLAVA_1_5_7B: dict[str, Any] = {
    "model_type": "llava",
    "tie_word_embeddings": False,
    "image_token_index": 32000,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "text_config": VICUNA_7B,
    "vision_config": {**CLIP_L, "image_size": 336},
}
LLAVA_NEXT_MISTRAL_7B: dict[str, Any] = {
    "model_type": "llava_next",
    "tie_word_embeddings": False,
    "image_token_index": 32000,
    "image_grid_pinpoints": GRID_336,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "text_config": {**MISTRAL_7B, "vocab_size": 32064},
    "vision_config": {**CLIP_L, "image_size": 336},
}
PIXTRAL_12B: dict[str, Any] = {
    "model_type": "llava",
    "tie_word_embeddings": False,
    "image_token_index": 10,
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
    "text_config": {
        **MISTRAL_40_LAYERS,
        "intermediate_size": 14336,
        "max_position_embeddings": 1024000,
    },
    "vision_config": {**PIXTRAL_TOWER, "image_size": 1024, "patch_size": 16},
}
MISTRAL_SMALL_24B: dict[str, Any] = {
    "model_type": "mistral3",
    "tie_word_embeddings": False,
    "image_token_index": 10,
    "spatial_merge_size": 2,
    "text_config": {
        **MISTRAL_40_LAYERS,
        "intermediate_size": 32768,
        "max_position_embeddings": 131072,
    },
    "vision_config": {**PIXTRAL_TOWER, "image_size": 1540, "patch_size": 14},
}
MINICPM_V_4_6: dict[str, Any] = {
    "model_type": "minicpmv4_6",
    "tie_word_embeddings": True,
    "text_config": {
        "model_type": "qwen3_5_text",
        "vocab_size": 248094,
        "hidden_size": 1024,
        "intermediate_size": 3584,
        "num_hidden_layers": 24,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 16,
        "max_position_embeddings": 262144,
        "tie_word_embeddings": True,
    },
    "vision_config": {**SIGLIP_SO400M, "num_hidden_layers": 27, "image_size": 980},
}


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
    return LlavaNextImageProcessor(
        size={"shortest_edge": 336},
        crop_size={"height": 336, "width": 336},
        image_grid_pinpoints=GRID_336,
    )


def pixtral_processor() -> BaseImageProcessor:
    """Return Pixtral's image processor."""
    return PixtralImageProcessor(
        size={"longest_edge": 1024}, patch_size={"height": 16, "width": 16}
    )


def mistral3_processor() -> BaseImageProcessor:
    """Return Mistral Small 3.1's image processor."""
    return PixtralImageProcessor(
        size={"longest_edge": 1540}, patch_size={"height": 14, "width": 14}
    )


def minicpm_processor() -> BaseVideoProcessor:
    """Return MiniCPM-V 4.6's video processor, with transformers' own defaults.

    Second-hand: vLLM counts with the same 9 slices a frame. The checkpoint's own file was not at
    hand.
    """
    return MiniCPMV4_6VideoProcessor()


@dataclass(frozen=True, slots=True)
class Published:
    """The config of one checkpoint, and what resizes its frames."""

    config: dict[str, Any]
    video_processor: Callable[[], BaseVideoProcessor | BaseImageProcessor]


def _qwen2_5_vl(*, vision_intermediate: int, tied: bool, **text: int) -> Published:
    rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1000000.0}
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": vision_intermediate,
        "num_heads": 16,
        "out_hidden_size": text["hidden_size"],
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    language = {
        **text,
        "max_position_embeddings": 128000,
        "rope_parameters": rope,
        "tie_word_embeddings": tied,
    }
    config = {
        "model_type": "qwen2_5_vl",
        "text_config": language,
        "vision_config": vision,
        "tie_word_embeddings": tied,
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
    }
    return Published(config, _qwen_processor)


def _qwen_processor() -> BaseVideoProcessor:
    return Qwen2VLVideoProcessor(
        size={"shortest_edge": 3136, "longest_edge": 12845056}, cap_pixels_per_frame=False
    )


def _llava_processor() -> BaseVideoProcessor:
    return LlavaNextVideoVideoProcessor(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
    )


_LLAVA_NEXT_VIDEO_7B = Published(
    {
        "model_type": "llava_next_video",
        "text_config": VICUNA_7B,
        "vision_config": {**CLIP_L, "image_size": 336},
        "image_token_index": 32001,
        "video_token_index": 32000,
        "image_seq_length": 576,
        "video_seq_length": 288,
        "vision_feature_layer": -2,
        "spatial_pool_mode": "average",
        "spatial_pool_stride": 2,
        "tie_word_embeddings": False,
    },
    _llava_processor,
)

PUBLISHED: dict[str, Published] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": _qwen2_5_vl(
        vocab_size=151936,
        hidden_size=2048,
        intermediate_size=11008,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=2,
        vision_intermediate=3420,
        tied=True,
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": _qwen2_5_vl(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vision_intermediate=3420,
        tied=False,
    ),
    "llava-hf/LLaVA-NeXT-Video-7B-hf": _LLAVA_NEXT_VIDEO_7B,
    "llava-hf/LLaVA-NeXT-Video-7B-DPO-hf": _LLAVA_NEXT_VIDEO_7B,
    "Qwen/Qwen2-VL-7B-Instruct": Published(QWEN2_VL_7B, _qwen_processor),
    "Qwen/Qwen3-VL-8B-Instruct": Published(QWEN3_VL_8B, qwen3_processor),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": Published(LLAVA_ONEVISION_7B, onevision_processor),
    "lkhl/VideoLLaMA3-2B-Image-HF": Published(VIDEO_LLAMA_3_2B, video_llama_processor),
    "zai-org/GLM-4.1V-9B-Thinking": Published(GLM_4_1V_9B, glm_processor),
    "allenai/Molmo2-8B": Published(MOLMO2_8B, molmo_processor),
    "facebook/Perception-LM-1B": Published(PERCEPTION_LM_1B, perception_processor),
    "LanguageBind/Video-LLaVA-7B-hf": Published(VIDEO_LLAVA_7B, video_llava_processor),
    "OpenGVLab/InternVL3-8B-hf": Published(INTERNVL3_8B, internvl_processor),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": Published(SMOLVLM2_2B, smolvlm_processor),
    "llava-hf/llava-1.5-7b-hf": Published(LLAVA_1_5_7B, llava_processor),
    "llava-hf/llava-v1.6-mistral-7b-hf": Published(LLAVA_NEXT_MISTRAL_7B, llava_next_processor),
    "mistral-community/pixtral-12b": Published(PIXTRAL_12B, pixtral_processor),
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": Published(
        MISTRAL_SMALL_24B, mistral3_processor
    ),
    "openbmb/MiniCPM-V-4.6": Published(MINICPM_V_4_6, minicpm_processor),
}
