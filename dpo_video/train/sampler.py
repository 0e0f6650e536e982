"""In which order pairs are trained on: clips shuffled anew each epoch, the pairs of a clip next to
each other.
"""

import hashlib
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler


class ClipSampler(Sampler[list[int]]):
    """Batches of positions in the list of pairs, for one of `num_processes` processes.

    The order of the clips is that of a hash of seed, epoch and clip. It depends on nothing else, so
    a resumed run meets it again, and a clip that is set aside leaves the order of the others as it
    was. Each process takes a contiguous share, so a clip is decoded by one process (at the seams
    between shares by two). Of a clip's pairs, those whose rejected answers go with another clip
    come last, and together where it is the same. All processes get equally many pairs: where they
    do not divide evenly, the first pairs of the epoch stand in the last share again.
    """

    def __init__(
        self,
        clips: Sequence[str],
        *,
        batch_size: int,
        seed: int,
        process: int = 0,
        num_processes: int = 1,
        rejected_clips: Sequence[str] | None = None,
    ) -> None:
        """Order the pairs whose clips are `clips`; None: their rejected answers go with the
        same.
        """
        self.clips = list(clips)
        self.rejected_clips = list(clips if rejected_clips is None else rejected_clips)
        self.batch_size = batch_size
        self.seed = seed
        self.process = process
        self.num_processes = num_processes
        self.num_epochs = 1
        """After this many epochs no clip is read ahead."""
        self.epoch = 0
        self._next_epoch = 1

    def set_epoch(self, epoch: int, *, next_epoch: int | None = None) -> None:
        """Shuffle as for this epoch, counted from 0; the one read ahead after it is the next, or
        another.
        """
        self.epoch = epoch
        self._next_epoch = epoch + 1 if next_epoch is None else next_epoch

    def positions(self, epoch: int | None = None) -> list[int]:
        """Return this process's positions in the list of pairs, in the order of this epoch or
        another.
        """
        shuffled = self.epoch if epoch is None else epoch

        def sort_key(index: int) -> tuple[str, bool, str, int]:
            clip, rejected = self.clips[index], self.rejected_clips[index]
            return _hashed(clip, self.seed, shuffled), rejected != clip, rejected, index

        ordered = sorted(range(len(self.clips)), key=sort_key)
        num_pairs = -(-len(ordered) // self.num_processes)
        begin = self.process * num_pairs
        return [ordered[index % len(ordered)] for index in range(begin, begin + num_pairs)]

    def clip_groups(self, epoch: int | None = None) -> list[tuple[str, ...]]:
        """Return the clips of the pairs, one or two, in the order in which this process meets them
        in an epoch.
        """
        groups: list[tuple[str, ...]] = []
        for index in self.positions(epoch):
            clips = tuple(dict.fromkeys((self.clips[index], self.rejected_clips[index])))
            if not groups or groups[-1] != clips:
                groups.append(clips)
        return groups

    def clips_ahead(self) -> Iterator[tuple[str, ...]]:
        """Yield the clip groups of this epoch, then of those to come, so that reading ahead does
        not stop between two.
        """
        yield from self.clip_groups()
        for epoch in range(self._next_epoch, self.num_epochs):
            yield from self.clip_groups(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        positions = self.positions()
        for begin in range(0, len(positions), self.batch_size):
            yield positions[begin : begin + self.batch_size]

    def __len__(self) -> int:
        num_pairs = -(-len(self.clips) // self.num_processes)
        return -(-num_pairs // self.batch_size)


def _hashed(clip: str, seed: int, epoch: int) -> str:
    return hashlib.sha256(f"{seed}\n{epoch}\n{clip}".encode()).hexdigest()
