"""What `video.decode_size: model` saves and changes: CPU seconds of decoding and resizing a clip,
and the pixels that the model sees.

    python scripts/bench_decode_size.py [--repeats N]

Each case writes one clip, reads it at both sizes in turn, in one decoding process, and has the
published processor make the model's pixels of it; the least CPU seconds, those of the decoding
process among them, are printed.
"""

import argparse
import resource
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from torch import Tensor

from dpo_video.models.decoding import model_pool
from dpo_video.models.hub import ModelSpec, model_spec
from dpo_video.models.tokens import fit_frames, pixel_kwargs
from dpo_video.recipe import ModelSettings, VideoSettings
from dpo_video.video import ClipRequest, Frames

SECONDS, RATE = 10, 24
VIDEO = VideoSettings(num_frames=32, max_pixels=200704, workers=1)
"""As recipes/qwen2_5_vl_7b.yaml."""


class Case(NamedTuple):
    """A model and the size of a clip."""

    model: str
    settings: VideoSettings
    width: int
    height: int


CASES = [
    Case("Qwen/Qwen2.5-VL-7B-Instruct", VIDEO, 1920, 1080),
    Case("Qwen/Qwen2.5-VL-7B-Instruct", VIDEO, 1280, 720),
    Case("llava-hf/LLaVA-NeXT-Video-7B-hf", VideoSettings(num_frames=16, workers=1), 1280, 720),
    Case("llava-hf/LLaVA-NeXT-Video-7B-hf", VideoSettings(num_frames=16, workers=1), 640, 360),
]


def write_clip(path: Path, width: int, height: int) -> None:
    """Write a clip of moving waves with edges and noise, as H.264."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 1))
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(SECONDS * RATE):
            waves = [np.sin((x + 5 * number) / 17 + c) * np.cos(y / (29 + 7 * c)) for c in range(3)]
            blocks = 60 * (((x + 3 * number) // 48 + y // 48) % 2)[..., None]
            picture = np.clip(100 + 60 * np.stack(waves, axis=2) + blocks + noise, 0, 255)
            frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def seen(spec: ModelSpec, settings: VideoSettings, frames: Frames) -> Tensor:
    """Return the pixels that the model sees, from 0 to 255, as the processor lays them out."""
    kwargs: Mapping[str, object] = pixel_kwargs(
        spec.family, spec.video_processor, settings, num_frames=len(frames.pixels)
    )
    made = spec.video_processor(
        videos=[torch.from_numpy(frames.pixels.transpose(0, 3, 1, 2))],
        do_sample_frames=False,
        do_rescale=False,
        do_normalize=False,
        return_tensors="pt",
        **kwargs,
    )
    pixels: Tensor = made["pixel_values_videos"].float()
    return pixels


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of those that it has ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def read(case: Case, spec: ModelSpec, path: Path, decode_size: str) -> tuple[float, Tensor, int]:
    """Return the CPU seconds of reading a clip, what the model sees, and the bytes of its frames.

    The decoding process has read the clip once before, so that its start and imports are not
    counted.
    """
    settings = case.settings.model_copy(update={"decode_size": decode_size})
    seconds = []
    for reads in (1, 3):
        began = cpu_seconds()
        with model_pool(spec, settings) as pool:
            for number in range(reads):
                frames = pool.read(ClipRequest(key=str(number), video=path))
                assert isinstance(frames, Frames), frames
                pixels = seen(spec, settings, fit_frames(spec, settings, frames))
        seconds.append(cpu_seconds() - began)
    return (seconds[1] - seconds[0]) / 2, pixels, frames.pixels.nbytes


def main() -> None:
    """Print a row a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print("| model | clip | CPU s: native, model | ratio | MB | pixels apart: mean, most |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        spec = model_spec(ModelSettings(name=case.model))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            write_clip(path, case.width, case.height)
            rounds = [
                [read(case, spec, path, size) for size in ("native", "model")]
                for _ in range(repeats)
            ]
        native, model = (
            min(seconds for seconds, _, _ in each) for each in zip(*rounds, strict=True)
        )
        (_, own, own_bytes), (_, small, small_bytes) = rounds[-1]
        apart = (own - small).abs()
        cells = (
            case.model.split("/")[1],
            f"{case.width}x{case.height}, {case.settings.num_frames} frames",
            f"{native:.2f}, {model:.2f}",
            f"{native / model:.2f}",
            f"{own_bytes / 1e6:.1f}, {small_bytes / 1e6:.1f}",
            f"{apart.mean():.2f}, {apart.max():.0f}",
        )
        print(
            f"| {' | '.join(cells)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
