"""Turn a question and a clip's frames into token ids and tensors, through the checkpoint's own
processor.

Shapes: P prompt tokens; a clip's processor outputs carry a leading axis of 1 clip (or its patches).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor

from dpo_video.core.errors import UserError
from dpo_video.core.records import EarlierTurn, History
from dpo_video.core.turns import chat_messages, texts_before
from dpo_video.models.families import Family
from dpo_video.models.hearing import placeholders, tower_inputs
from dpo_video.models.load import Policy
from dpo_video.models.tokens import pixel_kwargs
from dpo_video.recipe import VideoSettings
from dpo_video.video.frames import Frames, video_metadata

Content = Sequence[Mapping[str, str]]
"""The clip's part of a chat message."""
VIDEO: Content = ({"type": "video"},)
PROBE: History = (EarlierTurn(question="first question", answer="first answer"),)
"""Turns whose texts any template that takes turns writes as they stand."""
PROBE_QUESTION = "second question"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipInputs:
    """What the processor makes of one clip. Made once per clip, whatever the number of
    questions.
    """

    pixels: Mapping[str, Tensor]
    """What only the towers read: of the frames, and of the sound where there is some."""
    clip_inputs: Mapping[str, Tensor]
    """What goes into positions and forwards too: grid sizes, seconds per step."""
    expansions: tuple[str, ...]
    """The text that takes the place of each placeholder in a prompt: one token per row of features,
    and any marks.

    One for a video, one per frame where frames are images.
    """
    typed: bool
    """Whether this family's prompts carry `mm_token_type_ids`."""
    sound_samples: int = 0
    """Samples of the clip's sound that were read; 0 where it has none, or the model hears none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """One question about one clip, as token ids."""

    input_ids: Tensor
    """(P,) int64, the clip's placeholder tokens among them, up to where the answer begins."""
    positions: Tensor
    """(axes, P) int64; axes is 3 under M-RoPE, else 1. float32 where a family does not round times.
    """
    token_types: Tensor | None
    """(P,) int64: 0 text, 1 image, 2 video; None where the family has none."""
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    """What the vision part reads of the question; see `Family.prompt_inputs`."""


def clip_content(family: Family, num_items: int) -> Content:
    """Return what stands for a clip in a chat message: a video, or `num_items` frames as images."""
    return VIDEO if family.frames_as == "video" else [{"type": "image"}] * num_items


