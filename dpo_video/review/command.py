"""`dpo-video review RUN`: serve the page, say where it is, and end with what was voted."""

import getpass
import secrets
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import uvicorn

from dpo_video.core.errors import UserError
from dpo_video.core.progress import print_line
from dpo_video.data.votes import FILE, mutual_agreement, self_agreement
from dpo_video.pages.run_files import read_run_files
from dpo_video.review.queue import Order, ReviewQueue, review_pairs
from dpo_video.review.server import review_app
from dpo_video.review.session import RefusedRequest, ReviewSession, annotator_name
from dpo_video.review.vote_file import VoteFile
from dpo_video.video import FramePool

CLIPS = "review_clips"
"""Folder of the run that the small clips are kept in."""


@dataclass(frozen=True, kw_only=True)
class ReviewOptions:
    """What `dpo-video review` was told."""

    annotators: tuple[str, ...] = ()
    order: Order = "doubt"
    num_pairs: int = 0
    """Pairs to vote on; 0 for all."""
    overlap: float = 0.1
    port: int = 0
    """0 for any that is free."""
    seed: int | None = None
    """None for the recipe's."""


def review(folder: Path, options: ReviewOptions) -> None:
    """Serve the review page of a run until it is stopped; print its addresses first and the counts
    of votes last. UserError where there are no pairs to vote on.
    """
    annotators = _annotators(options.annotators)
    token = secrets.token_urlsafe(24)
    with open_session(folder, options) as session, listen(options.port) as listener:
        port = listener.getsockname()[1]
        app = review_app(session, token=token, port=port, annotator=annotators[0])
        for name in annotators:
            address = f"http://127.0.0.1:{port}/{token}/?annotator={quote(name)}"
            print_line(f"review: {address}")
        print_line(
            f"{len(session.queue.pairs)} pairs, {len(session.queue.shared)} of them for every "
            f"annotator and twice; votes: {session.file.path}; Ctrl-C ends it"
        )
        settings = uvicorn.Config(
            app,
            access_log=False,  # it would hold the token
            log_level="warning",
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
        )
        with suppress(KeyboardInterrupt):  # uvicorn ends, and passes the signal on
            uvicorn.Server(settings).run(sockets=[listener])
        _print_votes(session)


@contextmanager
def open_session(folder: Path, options: ReviewOptions) -> Iterator[ReviewSession]:
    """Open the votes of a run and what is voted on; nothing is served yet."""
    run = read_run_files(folder)
    for fault in run.faults:
        print_line(f"review: {fault}")
    seed = run.recipe.seed if options.seed is None else options.seed
    pairs = review_pairs(run, options.order, seed=seed)
    if not pairs:
        raise UserError(
            f"no pairs of two answers to one clip in {str(folder)!r}. Make them first: dpo-video "
            "pair RECIPE"
        )
    queue = ReviewQueue(pairs[: options.num_pairs or None], overlap=options.overlap, seed=seed)
    with VoteFile(folder / FILE) as file, FramePool(run.recipe.video) as pool:
        yield ReviewSession(run=run, queue=queue, file=file, pool=pool, clips_folder=folder / CLIPS)


def _annotators(names: tuple[str, ...]) -> list[str]:
    try:
        return [annotator_name(name) for name in names or (_user_name(),)]
    except RefusedRequest as error:
        raise UserError(f"--annotator {names!r}: {error}") from error


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        return "annotator"


def listen(port: int) -> socket.socket:
    """Return a socket that listens on 127.0.0.1; UserError where the port is taken."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(64)  # before the address is printed: who opens it at once waits
    except OSError as error:
        listener.close()
        raise UserError(
            f"cannot listen on 127.0.0.1:{port}: {error.strerror}. Give another --port, or none"
        ) from error
    return listener


def _print_votes(session: ReviewSession) -> None:
    """Print what was voted, and how far annotators agree with themselves and each other."""
    votes = session.file.standing()
    choices = Counter(vote.choice for vote in votes)
    counts = ", ".join(f"{choice.replace('_', ' ')} {n}" for choice, n in choices.most_common())
    print_line(f"votes: {len(votes)} ({counts}); {session.file.path}" if votes else "no votes")
    for name, agreed in (
        ("an annotator asked twice", self_agreement(votes)),
        ("two annotators", mutual_agreement(votes)),
    ):
        if agreed.of:
            print_line(f"{name}: the same choice {agreed.same} times of {agreed.of}")
    if votes:
        folder = session.run.folder
        print_line(f"next: dpo-video agree {folder} --gold {session.file.path}")
