"""The parts of a message that show a clip, read back with PyAV and Pillow."""

import base64
import io

import av
import numpy as np
import pytest
from PIL import Image

from dpo_video.generate.message_parts import film_part, image_parts


def noise(count: int, height: int, width: int) -> list[np.ndarray]:
    random = np.random.default_rng(count)
    return [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize(("count", "height", "width"), [(8, 64, 64), (5, 63, 65), (1, 100, 150)])
def test_a_film_holds_exactly_the_frames_and_lasts_as_long_as_the_clip(count, height, width):
    pictures = noise(count, height, width)
    part = film_part([Image.fromarray(pixels) for pixels in pictures], 16 / 3)
    content = base64.b64decode(part["video_url"]["url"].removeprefix("data:video/mp4;base64,"))
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        read = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert float(stream.duration * stream.time_base) == pytest.approx(16 / 3)
    assert len(read) == count and all(map(np.array_equal, read, pictures))


def test_a_png_loses_nothing() -> None:
    (pixels,) = noise(1, 20, 30)
    (part,) = image_parts([Image.fromarray(pixels)], "PNG")
    content = base64.b64decode(part["image_url"]["url"].removeprefix("data:image/png;base64,"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)
