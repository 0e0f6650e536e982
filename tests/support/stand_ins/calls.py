"""Stand-ins of systems in a layout of their own, called in the published way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dpo_video.family.subject import CLIPS, TOLERANCE, Subject, processor_outputs, row_logits
from dpo_video.models.load import Policy
from stand_ins.llava_qwen.mm_utils import IMAGE_TOKEN_INDEX
from stand_ins.videollama2.mm_utils import VIDEO_TOKEN_INDEX


@dataclass(frozen=True, kw_only=True)
class PublishedCall:
    """How a system's stand-in is called."""

    lora_targets: str
    """Its language model's linear layers, by the published names."""
    call: Callable[[nn.Module, Tensor, Tensor], Tensor]
    """Logits (1, T, V) by the published call, of ids with the published mark and of a clip."""
    mark: int
    """Of a clip, in ids."""
    context: int
    """Tokens that the stand-in's config allows."""
    language: str = "."
    """What stands for `.language_model.` in the published names of layers."""


def videollama_call(model: Any, ids: Tensor, video: Tensor) -> Tensor:
    return model(ids[None], images=[(video, "video")], use_cache=False).logits


def llava_call(model: Any, ids: Tensor, video: Tensor) -> Tensor:
    return model(ids[None], images=[video], modalities=["video"], use_cache=False).logits


def video_llama_call(model: Any, ids: Tensor, video: Tensor) -> Tensor:
    """The prompt is cut at `<ImageHere>`, and its texts are embedded apart."""
    place = ids.tolist().index(IMAGE_HERE)
    segments = [ids[:place], ids[place + 1 :]]
    embeddings = model.context_emb(segments, video.transpose(0, 1)[None])
    return model.llama_model(inputs_embeds=embeddings, use_cache=False).logits


IMAGE_HERE = -1
CALLS = {
    "video_llama": PublishedCall(
        lora_targets=r"llama_model\.model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj",
        call=video_llama_call,
        mark=IMAGE_HERE,
        context=2048,
        language=".llama_model.",
    ),
    "llava_qwen": PublishedCall(
        lora_targets=r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj",
        call=llava_call,
        mark=IMAGE_TOKEN_INDEX,
        context=2048,
    ),
    **dict.fromkeys(
        ("videollama2_mistral", "videollama2_qwen2"),
        PublishedCall(
            lora_targets=r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj",
            call=videollama_call,
            mark=VIDEO_TOKEN_INDEX,
            context=4096,
        ),
    ),
}


def published_logits(
    system: PublishedCall, model: nn.Module, inputs: Mapping[str, Any], placeholder: int
) -> Tensor:
    """Return (1, T, V) logits of the published call on the processor's outputs, their placeholders
    folded into the published mark.
    """
    ids = inputs["input_ids"][0].tolist()
    place, count = ids.index(placeholder), ids.count(placeholder)
    ids[place : place + count] = [system.mark]
    return system.call(model, torch.tensor(ids), inputs["pixel_values_videos"][0])


def assert_logits_are_the_published_ones(
    system: PublishedCall, model: nn.Module, policy: Policy
) -> None:
    """Of both clips, through features and through pixels."""
    rows = Subject(settings=policy.settings).rows
    placeholder = policy.family.placeholder(policy.bare.config)
    for clip, clip_rows in zip(CLIPS, rows, strict=True):
        inputs = processor_outputs(
            policy, clip, clip.answers[0] + policy.processor.tokenizer.decode([policy.end_id])
        )
        with torch.no_grad():
            published = published_logits(system, model, inputs, placeholder)[0]
            ours = policy.family.stock_logits(policy.bare, inputs)[0]
        assert published.std() > 0.1
        torch.testing.assert_close(ours, published, atol=TOLERANCE, rtol=TOLERANCE)
        features = row_logits(policy, clip_rows[0])
        torch.testing.assert_close(features, published, atol=TOLERANCE, rtol=TOLERANCE)
