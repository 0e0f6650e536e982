"""`dpo-video frames`: what a model will see of a clip, as numbers and as a contact sheet.

F frames, H height, W width in pixels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dpo_video.core.errors import UserError
from dpo_video.core.names import choose
from dpo_video.models.decoding import reading_for
from dpo_video.models.families import FAMILIES
from dpo_video.models.hub import ModelSpec, model_spec, published_names
from dpo_video.models.tokens import (
    clip_tokens,
    fit_frames,
    frame_size,
    pixel_kwargs,
    sound_tokens,
    token_budget,
)
from dpo_video.recipe import ModelSettings, VideoSettings
from dpo_video.video import Frames, video_metadata
from dpo_video.video.read import read_frames

COLUMNS = 8
TILE = 160
"""Width of a picture on the sheet in pixels."""
MARGIN, LABEL, TITLE = 4, 16, 26


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """What a model sees of one clip."""

    frames: Frames
    """Those that it sees."""
    num_read: int
    """Frames that the policy took, before the budget of tokens."""
    pixels: NDArray[np.uint8]
    """(F, H, W, 3): the frames as they enter the tower, resized and cropped."""
    tokens: int
    """Those of its sound among them."""
    sound_tokens: int | None
    """None for a model that hears nothing, or is not to."""
    sound_seconds: float
    """Of its sound that are heard."""
    budget: int | None
    context: int
    model: str
    family: str


def published_model(family: str) -> ModelSettings:
    """Return the settings of a well-known checkpoint of a family."""
    names = published_names(choose(FAMILIES, family, "family"))
    if not names:
        raise UserError(
            f"no published numbers of family {family!r} are at hand: name a recipe or a "
            f"checkpoint, "
            "--recipe RECIPE or --model NAME"
        )
    return ModelSettings(name=names[0])


def view_clip(
    video: Path,
    model: ModelSettings,
    settings: VideoSettings,
    *,
    start: float | None = None,
    end: float | None = None,
) -> View:
    """Return what the model will see of a video file, an image or a folder of frames."""
    spec = model_spec(model)
    read = read_frames(
        video,
        settings,
        start=start,
        end=end,
        **reading_for(spec, settings),
    )
    frames = fit_frames(spec, settings, read)
    count, height, width = frames.pixels.shape[:3]
    tokens = clip_tokens(  # first: it says in words what the processor refuses
        spec,
        settings,
        num_frames=count,
        height=height,
        width=width,
        sound_samples=frames.sound_samples,
    )
    return View(
        frames=frames,
        num_read=len(read.indices),
        pixels=as_seen(spec, frames, settings),
        model=model.name,
        family=spec.family.name,
        budget=token_budget(spec, settings),
        tokens=tokens,
        sound_tokens=sound_tokens(spec, settings, frames.sound_samples)
        if frames.sound_rate
        else None,
        sound_seconds=_seconds_heard(spec, frames),
        context=spec.family.context_length(spec.config),
    )


def as_seen(spec: ModelSpec, frames: Frames, settings: VideoSettings) -> NDArray[np.uint8]:
    """Return frames (F, H, W, 3) uint8 as they enter the tower.

    Of processors that return whole frames, their own output; others cut frames into patches of the
    size that `frame_size` gives, without cropping.
    """
    kwargs = pixel_kwargs(
        spec.family, spec.video_processor, settings, num_frames=len(frames.pixels)
    )
    # Rescaled by 1, pixels keep their values and become float: some processors cut patches of
    # floats only.
    raw: dict[str, Any] = {
        "return_tensors": "pt",
        "do_rescale": True,
        "rescale_factor": 1.0,
        "do_normalize": False,
        **kwargs,
    }
    if spec.family.frames_as == "images":
        pictures = spec.video_processor(images=list(frames.pixels), **raw)["pixel_values"]
        if pictures.ndim == 4:  # not tiles
            return _as_bytes(pictures)
    elif not spec.family.compresses:  # which compares frames as normalised numbers
        processed = spec.video_processor(
            videos=[frames.pixels],
            video_metadata=[video_metadata(frames)],
            do_sample_frames=False,
            **raw,
        )
        clips = processed.get("pixel_values_videos")
        if clips is not None and clips.ndim == 5 and len(clips[0]) == len(frames.pixels):
            return _as_bytes(clips[0])
    count, height, width = frames.pixels.shape[:3]
    size = frame_size(spec, settings, num_frames=count, height=height, width=width)
    images = [
        Image.fromarray(frame).resize((size.width, size.height), Image.Resampling.BICUBIC)
        for frame in frames.pixels
    ]
    return np.stack([np.asarray(image) for image in images])


def _as_bytes(pixels: Tensor) -> NDArray[np.uint8]:
    """Return (F, 3, H, W) pixels as (F, H, W, 3) uint8."""
    return np.ascontiguousarray(pixels.clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())


def contact_sheet(views: Mapping[str, View]) -> Image.Image:
    """Return the frames that a model sees of some clips, clip by clip, each with its number in the
    file and its time; above them the clip's name, the family, frames and tokens.
    """
    strips = [_strip(name, view) for name, view in views.items()]
    sheet = Image.new(
        "RGB",
        (max(strip.width for strip in strips), sum(strip.height for strip in strips)),
        "white",
    )
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def _strip(name: str, view: View) -> Image.Image:
    count, height, width = view.pixels.shape[:3]
    tile = (TILE, max(1, round(TILE * height / width)))
    cell = (tile[0] + MARGIN, tile[1] + LABEL + MARGIN)
    title = f"{name}   {view.family}: {count} frames, {view.tokens:,} tokens"
    title_font = ImageFont.load_default(size=14)
    columns = min(COLUMNS, count)
    text_width = math.ceil(title_font.getlength(title)) + 2 * MARGIN
    strip = Image.new(
        "RGB",
        (
            max(columns * cell[0] + MARGIN, text_width),
            TITLE + math.ceil(count / columns) * cell[1] + MARGIN,
        ),
        "white",
    )
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size=12)
    draw.text((MARGIN, MARGIN), title, fill="black", font=title_font)
    for number, (pixels, time, index) in enumerate(
        zip(view.pixels, view.frames.times, view.frames.indices, strict=True)
    ):
        left = MARGIN + number % columns * cell[0]
        top = TITLE + number // columns * cell[1]
        draw.text((left, top), f"{time:.2f} s  #{index}", fill="black", font=font)
        strip.paste(Image.fromarray(pixels).resize(tile), (left, top + LABEL))
    return strip


def describe(video: Path, view: View, settings: VideoSettings) -> list[tuple[str, str]]:
    """Return what is printed about a clip: names and values."""
    frames = view.frames
    height, width = frames.pixels.shape[1:3]
    seen_height, seen_width = view.pixels.shape[1:3]
    of_frames = view.tokens - (view.sound_tokens or 0)
    rows = [
        (
            "clip",
            f"{video}: {width}x{height}, {frames.total_frames:,} frames at {frames.fps:g} a "
            f"second, "
            f"{frames.duration:.2f} s, read by {frames.backend}",
        ),
        ("policy", f"{settings.policy}: {view.num_read} frames{_looked_at(frames, view.num_read)}"),
    ]
    if frames.note:
        rows.append(("note", frames.note))
    if view.budget is not None:
        lost = view.num_read - len(frames.indices)
        rows.append(("budget", f"{view.budget:,} tokens; {lost} frames lost to it"))
    rows += [
        (
            "seen by",
            f"{view.model} ({view.family}): {len(frames.indices)} frames of "
            f"{seen_width}x{seen_height}",
        ),
        (
            "video tokens",
            f"{view.tokens:,}, {of_frames / len(frames.indices):.4g} a frame; the model's "
            f"context "
            f"is {view.context:,}",
        ),
    ]
    if view.sound_tokens is not None:
        rows.append(("sound", _heard(view, view.sound_tokens)))
    return rows


def _seconds_heard(spec: ModelSpec, frames: Frames) -> float:
    hearing = spec.family.hearing(spec.config)
    if hearing is None or not frames.sound_samples:
        return 0.0
    return hearing.seconds(frames.sound_samples / frames.sound_rate)


def _heard(view: View, tokens: int) -> str:
    frames = view.frames
    if not frames.sound_samples:
        return "none is heard: see the note" if frames.note else "none: the clip has no sound"
    seconds = frames.sound_samples / frames.sound_rate
    pieces = "" if view.sound_seconds == seconds else f" of {seconds:.2f} s, in pieces"
    return f"{view.sound_seconds:.2f} s heard{pieces}, {tokens:,} of the tokens"


def _looked_at(frames: Frames, num_read: int) -> str:
    if not frames.looked_at:
        return f" of {frames.total_frames:,}"
    return f" of {frames.looked_at} looked at ({num_read / frames.looked_at:.1%} kept)"


def frames_of_clips(
    videos: Sequence[Path],
    model: ModelSettings,
    settings: VideoSettings,
    *,
    sheet: Path,
    **span: Any,
) -> list[list[tuple[str, str]]]:
    """Write the contact sheet of some clips, and return what is printed of each; `span` is `start`
    and `end` in seconds. UserError with all clips that cannot be read.
    """
    views, unreadable = {}, []
    for video in videos:
        try:
            views[str(video)] = view_clip(video, model, settings, **span)
        except UserError as error:
            unreadable.append(str(error))
    if unreadable:
        raise UserError("\n".join(unreadable))
    names = _short_names(videos)
    contact_sheet({names[video]: view for video, view in views.items()}).save(sheet)
    printed = [describe(Path(video), view, settings) for video, view in views.items()]
    printed[-1].append(("contact sheet", str(sheet)))
    return printed


def _short_names(videos: Sequence[Path]) -> dict[str, str]:
    """Return the files' names, whole paths where two clips have one name."""
    names = [video.name for video in videos]
    return {
        str(video): video.name if names.count(video.name) == 1 else str(video) for video in videos
    }
