"""InstructBLIP for video: a Q-Former that reads the question beside each frame, so that a clip has
other features for each question.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

from dpo_video.models.families.family import (
    ClipFeatures,
    Family,
    FrameSize,
    Model,
    VideoProcessor,
    no_pixel_bounds,
    pack_tensor,
    square_size,
    whole_patches,
)
from dpo_video.video import Frames

TEMPLATE = (
    "{% for message in messages %}{% for c in message['content'] %}"
    "{% if c['type'] == 'video' %}<video>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
"""The clip, then the text as it is: its checkpoints have no turns."""


def _features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    output = model.get_video_features(
        inputs["pixel_values"],
        qformer_input_ids=inputs["qformer_input_ids"],
        qformer_attention_mask=inputs["qformer_attention_mask"],
        return_dict=True,
    )
    return ClipFeatures(output.pooler_output[0])


def _question(processor: Any, text: str) -> Mapping[str, Tensor]:
    """Return what the Q-Former reads: the question, and never the answer."""
    tokens = processor.qformer_tokenizer(text, return_tensors="pt")
    return {
        "qformer_input_ids": tokens["input_ids"],
        "qformer_attention_mask": tokens["attention_mask"],
    }


def _placeholder(processor: Any) -> str:
    return str(processor.video_token)


def _tokenize(processor: Any, text: str) -> list[int]:
    """As InstructBlipVideoProcessor (transformers 5.24): the clip stands before BOS."""
    token = _placeholder(processor)
    clip, text = text[: text.rfind(token) + len(token)], text[text.rfind(token) + len(token) :]
    ids = processor.tokenizer(clip, add_special_tokens=False)["input_ids"]
    return [*ids, *processor.tokenizer(text)["input_ids"]]


def _process(
    processor: Any, text: str, frames: Frames, kwargs: Mapping[str, Any]
) -> Mapping[str, Any]:
    """As the processor's own call, which takes 4 frames and no other number."""
    token = _placeholder(processor)
    clip = token * processor.num_query_tokens * len(frames.pixels)
    pixels = processor.video_processor(
        [frames.pixels], do_sample_frames=False, return_tensors="pt", **kwargs
    )
    return {
        "pixel_values": pixels["pixel_values"],
        "input_ids": [_tokenize(processor, text.replace(token, clip, 1))],
        "text_replacement_offsets": [[{"replacement": clip}]],
    }


def _tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    return num_frames * int(config.num_query_tokens)


def _patches(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    return num_frames * whole_patches(size, config.vision_config.patch_size)


def _refuses(config: PretrainedConfig) -> str | None:
    if config.use_decoder_only_language_model:
        return None
    return (
        "its language model is an encoder-decoder (FLAN-T5), which no part of this trains. Use a "
        "Vicuna checkpoint of InstructBLIP; the nearest family that shares prefixes is video_llava"
    )


INSTRUCTBLIPVIDEO = Family(
    name="instructblipvideo",
    title="InstructBLIP for video (Salesforce/instructblip-vicuna-7b, -13b, converted)",
    features=_features,
    pack=pack_tensor,
    encode="in_forward",
    prompt_inputs=_question,
    language=lambda model: model.language_model,
    prompt_token=_placeholder,
    chat_template=TEMPLATE,
    tokenize=_tokenize,
    open_prompt=True,
    process=_process,
    pixel_inputs=("pixel_values",),
    shared_prefix=False,
    why_not_shared="its Q-Former reads the question beside each frame, so features are made anew "
    "for every question",
    refuses=_refuses,
    frame_size=square_size,
    video_tokens=_tokens,
    vision_patches=_patches,
    pixel_kwargs=no_pixel_bounds,
    formula="F x 32",
    quirks="A frame takes 32 tokens, the Q-Former's queries, which stand before the text and its "
    "BOS. Its processor takes 4 frames, with which it is published; here any number works "
    "(`video.num_frames: 4`). It has no chat template: the prompt is the clip and the question. "
    "The Q-Former reads the question alone, in training too, never the answer. Published are "
    "checkpoints for images, of model type `instructblip`: `python "
    "scripts/instructblip_checkpoint.py CHECKPOINT --out FOLDER` makes one of this type of the "
    "same weights. FLAN-T5 checkpoints are refused.",
)
