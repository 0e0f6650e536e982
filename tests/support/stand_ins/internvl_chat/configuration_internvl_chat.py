"""The config of a stand-in for InternVL: fields by their published names."""

import copy
from typing import Any

from transformers import LlamaConfig, PretrainedConfig, Qwen2Config

from .configuration_internlm2 import InternLM2Config
from .configuration_phi3 import Phi3Config

LANGUAGE = {
    "InternLM2ForCausalLM": InternLM2Config,
    "LlamaForCausalLM": LlamaConfig,
    "Phi3ForCausalLM": Phi3Config,
    "Qwen2ForCausalLM": Qwen2Config,
}


class InternVisionConfig(PretrainedConfig):
    model_type = "intern_vit_6b"

    def __init__(
        self,
        hidden_size: int = 64,
        intermediate_size: int = 128,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 2,
        image_size: int = 56,
        patch_size: int = 14,
        drop_path_rate: float = 0.5,  # published: 0.1, which shows less
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.image_size = image_size
        self.patch_size = patch_size
        self.drop_path_rate = drop_path_rate


class InternVLChatConfig(PretrainedConfig):
    model_type = "internvl_chat"
    is_composition = True

    def __init__(
        self,
        vision_config: dict[str, Any] | None = None,
        llm_config: dict[str, Any] | None = None,
        select_layer: int = -1,
        force_image_size: int | None = None,
        downsample_ratio: float = 0.5,
        template: str | None = None,
        ps_version: str = "v1",
        **more: Any,
    ) -> None:
        super().__init__(**more)
        llm_config = llm_config or {"architectures": ["Qwen2ForCausalLM"]}
        self.vision_config = InternVisionConfig(**(vision_config or {}))
        language = LANGUAGE.get(llm_config["architectures"][0], Qwen2Config)
        self.llm_config = language(**llm_config)
        self.select_layer = select_layer
        self.force_image_size = force_image_size
        self.downsample_ratio = downsample_ratio
        self.template = template
        self.ps_version = ps_version

    def to_dict(self) -> dict[str, Any]:
        made = copy.deepcopy(self.__dict__)
        made["vision_config"] = self.vision_config.to_dict()
        made["llm_config"] = self.llm_config.to_dict()
        made["model_type"] = self.__class__.model_type
        return made
