"""Stand-ins of systems in a layout of their own, called in the published way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dpo_video.family.subject import CLIPS, TOLERANCE, Subject, processor_outputs, row_logits
from dpo_video.models.load import Policy
from stand_ins.llava_qwen.mm_utils import IMAGE_TOKEN_INDEX
from stand_ins.minicpmv.processing_minicpmv import PATCH, image_bound
from stand_ins.videollama2.mm_utils import VIDEO_TOKEN_INDEX


@dataclass(frozen=True, kw_only=True)
class PublishedCall:
    """How a system's stand-in is called."""

    lora_targets: str
    """Its language model's linear layers, by the published names."""
    logits: Callable[[Any, Mapping[str, Any], Policy], Tensor]
    """Logits (1, T, V) by the published call, from the processor's outputs on a prompt and its
    clip.
    """
    context: int
    """Tokens that the stand-in's config allows."""
    language: str = "."
    """What stands for `.language_model.` in the published names of layers."""
    atol: float = TOLERANCE
    """Of logits, in float32."""


def with_mark(ids: Tensor, policy: Policy, mark: int) -> Tensor:
    """Return ids (1, T) with a clip's placeholders folded into a published mark."""
    placeholder = policy.family.placeholder(policy.bare.config)
    listed = ids[0].tolist()
    place, count = listed.index(placeholder), listed.count(placeholder)
    listed[place : place + count] = [mark]
    return torch.tensor([listed])


def videollama_logits(model: Any, inputs: Mapping[str, Any], policy: Policy) -> Tensor:
    ids = with_mark(inputs["input_ids"], policy, VIDEO_TOKEN_INDEX)
    video = inputs["pixel_values_videos"][0]
    sound = inputs.get("input_features")
    clip = video if sound is None else {"video": video, "audio": sound}
    return model(ids, images=[(clip, "video")], use_cache=False).logits


def llava_logits(model: Any, inputs: Mapping[str, Any], policy: Policy) -> Tensor:
    ids = with_mark(inputs["input_ids"], policy, IMAGE_TOKEN_INDEX)
    video = inputs["pixel_values_videos"][0]
    return model(ids, images=[video], modalities=["video"], use_cache=False).logits


def minicpm_logits(model: Any, inputs: Mapping[str, Any], policy: Policy) -> Tensor:
    """Frames, each with its slices behind it, are strips of patches."""
    strips, sizes = [], []
    for frame, slices in zip(inputs["pixel_values"], inputs["slice_values"], strict=True):
        for picture in (frame, *slices):
            rows, columns = picture.shape[1] // PATCH, picture.shape[2] // PATCH
            tiles = picture.unflatten(2, (columns, -1)).unflatten(1, (rows, -1))
            strips.append(tiles.permute(0, 2, 1, 3, 4).flatten(2))
            sizes.append((rows, columns))
    data = {
        "input_ids": inputs["input_ids"],
        "position_ids": torch.arange(inputs["input_ids"].shape[1])[None],
        "pixel_values": [strips],
        "tgt_sizes": [torch.tensor(sizes)],
        "image_bound": [image_bound(policy.processor.tokenizer, inputs["input_ids"][0])],
    }
    return model(data, use_cache=False).logits


def video_llama_logits(model: Any, inputs: Mapping[str, Any], policy: Policy) -> Tensor:
    """The prompt is cut at `<ImageHere>`, and its texts are embedded apart."""
    ids = with_mark(inputs["input_ids"], policy, IMAGE_HERE)[0]
    place = ids.tolist().index(IMAGE_HERE)
    segments = [ids[:place], ids[place + 1 :]]
    video = inputs["pixel_values_videos"][0]
    embeddings = model.context_emb(segments, video.transpose(0, 1)[None])
    return model.llama_model(inputs_embeds=embeddings, use_cache=False).logits


IMAGE_HERE = -1
LAYERS = r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"
CALLS = {
    "llava_qwen": PublishedCall(lora_targets=LAYERS, logits=llava_logits, context=4096),
    "video_llama": PublishedCall(
        lora_targets=r"llama_model\." + LAYERS,
        logits=video_llama_logits,
        context=2048,
        language=".llama_model.",
    ),
    **dict.fromkeys(
        ("videollama2_mistral", "videollama2_qwen2"),
        PublishedCall(lora_targets=LAYERS, logits=videollama_logits, context=4096),
    ),
    "minicpmv": PublishedCall(
        lora_targets=r"llm\." + LAYERS,
        logits=minicpm_logits,
        context=2048,
        atol=1e-4,  # the resampler's scaled weights widen rounding; in float64 it is 1e-6
    ),
}


def assert_logits_are_the_published_ones(
    system: PublishedCall, model: nn.Module, policy: Policy
) -> None:
    """Of both clips, through features and through pixels."""
    rows = Subject(settings=policy.settings).rows
    for clip, clip_rows in zip(CLIPS, rows, strict=True):
        inputs = processor_outputs(
            policy, clip, clip.answers[0] + policy.processor.tokenizer.decode([policy.end_id])
        )
        with torch.no_grad():
            published = system.logits(model, inputs, policy)[0]
            ours = policy.family.stock_logits(policy.bare, inputs)[0]
        assert published.std() > 0.1
        torch.testing.assert_close(ours, published, atol=system.atol, rtol=TOLERANCE)
        features = row_logits(policy, clip_rows[0])
        torch.testing.assert_close(features, published, atol=system.atol, rtol=TOLERANCE)
