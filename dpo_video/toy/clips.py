"""Clips of the toy world: draw a scene as pixels, write it as H.264, write a split.

F = 16 frames, S = 64 pixels a side.
"""

from __future__ import annotations

import io
import os
import random
import shutil
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.toy.questions import caption, draw_questions
from dpo_video.toy.scene import NUM_FRAMES, Figure, Scene, draw_scene

SIDE = 64
"""Width and height of a clip in pixels."""
FPS = 8
"""Frames a second."""
SOUND_RATE = 16_000
"""Samples a second of a clip that has sound."""
SPEED = 1.1
"""Pixels a moving shape travels between two frames."""
RGB = {
    "red": (225, 35, 35),
    "green": (30, 170, 50),
    "blue": (45, 85, 235),
    "yellow": (240, 220, 40),
    "white": (245, 245, 245),
    "pink": (245, 105, 200),
}
STEP = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}


def draw(scene: Scene) -> NDArray[np.uint8]:
    """Return the clip as pixels (F, S, S, 3) uint8."""
    pixels = np.full((NUM_FRAMES, SIDE, SIDE, 3), float(scene.background))
    for figure in scene.things:
        cover = coverage(figure)[..., None]  # (F, S, S, 1)
        pixels = pixels * (1 - cover) + cover * np.asarray(RGB[figure.colour], dtype=float)
    return pixels.round().astype(np.uint8)


def coverage(figure: Figure) -> NDArray[np.float64]:
    """Return how much of each pixel a figure covers, (F, S, S) in 0..1."""
    frame = np.arange(NUM_FRAMES)[:, None, None]
    x, y = centre(figure, frame)
    grid = np.arange(SIDE) + 0.5
    dx, dy = grid[None, None, :] - x, grid[None, :, None] - y
    r = figure.radius
    if figure.shape == "circle":
        distance = np.hypot(dx, dy) - r
    elif figure.shape == "square":
        distance = np.maximum(abs(dx), abs(dy)) - 0.9 * r
    elif figure.shape == "triangle":
        distance = np.maximum(dy - 0.85 * r, 0.89 * abs(dx) - 0.45 * (dy + r))
    else:  # cross
        arm = 0.32 * r
        distance = np.minimum(
            np.maximum(abs(dx) - arm, abs(dy) - r), np.maximum(abs(dx) - r, abs(dy) - arm)
        )
    return np.clip(0.5 - distance, 0, 1) * (frame >= figure.first_frame)


def centre(figure: Figure, frame: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return x and y of a thing's centre in pixels, shaped like `frame`."""
    dx, dy = STEP[figure.motion]
    travelled = (frame - (NUM_FRAMES - 1) / 2) * SPEED
    return (
        (figure.quadrant % 2 + 0.5) * SIDE / 2 + dx * travelled,
        (figure.quadrant // 2 + 0.5) * SIDE / 2 + dy * travelled,
    )


def encode(pixels: NDArray[np.uint8], sound: NDArray[np.float32] | None = None) -> bytes:
    """Return an mp4 file: H.264, yuv420p, crf 14, one thread so that bytes repeat; with AAC beside
    it where there is sound, (S,) from -1 to 1 at SOUND_RATE.
    """
    import av  # here: a split that is there needs no encoder

    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as container:
        options = {"crf": "14", "preset": "veryfast", "threads": "1"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        track = None if sound is None else container.add_stream("aac", rate=SOUND_RATE)
        for image in pixels:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if track is not None and sound is not None:
            heard = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            heard.sample_rate, heard.time_base = SOUND_RATE, Fraction(1, SOUND_RATE)
            heard.pts = 0  # without it the encoder's delay, 1,024 samples, is heard as silence
            container.mux(track.encode(heard))
            container.mux(track.encode())
    return buffer.getvalue()


def decode(file: bytes | Path) -> NDArray[np.uint8]:
    """Return every frame of an mp4 as pixels (F, S, S, 3) uint8."""
    import av

    source = io.BytesIO(file) if isinstance(file, bytes) else str(file)
    with av.open(source, mode="r") as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return np.stack(frames).astype(np.uint8)


def write_split(
    split: Literal["train", "heldout"], folder: Path, *, num_clips: int, seed: int
) -> Path:
    """Return `samples.jsonl` of a split, written with its mp4 clips unless already there.

    Every clip shows another scene and carries three questions. `scenes.jsonl` beside it
    holds the scenes themselves, for the gold grader. A half-written folder never appears:
    all is written aside, then renamed.
    """
    folder = Path(folder)
    samples = folder / "samples.jsonl"
    order = {"split": split, "num_clips": num_clips, "seed": seed}
    if samples.exists():
        written = strict_json.loads((folder / "split.json").read_text())
        if written != order:
            raise UserError(
                f"{folder} holds the toy clips of seed {written['seed']} ({written['num_clips']} "
                f"of "
                f"{written['split']}), and "
                f"this run asks for seed {seed} ({num_clips} of {split}). Give the run another "
                f"`name`, so that it has "
                "a folder of its own, or go back to the seed"
            )
        return samples
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{uuid4().hex}")
    aside.mkdir()
    try:
        _write(split, aside, num_clips=num_clips, seed=seed)
        (aside / "split.json").write_text(strict_json.dumps(order) + "\n")
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return samples


def read_scenes(folder: Path) -> dict[str, Scene]:
    """Return the scenes of a written split by the path of their clip."""
    scenes: dict[str, Scene] = {}
    for line in (Path(folder) / "scenes.jsonl").read_text().splitlines():
        row = strict_json.loads(line)
        figures = tuple(Figure(**fields) for fields in row["things"])
        scenes[row["video"]] = Scene(things=figures, background=row["background"])
    return scenes


def _write(split: Literal["train", "heldout"], folder: Path, *, num_clips: int, seed: int) -> None:
    rng = random.Random(f"{split} {seed}")
    (folder / "clips").mkdir()
    samples: list[dict[str, str]] = []
    scenes: list[dict[str, Any]] = []
    signatures: set[str] = set()
    while len(scenes) < num_clips:
        scene = draw_scene(rng, part=split)
        if scene.signature in signatures:
            continue
        signatures.add(scene.signature)
        name = f"{split}-{len(scenes):04d}"
        video, text = f"clips/{name}.mp4", caption(scene, rng)
        (folder / video).write_bytes(encode(draw(scene)))
        scenes.append({"video": video, **asdict(scene)})
        for index, question in enumerate(draw_questions(scene, rng, num_questions=3)):
            row = {"id": f"{name}-q{index}", "video": video, "prompt": question.prompt}
            samples.append({**row, "caption": text, "answer": question.answer})
    for name, rows in (("samples", samples), ("scenes", scenes)):
        lines = (strict_json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines))
