"""Architecture numbers of well-known checkpoints, as data: `check` plans with them without a network.

Sources: config.json and preprocessor_config.json of each repository on the Hugging Face hub; where others told what
stands in them, the processor's docstring says so. A config on this disk wins over these; training and generation
always read the checkpoint itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import BaseImageProcessor, BaseVideoProcessor, LlavaNextVideoVideoProcessor, Qwen2VLVideoProcessor

from dpo_video.models import published_grids as grids
from dpo_video.models import published_images as images


@dataclass(frozen=True, slots=True)
class Published:
    """The config of one checkpoint, and what resizes its frames."""

    config: dict[str, Any]
    video_processor: Callable[[], BaseVideoProcessor | BaseImageProcessor]


def _qwen2_5_vl(*, vision_intermediate: int, tied: bool, **text: int) -> Published:
    rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1000000.0}
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": vision_intermediate, "num_heads": 16,
              "out_hidden_size": text["hidden_size"], "patch_size": 14, "spatial_merge_size": 2,
              "temporal_patch_size": 2, "tokens_per_second": 2, "window_size": 112,
              "fullatt_block_indexes": [7, 15, 23, 31]}
    language = {**text, "max_position_embeddings": 128000, "rope_parameters": rope, "tie_word_embeddings": tied}
    config = {"model_type": "qwen2_5_vl", "text_config": language, "vision_config": vision,
              "tie_word_embeddings": tied, "image_token_id": 151655, "video_token_id": 151656,
              "vision_start_token_id": 151652, "vision_end_token_id": 151653}
    return Published(config, _qwen_processor)


def _qwen_processor() -> BaseVideoProcessor:
    return Qwen2VLVideoProcessor(size={"shortest_edge": 3136, "longest_edge": 12845056}, cap_pixels_per_frame=False)


def _llava_processor() -> BaseVideoProcessor:
    return LlavaNextVideoVideoProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})


_LLAVA_NEXT_VIDEO_7B = Published(
    {"model_type": "llava_next_video", "text_config": images.VICUNA_7B,
     "vision_config": {**images.CLIP_L, "image_size": 336},
     "image_token_index": 32001, "video_token_index": 32000, "image_seq_length": 576, "video_seq_length": 288,
     "vision_feature_layer": -2, "spatial_pool_mode": "average", "spatial_pool_stride": 2,
     "tie_word_embeddings": False}, _llava_processor)

PUBLISHED: dict[str, Published] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": _qwen2_5_vl(
        vocab_size=151936, hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16,
        num_key_value_heads=2, vision_intermediate=3420, tied=True),
    "Qwen/Qwen2.5-VL-7B-Instruct": _qwen2_5_vl(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, vision_intermediate=3420, tied=False),
    "llava-hf/LLaVA-NeXT-Video-7B-hf": _LLAVA_NEXT_VIDEO_7B,
    "llava-hf/LLaVA-NeXT-Video-7B-DPO-hf": _LLAVA_NEXT_VIDEO_7B,
    "Qwen/Qwen2-VL-7B-Instruct": Published(grids.QWEN2_VL_7B, _qwen_processor),
    "Qwen/Qwen3-VL-8B-Instruct": Published(grids.QWEN3_VL_8B, grids.qwen3_processor),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": Published(grids.LLAVA_ONEVISION_7B, grids.onevision_processor),
    "lkhl/VideoLLaMA3-2B-Image-HF": Published(grids.VIDEO_LLAMA_3_2B, grids.video_llama_processor),
    "zai-org/GLM-4.1V-9B-Thinking": Published(grids.GLM_4_1V_9B, grids.glm_processor),
    "allenai/Molmo2-8B": Published(grids.MOLMO2_8B, grids.molmo_processor),
    "facebook/Perception-LM-1B": Published(grids.PERCEPTION_LM_1B, grids.perception_processor),
    "LanguageBind/Video-LLaVA-7B-hf": Published(images.VIDEO_LLAVA_7B, images.video_llava_processor),
    "OpenGVLab/InternVL3-8B-hf": Published(images.INTERNVL3_8B, images.internvl_processor),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": Published(images.SMOLVLM2_2B, images.smolvlm_processor),
    "llava-hf/llava-1.5-7b-hf": Published(images.LLAVA_1_5_7B, images.llava_processor),
    "llava-hf/llava-v1.6-mistral-7b-hf": Published(images.LLAVA_NEXT_MISTRAL_7B, images.llava_next_processor),
    "mistral-community/pixtral-12b": Published(images.PIXTRAL_12B, images.pixtral_processor),
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": Published(images.MISTRAL_SMALL_24B, images.mistral3_processor),
    "openbmb/MiniCPM-V-4.6": Published(images.MINICPM_V_4_6, images.minicpm_processor),
}
