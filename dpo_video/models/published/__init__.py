"""Well-known checkpoints as folders without weights: config.json and preprocessor_config.json by
hub id, planned from without a network.

Held against copies of the hub's files in a public repository (hlky/dinoml_v2,
agents/plans/transformers/): VideoLLaMA 3's bounds of pixels, which are not transformers' own
defaults, and context (131,072 in the 2B model, 32,768 in the 7B); GLM-4.1V, InternVL3 (with dynamic
RoPE, which holds beyond its context only) and SmolVLM2, field by field; Perception LM, whose
1,533,524,992 parameters are the count that the hub gives for its weights. Qwen3-VL-30B-A3B's
config.json stands in a public report of its files, with a total of 31,070,754,032 parameters, which
is the one that is counted here. Qwen3.6-35B-A3B's files stand in public code that pins them; its
weights hold 0.84 billion more than are counted here, a layer that predicts further tokens, which
transformers does not load.

Second-hand still: Molmo 2's numbers, and MiniCPM-V 4.6's processor, which has transformers' own
defaults: vLLM counts with the same 9 slices a frame, and a public project's notes name 9 in the
checkpoint's file.
"""

from pathlib import Path

NAMES = (
    "Qwen/Qwen2.5-VL-3B-Instruct",
    "Qwen/Qwen2.5-VL-7B-Instruct",
    "llava-hf/LLaVA-NeXT-Video-7B-hf",
    "llava-hf/LLaVA-NeXT-Video-7B-DPO-hf",
    "Qwen/Qwen2-VL-7B-Instruct",
    "Qwen/Qwen3-VL-8B-Instruct",
    "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "lkhl/VideoLLaMA3-2B-Image-HF",
    "zai-org/GLM-4.1V-9B-Thinking",
    "allenai/Molmo2-8B",
    "facebook/Perception-LM-1B",
    "LanguageBind/Video-LLaVA-7B-hf",
    "OpenGVLab/InternVL3-8B-hf",
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    "llava-hf/llava-1.5-7b-hf",
    "llava-hf/llava-v1.6-mistral-7b-hf",
    "mistral-community/pixtral-12b",
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
    "openbmb/MiniCPM-V-4.6",
    "Qwen/Qwen3-VL-30B-A3B-Instruct",
    "Qwen/Qwen3.6-35B-A3B",
)
"""In this order; of a family's checkpoints the first is the one that is shown."""
PUBLISHED: dict[str, Path] = {name: Path(__file__).parent / name for name in NAMES}
"""The folder of each, for any `from_pretrained` that needs no weights."""
