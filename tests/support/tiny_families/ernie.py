"""A tiny ERNIE 4.5 VL: experts of text and of vision, times drawn into frames."""

import tempfile
from functools import cache
from pathlib import Path

from PIL import ImageFont
from tiny_models import make_tokenizer
from transformers import (
    Ernie4_5_VLMoeConfig,
    Ernie4_5_VLMoeForConditionalGeneration,
    Ernie4_5_VLMoeImageProcessor,
    Ernie4_5_VLMoeProcessor,
    Ernie4_5_VLMoeVideoProcessor,
    PreTrainedModel,
)

from tiny_families.parts import CHATML, text_config

FRAME = 28 * 28
_FOLDER = tempfile.TemporaryDirectory()


def ernie4_5_vl_moe() -> tuple[PreTrainedModel, Ernie4_5_VLMoeProcessor]:
    """Return a layer of 4 experts of each kind beside a shared one, and a dense layer: a clip's
    experts in the last one would be read by nothing.
    """
    marks = {
        f"{modality}{mark}_token": f"<|{modality.upper()}{mark.upper()}|>"
        for modality in ("image", "video")
        for mark in ("", "_start", "_end")
    }
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *marks.values()],
        eos="<|im_end|>",
        pad="<|endoftext|>",
        extra=marks,
    )
    text = text_config(
        tokenizer,
        "ernie4_5_vl_moe_text",
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [6, 6, 4],
        },
        mlp_layer_types=["sparse", "dense"],
        moe_num_experts=4,
        moe_k=2,
        moe_num_shared_experts=1,
        moe_intermediate_size=[64, 128],
    )
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 2,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_merge_size": 2,
    }
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(mark) for name, mark in marks.items()}
    config = Ernie4_5_VLMoeConfig(text_config=text, vision_config=vision, **ids)
    size = {"shortest_edge": 4 * FRAME, "longest_edge": 16 * FRAME}
    clip = "{video_start_token}{video_token}{video_end_token}".format(**marks)
    image = "{image_start_token}{image_token}{image_end_token}".format(**marks)
    processor = Ernie4_5_VLMoeProcessor(
        image_processor=Ernie4_5_VLMoeImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=Ernie4_5_VLMoeVideoProcessor(size=size, font=_font()),
        chat_template=CHATML.replace("<image>", image).replace("<video>", clip),
    )
    return Ernie4_5_VLMoeForConditionalGeneration(config), processor


@cache
def _font() -> str:
    """Return a font file: the one that Pillow carries in its code."""
    font = ImageFont.load_default(size=10)
    assert isinstance(font, ImageFont.FreeTypeFont)
    path = Path(_FOLDER.name) / "font.ttf"
    path.write_bytes(font.font_bytes)
    return str(path)
