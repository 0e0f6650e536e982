"""A checkpoint whose family is checked: loaded once plain and once with an adapter, and rows about
two clips. Checks leave it as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from trl.trainer.utils import add_fused_lm_head

from dpo_video.models.collate import TokenRow, collate
from dpo_video.models.decoding import sound_format
from dpo_video.models.families import Family
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import adapter_parameters, lora_config
from dpo_video.models.peft_library import get_peft_model
from dpo_video.models.prompts import clip_content, process_frames, prompt_text
from dpo_video.recipe import LoraSettings, ModelSettings, VideoSettings
from dpo_video.train.logps import clip_rows
from dpo_video.train.shared_prefix import PER_TOKEN
from dpo_video.video import Frames
from dpo_video.video.frames import SoundFormat

TOLERANCE = 2e-5
"""Of logits in float32, times their spread where that is above 1."""


class CheckFailed(Exception):
    """What a check found: the field of the row that is likely wrong, and why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"FAMILY.{field}: {reason}")
        self.field = field
        self.reason = reason


def require(holds: bool | Tensor, field: str, reason: str) -> None:
    """Raise CheckFailed unless something holds."""
    if not holds:
        raise CheckFailed(field, reason)


def require_close(ours: Tensor, theirs: Tensor, field: str, reason: str, *, atol: float) -> None:
    """Raise CheckFailed unless two tensors agree, `theirs` being the slow, obvious one."""
    require(
        ours.shape == theirs.shape,
        field,
        f"{reason}: of shape {tuple(ours.shape)} and {tuple(theirs.shape)}",
    )
    ours, theirs = ours.detach().float(), theirs.detach().float()
    difference = float((ours - theirs).abs().max())
    limit = atol * max(1.0, float(theirs.std()) if theirs.numel() > 1 else 1.0)
    require(difference <= limit, field, f"{reason}: they differ by {difference:.1e}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckClip:
    """A clip of the checks with a question and answers."""

    count: int
    height: int
    width: int
    seconds_apart: float
    question: str
    answers: tuple[str, ...]
    sound_seconds: float = 0.0

    def frames(self, form: SoundFormat | None = None) -> Frames:
        """Return its frames, smooth noise, which survives any resizing, with its sound in the form
        that a model takes.
        """
        coarse = noise_frames(self.count, height=8, width=8, seconds_apart=self.seconds_apart)
        grow = np.ones((1, self.height // 8, self.width // 8, 1), np.uint8)
        frames = replace(coarse, pixels=np.kron(coarse.pixels, grow))
        return frames if form is None else with_sound(frames, form, seconds=self.sound_seconds)


CLIPS = (
    CheckClip(
        count=4,
        height=56,
        width=112,
        seconds_apart=0.7,
        question="what happens ?",
        answers=(" a red square", "the man is cooking pasta in a kitchen and talks to the camera"),
        sound_seconds=3.3,
    ),
    CheckClip(
        count=2,
        height=112,
        width=56,
        seconds_apart=2.5,
        question="describe the video in detail please",
        answers=("no", "yes"),
    ),
)
"""Two clips of different frame counts, shapes and times; the first is the longer, and has sound.
Its frames are at odd times, which some models round and some do not.
"""


def with_sound(frames: Frames, form: SoundFormat, *, seconds: float, seed: int = 0) -> Frames:
    """Return a clip with noise for so many seconds; 0 is a silent film, as heard by a model."""
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * form.rate))
    return replace(
        frames, sound=noise.astype(np.float32) if seconds else None, sound_rate=form.rate
    )


def noise_frames(
    count: int, *, height: int = 100, width: int = 150, seconds_apart: float = 1.0
) -> Frames:
    """Return `count` noise frames, at a constant distance in a film of 10 frames per second."""
    noise = np.random.default_rng(count * height + width)
    step = round(10 * seconds_apart)
    indices = [step * place for place in range(count)]
    return Frames(
        pixels=noise.integers(0, 256, (count, height, width, 3), dtype=np.uint8),
        indices=indices,
        times=np.array(indices) / 10,
        fps=10.0,
        total_frames=step * count,
        duration=step * count / 10,
        backend="pyav",
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A checkpoint under test."""

    settings: ModelSettings
    """How it is loaded, in float32."""

    @cached_property
    def plain(self) -> Policy:
        """The policy without an adapter."""
        return load_policy(self.settings)

    @cached_property
    def tuned(self) -> Policy:
        """A policy of its own with an adapter that changes the model, and TRL's fused head."""
        policy = load_policy(self.settings)
        add_fused_lm_head(policy.bare, outputs=PER_TOKEN)
        return with_adapter(policy)

    @cached_property
    def rows(self) -> tuple[tuple[TokenRow, ...], ...]:
        """The rows of each clip, encoded once by the plain policy."""
        return tuple(tuple(rows_of_clip(self.plain, clip)) for clip in CLIPS)

    @property
    def family(self) -> Family:
        """The row that is checked."""
        return self.plain.family

    @cached_property
    def decoder_linears(self) -> frozenset[str]:
        """The linear layers that LoRA must tune: those of the text decoder, found by walking it,
        without those that the row leaves out on purpose.
        """
        decoder = self.plain.bare.get_decoder()
        (prefix,) = (name for name, module in self.plain.bare.named_modules() if module is decoder)
        return frozenset(
            f"{prefix}.{name}"
            for name, module in decoder.named_modules()
            if isinstance(module, nn.Linear) and not self.family.untuned(name)
        )


def with_adapter(policy: Policy) -> Policy:
    """Return the policy wrapped with a random adapter that changes its answers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = get_peft_model(
            policy.model, lora_config(LoraSettings(rank=4, alpha=8), policy.family)
        )
        for name, parameter in adapter_parameters(model):
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return replace(policy, model=model)


def rows_of_clip(policy: Policy, clip: CheckClip) -> list[TokenRow]:
    """Return a row for each of the clip's answers."""
    return clip_rows(
        policy,
        clip.frames(sound_format(policy.spec, VideoSettings())),
        VideoSettings(),
        question=clip.question,
        answers=clip.answers,
    )


def rows_of(
    policy: Policy, *clips: tuple[dict[str, Any], dict[str, Sequence[str]]]
) -> list[TokenRow]:
    """Return rows of clips, each given as noise_frames' arguments and answers by question; the
    first has sound, where a model hears.
    """
    rows = []
    form = sound_format(policy.spec, VideoSettings())
    for number, (frames, questions) in enumerate(clips):
        clip = noise_frames(**frames)
        if form is not None and not number:
            clip = with_sound(clip, form, seconds=clip.duration)
        made = [
            row
            for question, answers in questions.items()
            for row in clip_rows(policy, clip, VideoSettings(), question=question, answers=answers)
        ]
        rows += [replace(row, clip=made[0].clip, features=made[0].features) for row in made]
    return rows


def prompt_only(row: TokenRow) -> TokenRow:
    """Return the row without its answer."""
    return TokenRow(prompt=row.prompt, clip=row.clip, features=row.features)


def processor_outputs(policy: Policy, clip: CheckClip, answer: str = "") -> Mapping[str, Any]:
    """Return the processor's own call on prompt and answer with the frames: the stock path, no code
    of ours between.
    """
    family, processor = policy.family, policy.processor
    kwargs = family.pixel_kwargs(policy.frame_processor, None, None)
    text = prompt_text(processor, clip.question, clip_content(family, clip.count))
    frames = clip.frames(sound_format(policy.spec, VideoSettings()))
    joined = text if family.open_prompt else text + answer
    outputs = dict(process_frames(family, processor, joined, frames, kwargs))
    if family.prompt_inputs is not None:
        outputs |= family.prompt_inputs(processor, clip.question)
    tensors = {
        name: (value if isinstance(value, Tensor) else torch.tensor(value)).to(policy.device)
        for name, value in outputs.items()
        if name != "text_replacement_offsets"
    }
    if family.open_prompt:
        ids = processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
        more = torch.tensor([ids], dtype=torch.long, device=policy.device)
        tensors["input_ids"] = torch.cat([tensors["input_ids"], more], dim=1)
    return tensors


@torch.no_grad()
def row_logits(policy: Policy, row: TokenRow) -> Tensor:
    """Return (T, V) logits of one row alone."""
    logits: Tensor = policy.model(**collate(policy, [row], "right"), use_cache=False).logits[0]
    return logits
