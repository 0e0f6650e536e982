"""What a chat message shows a server of a clip: the policy's frames as images, the same frames as a
small film of their own, or the file itself.
"""

import base64
import io
import mimetypes
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import av
from PIL import Image

from dpo_video.core.errors import UserError
from dpo_video.models.hub import ModelSpec
from dpo_video.models.tokens import frame_size
from dpo_video.recipe import VideoSettings
from dpo_video.video import ClipRequest, Frames, VideoError

JPEG_QUALITY = 95
MessagePart = dict[str, Any]
"""One part of a message's `content`."""


def frame_images(spec: ModelSpec, settings: VideoSettings, frames: Frames) -> list[Image.Image]:
    """Return frames as pictures, in the size that the recipe's bounds on pixels give them."""
    images = [Image.fromarray(pixels) for pixels in frames.pixels]
    if settings.min_pixels is None and settings.max_pixels is None:
        return images
    size = frame_size(
        spec, settings, num_frames=len(images), height=images[0].height, width=images[0].width
    )
    return [image.resize((size.width, size.height), Image.Resampling.BICUBIC) for image in images]


def image_parts(
    images: Sequence[Image.Image], kind: Literal["JPEG", "PNG"] = "JPEG"
) -> list[MessagePart]:
    """Return one part for each picture; a PNG loses nothing."""
    return [
        {"type": "image_url", "image_url": {"url": _data_url(f"image/{kind.lower()}", content)}}
        for content in (_image_bytes(image, kind) for image in images)
    ]


def film_part(images: Sequence[Image.Image], seconds: float) -> MessagePart:
    """Return a part that holds a film of exactly these pictures, of even width and height or not,
    that lasts as long as their clip: H.264 without loss, so that a server that reads all its frames
    sees what the policy sees.
    """
    buffer = io.BytesIO()
    rate = Fraction(len(images) / max(seconds, 1e-3)).limit_denominator(1001)
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264rgb", rate=rate, options={"qp": "0"})
        stream.width, stream.height = images[0].size
        stream.pix_fmt = "rgb24"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_image(image.convert("RGB"))))
        container.mux(stream.encode())
    return {"type": "video_url", "video_url": {"url": _data_url("video/mp4", buffer.getvalue())}}


def file_part(request: ClipRequest, setting: str = "generate.video_as is video_url") -> MessagePart:
    """Return a part that holds a clip's whole file; UserError where the clip is no whole file.

    Args:
        setting: what asks for the file, for the error.
    """
    if not is_whole_file(request):
        raise UserError(
            f"the clip {request.key!r} is frames or a part of a file, and {setting}, which sends "
            "a whole file: use images"
        )
    assert not isinstance(request.video, tuple)
    if not request.video.is_file():
        raise VideoError("not_found", request.video, "no such file")
    kind = mimetypes.guess_type(request.video.name)[0] or "video/mp4"
    url = _data_url(kind, request.video.read_bytes())
    return {"type": "video_url", "video_url": {"url": url}}


def is_whole_file(request: ClipRequest) -> bool:
    """Return whether a clip is a video file from its first frame to its last."""
    is_part = request.start is not None or request.end is not None
    return not (is_part or isinstance(request.video, tuple) or request.video.is_dir())


def _image_bytes(image: Image.Image, kind: Literal["JPEG", "PNG"]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": JPEG_QUALITY} if kind == "JPEG" else {}))
    return buffer.getvalue()


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