def prompt_text(
    processor: Any, question: str, content: Content = VIDEO, *, history: History = None
) -> str:
    """Return the chat prompt for one clip and a question, its placeholders unexpanded, open for the
    answer.

    Args:
        history: earlier turns, which go before the question as the checkpoint's template writes
            turns; the clip stands in the first of them.
    """
    messages = chat_messages(history, question, content)
    return str(processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def check_turns(processor: Any, family: Family, name: str) -> None:
    """Raise UserError for a checkpoint whose chat template refuses earlier turns, or leaves any of
    their texts out; `name` is the checkpoint's.
    """
    texts = [*texts_before(PROBE).values(), PROBE_QUESTION]
    why = "leaves some of them out"
    try:
        content = clip_content(family, 1)
        prompt = prompt_text(processor, PROBE_QUESTION, content, history=PROBE)
    except TemplateError as error:
        prompt, why = "", f"refuses them: {error}"
    places = [prompt.find(text) for text in texts]
    if -1 in places or places != sorted(places):
        raise UserError(
            f"the chat template of {name!r} takes no earlier turns ({why}), and "
            "there are questions with a `history`: leave them out, or use a checkpoint whose "
            "template has turns"
        )


def process_frames(
    family: Family, processor: Any, text: str, frames: Frames, kwargs: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the processor's own outputs for a prompt's text and a clip, without sampling frames
    again.
    """
    if family.process is not None:
        return family.process(processor, text, frames, kwargs)
    if family.frames_as == "images":
        return processor(
            text=[text],
            images=[list(frames.pixels)],
            return_text_replacement_offsets=True,
            images_kwargs={"return_tensors": "pt", **kwargs},
        )
    return processor(
        text=[text],
        videos=[frames.pixels],
        return_text_replacement_offsets=True,
        videos_kwargs={
            "video_metadata": [video_metadata(frames)],
            "do_sample_frames": False,
            "return_tensors": "pt",
            **kwargs,
        },
    )


def video_inputs(policy: Policy, frames: Frames, settings: VideoSettings) -> ClipInputs:
    """Return the processor's tensors for a clip, made with its true times and without sampling
    frames again.

    Raises UserError for frames that the processor refuses, such as very elongated ones.
    """
    family = policy.family
    kwargs = pixel_kwargs(family, policy.frame_processor, settings, num_frames=len(frames.pixels))
    text = prompt_text(policy.processor, "", clip_content(family, len(frames.pixels)))
    try:
        processed = process_frames(family, policy.processor, text, frames, kwargs)
    except ValueError as error:
        raise UserError(
            f"the processor refuses frames of {frames.pixels.shape[2]}x{frames.pixels.shape[1]} "
            f"pixels: "
            f"{error}"
        ) from error
    hearing = family.hearing(policy.bare.config)
    if hearing is not None and frames.sound is not None:
        missing = [name for name in hearing.inputs if name not in processed]
        if missing:
            raise UserError(
                f"the family {family.name!r}: `hearing` names the inputs {missing}, which the "
                f"processor does not make of a clip with sound. It makes: {', '.join(processed)}"
            )
    return ClipInputs(
        pixels={
            name: _tensor(processed[name])
            for name in tower_inputs(family, policy.bare.config)
            if name in family.pixel_inputs or name in processed
        },
        clip_inputs={name: _tensor(processed[name]) for name in family.clip_inputs},
        expansions=tuple(
            replacement["replacement"] for replacement in processed["text_replacement_offsets"][0]
        ),
        typed="mm_token_type_ids" in processed,
        sound_samples=frames.sound_samples,
    )


def encode_prompt(
    policy: Policy, question: str, clip: ClipInputs, *, history: History = None
) -> Prompt:
    """Return the prompt of a question about a clip, earlier turns before it; equal to the
    processor's own call on text and video together.
    """
    processor = policy.processor
    placeholder = policy.family.prompt_token(processor)
    for name, text in {**texts_before(history), "question": question}.items():
        _refuse(policy, name, text)
    if history:
        check_turns(processor, policy.family, policy.settings.name)
    content = clip_content(policy.family, len(clip.expansions))
    pieces = prompt_text(processor, question, content, history=history).split(placeholder)
    if len(pieces) != len(clip.expansions) + 1:
        raise UserError(
            f"the chat template of {policy.settings.name!r} writes {placeholder!r} "
            f"{len(pieces) - 1} times "
            f"for a clip that takes it {len(clip.expansions)} times: use a checkpoint whose "
            f"template takes "
            f"{policy.family.frames_as}"
        )
    text = pieces[0] + "".join(map("".join, zip(clip.expansions, pieces[1:], strict=True)))
    ids = _prompt_ids(policy.family, processor, text)
    input_ids = torch.tensor(ids, dtype=torch.long)
    types = torch.tensor(processor.create_mm_token_type_ids([ids])[0]) if clip.typed else None
    inputs = {**clip.clip_inputs, **({} if types is None else {"mm_token_type_ids": types})}
    return Prompt(
        input_ids=input_ids,
        token_types=types,
        positions=policy.family.positions(policy.bare, input_ids, inputs),
        inputs=policy.family.prompt_inputs(processor, question)
        if policy.family.prompt_inputs
        else {},
    )


def _prompt_ids(family: Family, processor: Any, text: str) -> list[int]:
    """Return the ids of a prompt whose placeholders are expanded."""
    if family.tokenize is not None:
        return family.tokenize(processor, text)
    # As apply_chat_template (transformers 5.23): a template that writes BOS itself must not get a
    # second one.
    bos = processor.tokenizer.bos_token
    ids: list[int] = processor.tokenizer(
        family.finish_prompt(processor, text),
        add_special_tokens=bos is None or not text.startswith(bos),
    )["input_ids"]
    return ids


def answer_ids(policy: Policy, text: str, *, ended: bool = True) -> list[int]:
    """Return the ids of an answer, its end-of-turn token last unless it was cut before it
    `ended`; one that is written in the text already is not doubled.

    Raises UserError for a text with another control token of the tokenizer.
    """
    text = policy.control_tokens.without_end(text)
    _refuse(policy, "answer", text)
    ids = list(policy.processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    return [*ids, policy.end_id] if ended else ids


def feature_tokens(policy: Policy) -> list[str]:
    """Return the tokens that stand for one row of features in a prompt, the frames' first."""
    ids = placeholders(policy.family, policy.bare.config)
    return [str(token) for token in policy.processor.tokenizer.convert_ids_to_tokens(list(ids))]


def _refuse(policy: Policy, field: str, text: str) -> None:
    """Raise UserError for a text that holds a control token or a placeholder of the clip."""
    token = policy.control_tokens.first_in(text)
    for placeholder in (policy.family.prompt_token(policy.processor), *feature_tokens(policy)):
        if placeholder in text:
            token = token or placeholder
    if token is not None:
        raise UserError(
            f"the {field} {text[:80]!r} contains {token!r}, a control token of "
            f"{policy.settings.name!r}, which would be read as one. Remove it: the chat template "
            "puts the clip and the turns into the prompt"
        )


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value)
