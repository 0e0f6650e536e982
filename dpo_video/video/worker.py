"""A decoding process: it reads jobs from stdin and answers on stdout, as pickles.

It is no multiprocessing child: those run the caller's main script again. It ends when its stdin
closes, that is, with its parent.
"""

import faulthandler
import os
import pickle
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from dpo_video.core.errors import UserError
from dpo_video.video.frames import Frames, SizeRule
from dpo_video.video.jobs import Job, SizeQuestion, SmallClip, SmallClipJob
from dpo_video.video.read import read_frames
from dpo_video.video.small_clip import write_small_clip

READY = "ready"
ORPHAN_SECONDS = 30.0
"""How long after the time limit a hanging process ends itself: its parent died without stopping it.
"""


def answer(job: Job | SmallClipJob, ask_size: SizeRule) -> Frames | SmallClip | UserError:
    """Return what reading a clip gave; a UserError that is no VideoError is about the setup, not
    the clip.
    """
    request = job.request
    if isinstance(job, SmallClipJob):
        try:
            return write_small_clip(request, job.stem, job.settings)
        except UserError as error:
            return error
    video = request.video if isinstance(request.video, Path) else list(request.video)
    try:
        return read_frames(
            video,
            job.settings,
            start=request.start,
            end=request.end,
            multiple_of=job.multiple_of,
            sound=job.sound,
            size_rule=ask_size if job.asks_size else None,
        )
    except UserError as error:
        return error


def main() -> None:
    """Answer jobs until stdin closes."""
    jobs = sys.stdin.buffer
    with (
        suppress(BrokenPipeError),
        os.fdopen(os.dup(1), "wb") as answers,
        open(os.devnull, "w") as nowhere,
    ):
        os.dup2(2, 1)  # what libraries print must not end up among the answers

        def ask_size(
            num_frames: int, height: int, width: int, sound_samples: int
        ) -> tuple[int, int]:
            question = SizeQuestion(
                num_frames=num_frames, height=height, width=width, sound_samples=sound_samples
            )
            _send(question, answers)
            size: tuple[int, int] = pickle.load(jobs)
            return size

        _send(READY, answers)
        while True:
            try:
                job: Job | SmallClipJob = pickle.load(jobs)
            except EOFError:
                return
            faulthandler.dump_traceback_later(
                job.settings.timeout + ORPHAN_SECONDS, exit=True, file=nowhere
            )
            reply = answer(job, ask_size)
            faulthandler.cancel_dump_traceback_later()
            _send(reply, answers)


def _send(reply: object, answers: BinaryIO) -> None:
    pickle.dump(reply, answers, protocol=5)  # 5 writes the pixels of a large array without a copy
    answers.flush()
