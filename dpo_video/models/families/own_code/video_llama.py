"""Video-LLaMA (the first, on Llama-2-chat): a clip is the 32 queries of a Q-Former over the frames'
own queries, whatever its length.

Published code: DAMO-NLP-SG/Video-LLaMA, video_llama/conversation/conversation_video.py,
demo_video.py, video_llama/datasets/datasets/video_instruct_dataset.py.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    LlavaOnevisionVideoProcessor,
    PretrainedConfig,
    ProcessorMixin,
)

from dpo_video.core.errors import UserError
from dpo_video.models.families.family import (
    KEEP_UNQUANTIZED,
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
from dpo_video.models.families.own_code import video_llama_model as model_code
from dpo_video.video import Frames

HERE = "<ImageHere>"
"""Where the clip goes in a prompt's text, as in the published one."""
PLACEHOLDER = "<unk>"
"""What stands for a row of features: a word that no text of Llama's tokenizer has."""
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' }}{% else %}"
    "{% if not loop.first %}<s>{% endif %}[INST] "
    "{% if loop.first %}<<SYS>>\nYou are able to understand the visual content that the user "
    "provides. Follow the instructions carefully and explain your answers in detail.\n<</SYS>>\n\n"
    "{% endif %}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for c in message['content'] %}"
    "{% if c['type'] == 'video' %}<Video><ImageHere>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %} </s>{% else %} [/INST]{% endif %}{% endfor %}"
)
"""`conv_llava_llama_2` with the system message of the published demo for a video."""


class VideoLlamaProcessor(ProcessorMixin):
    """Frames at one size, and Llama's tokenizer."""

    def __init__(
        self, video_processor: Any = None, tokenizer: Any = None, chat_template: Any = None
    ) -> None:
        super().__init__(video_processor, tokenizer, chat_template=chat_template)


def check_frames(count: int, most: int) -> None:
    """Raise UserError for more frames of a clip than have a position."""
    if count > most:
        raise UserError(
            f"a clip has {count} frames, and this Video-LLaMA has positions for {most}: lower "
            "video.num_frames or video.max_frames"
        )


def clip_and_times(frames: Frames, queries: int) -> str:
    """Return what takes the place of `<ImageHere>`: placeholders, and when the frames are."""
    times = ", ".join(str(round(float(seconds), 1)) for seconds in frames.times)
    return (
        f"{PLACEHOLDER * queries}</Video> The video contains {len(frames.times)} frames sampled at "
        f"{times} seconds. "
    )


def _tokenize(processor: Any, text: str) -> list[int]:
    """As the published code: the texts before and behind the clip apart, BOS before the first."""
    before, behind = text.partition(PLACEHOLDER)[0], text.rpartition(PLACEHOLDER)[2]
    count = text.count(PLACEHOLDER)
    tokenizer = processor.tokenizer
    placeholder = tokenizer.convert_tokens_to_ids(PLACEHOLDER)
    tail = tokenizer(behind, add_special_tokens=False)["input_ids"]
    return [*tokenizer(before)["input_ids"], *[placeholder] * count, *tail]


def _process(
    processor: Any, text: str, frames: Frames, kwargs: Mapping[str, Any]
) -> Mapping[str, Any]:
    check_frames(len(frames.pixels), processor.video_processor.max_frame_pos)
    clip = clip_and_times(frames, processor.video_processor.num_queries)
    pixels = processor.video_processor(
        [frames.pixels], do_sample_frames=False, return_tensors="pt", **kwargs
    )
    return {
        "pixel_values_videos": pixels["pixel_values_videos"],
        "input_ids": [_tokenize(processor, text.replace(HERE, clip, 1))],
        "text_replacement_offsets": [[{"replacement": clip}]],
    }


def _processor(name: str, source: Mapping[str, Any]) -> VideoLlamaProcessor:
    config = AutoConfig.from_pretrained(name, **source)
    tokenizer = AutoTokenizer.from_pretrained(name, **source)
    tokenizer.pad_token = tokenizer.eos_token  # Llama has none, and placeholders are `<unk>`
    side = config.vision_config.image_size
    frames: Any = LlavaOnevisionVideoProcessor(
        size={"height": side, "width": side}, image_mean=CLIP_MEAN, image_std=CLIP_STD
    )
    frames.num_queries = config.num_video_query_tokens
    frames.max_frame_pos = config.max_frame_pos
    return VideoLlamaProcessor(frames, tokenizer, TEMPLATE)


def _read_config(
    config: PretrainedConfig, name: str, source: Mapping[str, Any]
) -> PretrainedConfig:
    tokenizer = AutoTokenizer.from_pretrained(name, **source)
    config.image_token_index = tokenizer.convert_tokens_to_ids(PLACEHOLDER)
    for part in (config.qformer_config, config.video_qformer_config):
        for field, value in model_code.NO_DROPOUT.items():
            setattr(part, field, value)
    return config


def _refuses(config: PretrainedConfig) -> str | None:
    if config.conversation == "llama_v2":
        return None
    return (
        f"its conversation is {config.conversation!r}, where answers end by the text '###', which "
        "is no token of its tokenizer. Use a checkpoint on Llama-2-chat (Video-LLaMA-2-7B-"
        "Finetuned), or the nearest family, 'video_llama_3'"
    )


def _features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    return ClipFeatures(model.get_video_features(inputs["pixel_values_videos"]).pooler_output[0])


def _tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    check_frames(num_frames, config.max_frame_pos)
    return int(config.num_video_query_tokens)


def _patches(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    return num_frames * (whole_patches(size, config.vision_config.patch_size) + 1)


ROW = Family(
    name="video_llama",
    title="Video-LLaMA on Llama-2-chat (DAMO-NLP-SG/Video-LLaMA-2-7B-Finetuned, -13B-Finetuned)",
    features=_features,
    pack=pack_tensor,
    prompt_token=lambda processor: HERE,
    placeholder=lambda config: int(config.image_token_index),
    process=_process,
    tokenize=_tokenize,
    open_prompt=True,
    language=lambda model: model.language_model,
    load_processor=_processor,
    read_config=_read_config,
    refuses=_refuses,
    own_names=lambda config: True,
    keep_unquantized=(*KEEP_UNQUANTIZED, r".*llama_proj"),
    frame_size=square_size,
    video_tokens=_tokens,
    vision_patches=_patches,
    pixel_kwargs=no_pixel_bounds,
    formula="32",
    quirks="A clip takes 32 tokens, whatever its number of frames, of which there may be 32; 8 are "
    "what it was trained with. Every frame is squeezed to 224 x 224; the prompt says when they "
    "are. A clip is read without its sound.",
)
