"""The document's example of a family of the user's own, and a tiny checkpoint for it."""

import re
from functools import cache
from pathlib import Path

from tiny_families import images
from tiny_families.parts import text_config
from tiny_families.videos import clip_tower
from transformers import PreTrainedModel, VipLlavaConfig, VipLlavaForConditionalGeneration

DOCUMENT = Path(__file__).parents[2] / "docs" / "families.md"


@cache
def example() -> str:
    """Return the Python file that the document shows."""
    found = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def vipllava() -> tuple[PreTrainedModel, object]:
    """Return a tiny ViP-LLaVA with LLaVA's processor, as published ones have."""
    _, processor = images.llava()
    config = VipLlavaConfig(
        vision_config=clip_tower(),
        text_config=text_config(processor.tokenizer, "llama"),
        image_seq_length=16,
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=[-2, 1],
    )
    return VipLlavaForConditionalGeneration(config), processor


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    """Return the document's file with texts replaced."""
    text = example()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "my_family.py"
    path.write_text(text, encoding="utf-8")
    return path
