"""InternVL 1.5 to 3.5 in their authors' own code (model type `internvl_chat`): frames in one
tile each, a prompt by the repository's own conversation template.

Published code: OpenGVLab/InternVL, internvl_chat/internvl/model/internvl_chat/.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GotOcr2ImageProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    PretrainedConfig,
)

from dpo_video.core.errors import UserError
from dpo_video.models.families.family import (
    KEEP_UNQUANTIZED,
    ClipFeatures,
    Family,
    Model,
    no_pixel_bounds,
    pack_tensor,
    square_size,
)
from dpo_video.models.families.internvl import patches_with_class_token, shuffled_tokens
from dpo_video.models.families.own_code.loading import own_function, text_config_at
from dpo_video.models.families.own_code.native_language import (
    INTERNLM2,
    NATIVE,
    NativeLanguageModel,
    as_published,
    longest_native,
    native_config,
)

START, END, CONTEXT, VIDEO = "<img>", "</img>", "<IMG_CONTEXT>", "<video>"
NORMALIZE = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
"""ImageNet's, as the published `build_transform` has them."""
RUNS = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", *NATIVE)
"""Language models that run on transformers' own classes."""
ENDS = ("<|im_end|>", "<|end|>")
"""Separators of the conversations, at which an answer ends: of Phi-3 the latter."""


def _side(config: PretrainedConfig) -> int:
    return int(config.force_image_size or config.vision_config.image_size)


def _read_config(
    config: PretrainedConfig, name: str, source: Mapping[str, Any]
) -> PretrainedConfig:
    """Complete a config by the id of a placeholder, which published ones leave to the tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(name, **source)
    config.image_token_id = tokenizer.convert_tokens_to_ids(CONTEXT)
    where = {key: source[key] for key in ("revision", "local_files_only")}
    fields, _ = PretrainedConfig.get_config_dict(name, **where)
    config.llm_config = native_config(config.llm_config, fields["llm_config"])
    return text_config_at(config, "llm_config", written=as_published)


def _refuses(config: PretrainedConfig) -> str | None:
    architecture = config.llm_config.architectures[0]
    if architecture in RUNS:
        return None
    return (
        f"its language model, {architecture}, is code of its repository for an earlier "
        "transformers, with a cache and masks of its own. Use a checkpoint on Qwen2, Qwen3, Llama, "
        "InternLM2 or Phi-3, or the nearest family, 'internvl' (OpenGVLab/InternVL3-1B-hf and "
        "larger)"
    )


def _processor(name: str, source: Mapping[str, Any]) -> InternVLProcessor:
    """Return transformers' InternVL processor with a repository's tokenizer, sizes and template.

    It writes a clip as the repository's model card does: `Frame1: <img>...</img>`, a line a frame.
    """
    config = AutoConfig.from_pretrained(name, **source)
    tokenizer = AutoTokenizer.from_pretrained(name, **source)
    tokens = {"start_image": START, "end_image": END, "context_image": CONTEXT}
    for role, token in tokens.items():
        setattr(tokenizer, f"{role}_token", token)
        setattr(tokenizer, f"{role}_token_id", tokenizer.convert_tokens_to_ids(token))
    tokenizer.video_token = VIDEO
    side = _side(config)
    frames: dict[str, Any] = {
        "size": {"height": side, "width": side},
        "do_center_crop": False,
        **NORMALIZE,
    }
    patches = (side // config.vision_config.patch_size) ** 2
    conversation = own_function("conversation.get_conv_template", name, source)(config.template)
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(**frames),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(**frames),
        image_seq_length=int(patches * config.downsample_ratio**2),
        chat_template=chat_template(conversation),
    )


def chat_template(conversation: Any) -> str:
    """Return the Jinja template that writes turns as a conversation of the repository's code does.

    Raises UserError for one that does not just put each turn between a mark and a separator.
    """
    head = conversation.get_prompt()
    user, assistant = conversation.roles
    end = conversation.sep
    probe = conversation.copy()
    texts = ((user, "first"), (assistant, "second"), (user, "third"), (assistant, None))
    for role, text in texts:
        probe.append_message(role, text)
    written = head + "".join(role if text is None else role + text + end for role, text in texts)
    if probe.get_prompt() != written:
        raise UserError(
            f"the conversation template {conversation.name!r} of the repository's code is none of "
            "those that this family writes: turns between a mark and a separator"
        )
    return (
        f"{{{{ {head!r} }}}}{{% for message in messages %}}"
        f"{{{{ {user!r} if message['role'] == 'user' else {assistant!r} }}}}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for c in message['content'] %}"
        f"{{% if c['type'] == 'video' %}}{{{{ {VIDEO + chr(10)!r} }}}}"
        "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
        f"{{{{ {end!r} }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {assistant!r} }}}}{{% endif %}}"
    )


def _features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    return ClipFeatures(model.extract_feature(inputs["pixel_values"]).flatten(0, 1))


def _stock_logits(model: Model, inputs: Mapping[str, Tensor]) -> Tensor:
    """As the repository's `chat` calls its forward: every tile is one of an image."""
    model.img_context_token_id = model.config.image_token_id
    flags = torch.ones(len(inputs["pixel_values"]), 1, dtype=torch.long, device=model.device)
    logits: Tensor = model(**inputs, image_flags=flags, use_cache=False, return_dict=True).logits
    return logits


ROW = Family(
    name="internvl_chat",
    title="InternVL 1.5, 2, 2.5, 3 and 3.5 in their authors' own code, on Qwen2, Qwen3, Llama, "
    "InternLM2 or Phi-3 (OpenGVLab/InternVL2-1B, -2B, -4B, -8B, InternVL2_5-4B, InternVL3-8B)",
    features=_features,
    pack=pack_tensor,
    modality="image",
    placeholder=lambda config: int(config.image_token_id),
    pixel_inputs=("pixel_values",),
    language=lambda model: model.language_model,
    auto_model=NativeLanguageModel,
    load_processor=_processor,
    read_config=_read_config,
    refuses=_refuses,
    stock_logits=_stock_logits,
    end_of_turn=ENDS,
    lora_targets=r"language_model\.model\.layers\.\d+\."
    r"(self_attn\.(q|k|v|o|qkv)_proj|mlp\.(gate|up|down|gate_up)_proj)",
    own_names=lambda config: config.llm_config.architectures[0] == INTERNLM2,
    context_length=longest_native,
    keep_unquantized=(*KEEP_UNQUANTIZED, r".*mlp1"),
    frame_size=square_size,
    video_tokens=shuffled_tokens,
    vision_patches=patches_with_class_token,
    pixel_kwargs=no_pixel_bounds,
    formula="F x (H/28) x (W/28)",
    quirks="A frame in one tile of 256 tokens at the published 448 pixels, squeezed to a square. "
    "The prompt, its system message included, is that of the repository's own conversation.py.",
)
