"""The candidates of a file without holding them: where each line is, and in which order a judge is asked about them."""

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dpo_video.errors import UserError
from dpo_video.recipe import CleanSettings
from dpo_video.records import Candidate, Sample, read_places
from dpo_video.screening import Screening, screen

DIGEST_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class CandidateFile:
    """12 bytes a candidate: the rest stays on disk."""

    path: Path
    samples: Mapping[str, Sample]
    ranks: Mapping[str, int]
    """Place of each sample id when samples of one caption, then question, stand side by side."""
    places: "array[int]"
    """Byte at which each candidate's line begins."""
    order: "array[int]"
    """Numbers of the candidates, those of a clip side by side."""

    def __len__(self) -> int:
        return len(self.places)

    @property
    def used(self) -> Iterator[Sample]:
        """The samples that have candidates."""
        return (self.samples[name] for name in self.ranks)

    def by_caption(self) -> Iterator[tuple[int, Sample, Candidate]]:
        """Yield each candidate with its number and sample, those of one caption, then question, side by side."""
        return self._read(self.order)

    def in_order(self) -> Iterator[tuple[int, Sample, Candidate]]:
        """Yield each candidate with its number and sample as the file has them."""
        return self._read(range(len(self)))

    def numbered(self, number: int) -> Candidate:
        """Return one candidate."""
        return next(candidate for _, _, candidate in self._read([number]))

    def _read(self, numbers: Iterable[int]) -> Iterator[tuple[int, Sample, Candidate]]:
        with self.path.open("rb") as lines:
            for number in numbers:
                lines.seek(self.places[number])
                candidate = Candidate(**json.loads(lines.readline()))  # checked when the file was opened
                yield number, self.samples[candidate.sample_id], candidate


def open_candidates(path: Path, samples: Iterable[Sample], clean: CleanSettings) -> tuple[CandidateFile, Screening]:
    """Read once through a candidates file; UserError where it is wrong, empty, or answers other samples.

    The screening says which candidates are judged.
    """
    known = {sample.id: sample for sample in samples}
    places, of_sample, appeared = array("q"), array("i"), dict[str, int]()

    def reading() -> Iterator[Candidate]:
        for place, candidate in read_places(path, Candidate):
            if candidate.sample_id not in known:
                raise UserError(f"candidate {candidate.id!r} answers sample {candidate.sample_id!r}, which is not "
                                "among data.samples. Make the candidates again: dpo-video generate RECIPE")
            places.append(place)
            of_sample.append(appeared.setdefault(candidate.sample_id, len(appeared)))
            yield candidate

    screening = screen(reading(), clean)
    if not places:
        raise UserError(f"no candidates in {str(path)!r}; make them first: dpo-video generate RECIPE")
    ranks = caption_ranks(known[name] for name in appeared)
    rank_of = [ranks[name] for name in appeared]
    order = array("i", sorted(range(len(places)), key=lambda number: rank_of[of_sample[number]]))
    return CandidateFile(path=path, samples=known, ranks=ranks, places=places, order=order), screening


def caption_ranks(samples: Iterable[Sample]) -> dict[str, int]:
    """Return each sample id's place when those of one caption, then question, stand side by side, first come first.

    Servers then reuse the prompt up to the answer: the caption and the question stand before it.
    """
    rows = list({sample.id: sample for sample in samples}.values())
    first: dict[tuple[str, ...], int] = {}
    for number, sample in enumerate(rows):
        first.setdefault((sample.caption,), number)
        first.setdefault((sample.caption, sample.prompt), number)
    rows.sort(key=lambda sample: (first[sample.caption,], first[sample.caption, sample.prompt]))
    return {sample.id: rank for rank, sample in enumerate(rows)}


@dataclass(kw_only=True)
class Keys:
    """The key of each candidate's reply, 33 bytes a candidate."""

    size: int
    _digests: bytearray = field(init=False)
    _first: bytearray = field(init=False)

    def __post_init__(self) -> None:
        self._digests, self._first = bytearray(DIGEST_BYTES * self.size), bytearray(self.size)

    def put(self, number: int, key: str, *, first: bool) -> None:
        """Keep a candidate's key; `first` where no candidate before has the same."""
        self._digests[DIGEST_BYTES * number:DIGEST_BYTES * (number + 1)] = bytes.fromhex(key)
        self._first[number] = first

    def get(self, number: int) -> str | None:
        """Return a candidate's key; None where it was never asked about."""
        digest = self._digests[DIGEST_BYTES * number:DIGEST_BYTES * (number + 1)]
        return digest.hex() if any(digest) else None

    def is_first(self, number: int) -> bool:
        """Return whether the candidate's reply is counted with it: equal texts share one."""
        return bool(self._first[number])
