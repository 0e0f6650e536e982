"""Turn a question and a clip's frames into token ids and tensors, through the checkpoint's own processor.

Shapes: P prompt tokens; a clip's processor outputs carry a leading axis of 1 clip (or its patches).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpo_video.errors import UserError
from dpo_video.models.load import Policy
from dpo_video.models.tokens import pixel_kwargs
from dpo_video.recipe import VideoSettings
from dpo_video.video.frames import Frames, video_metadata


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipInputs:
    """What the processor makes of one clip. Made once per clip, whatever the number of questions."""

    pixels: Mapping[str, Tensor]
    """What only the vision tower reads."""
    kept: Mapping[str, Tensor]
    """What goes into positions and forwards too: grid sizes, seconds per step."""
    expansion: str
    """The text that takes the place of the placeholder in a prompt: one token per row of features, and any marks."""
    typed: bool
    """Whether this family's prompts carry `mm_token_type_ids`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """One question about one clip, as token ids."""

    input_ids: Tensor
    """(P,) int64, the clip's placeholder tokens among them, up to where the answer begins."""
    positions: Tensor
    """(axes, P) int64; axes is 3 under M-RoPE, else 1."""
    token_types: Tensor | None
    """(P,) int64: 0 text, 1 image, 2 video; None where the family has none."""


def prompt_text(processor: Any, question: str) -> str:
    """Return the chat prompt for one clip and a question, the placeholder in it once, open for the answer."""
    content = [{"type": "video"}, {"type": "text", "text": question}]
    return str(processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False,
                                             add_generation_prompt=True))


def video_inputs(policy: Policy, frames: Frames, settings: VideoSettings) -> ClipInputs:
    """Return the processor's tensors for a clip, made with its true times and without sampling frames again.

    Raises UserError for frames that the processor refuses, such as very elongated ones.
    """
    kwargs = pixel_kwargs(policy.family, policy.processor.video_processor, settings)
    try:
        out = policy.processor(
            text=[prompt_text(policy.processor, "")], videos=[frames.pixels], return_text_replacement_offsets=True,
            videos_kwargs={"video_metadata": [video_metadata(frames)], "do_sample_frames": False,
                           "return_tensors": "pt", **kwargs})
    except ValueError as error:
        raise UserError(f"the processor refuses frames of {frames.pixels.shape[2]}x{frames.pixels.shape[1]} pixels: "
                        f"{error}") from error
    (expansion,) = out["text_replacement_offsets"][0]
    family = policy.family
    return ClipInputs(
        pixels={name: _tensor(out[name]) for name in family.pixel_inputs},
        kept={name: _tensor(out[name]) for name in family.clip_inputs},
        expansion=expansion["replacement"], typed="mm_token_type_ids" in out)


def encode_prompt(policy: Policy, question: str, clip: ClipInputs) -> Prompt:
    """Return the prompt of a question about a clip; equal to the processor's own call on text and video together."""
    processor = policy.processor
    placeholder = policy.family.prompt_token(processor)
    text = prompt_text(processor, question)
    if text.count(placeholder) != 1:
        raise UserError(f"the question {question[:80]!r} contains the model's own video token {placeholder!r}. "
                        "Remove it: the clip is put into the prompt by the chat template")
    ids = processor.tokenizer(text.replace(placeholder, clip.expansion))["input_ids"]
    input_ids = torch.tensor(ids, dtype=torch.long)
    types = torch.tensor(processor.create_mm_token_type_ids([ids])[0]) if clip.typed else None
    inputs = {**clip.kept, **({} if types is None else {"mm_token_type_ids": types})}
    return Prompt(input_ids=input_ids, token_types=types,
                  positions=policy.family.positions(policy.bare, input_ids, inputs))


def answer_ids(policy: Policy, text: str, *, ended: bool = True) -> list[int]:
    """Return the ids of an answer, its end-of-turn token last unless it was cut before it `ended`."""
    ids = policy.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    if policy.family.placeholder(policy.bare.config) in ids:
        raise UserError(f"the answer {text[:80]!r} contains the model's own video token "
                        f"{policy.family.prompt_token(policy.processor)!r}")
    return [*ids, policy.end_id] if ended else ids


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value)
