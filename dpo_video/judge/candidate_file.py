"""The candidates of a file without holding them: where each line is, and in which order a judge is
asked about them.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import json_object, read_places
from dpo_video.core.records import Candidate, Sample
from dpo_video.data.answer_filters import AnswerPlan
from dpo_video.judge.reply_keys import Keys
from dpo_video.recipe import CleanSettings


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
    """Numbers of the candidates, those of one caption, then question, side by side."""

    def __len__(self) -> int:
        return len(self.places)

    @property
    def used(self) -> Iterator[Sample]:
        """The samples that have candidates."""
        return (self.samples[name] for name in self.ranks)

    def in_order(self) -> Iterator[tuple[int, Sample, Candidate]]:
        """Yield each candidate with its number and sample as the file has them."""
        return self.read(range(len(self)))

    def numbered(self, number: int) -> Candidate:
        """Return one candidate."""
        return next(candidate for _, _, candidate in self.read([number]))

    def read(self, numbers: Iterable[int]) -> Iterator[tuple[int, Sample, Candidate]]:
        """Yield the candidates of these numbers, each with its number and sample."""
        with self.path.open("rb") as lines:
            for number in numbers:
                lines.seek(self.places[number])
                candidate = Candidate(
                    **json_object(lines.readline(), str(self.path))
                )  # fields were checked at first
                yield number, self.samples[candidate.sample_id], candidate


def open_candidates(
    path: Path, samples: Iterable[Sample], clean: CleanSettings, *, keys: Keys | None = None
) -> tuple[CandidateFile, AnswerPlan]:
    """Read once through a candidates file; UserError where it is wrong, empty, or answers other
    samples.

    The screening says which candidates are judged; `keys` gains the keys of those.
    """
    known = {sample.id: sample for sample in samples}
    places, screening, appeared = array("q"), AnswerPlan(), dict[str, int]()
    of_question, ends = (
        array("i"),
        array("i"),
    )  # one each for candidates of one question that stand side by side
    for name, group in groupby(read_places(path, Candidate), key=lambda row: row[1].sample_id):
        question = []
        for place, candidate in group:
            places.append(place)
            question.append(candidate)
        if name not in known:
            raise UserError(
                f"candidate {question[0].id!r} answers sample {name!r}, which is not among "
                f"data.samples. "
                "Make the candidates again: dpo-video generate RECIPE"
            )
        of_question.append(appeared.setdefault(name, len(appeared)))
        ends.append(len(places))
        screening.add(question, clean)
        if keys is not None:
            keys.add(known[name], question, screening)
    if not places:
        raise UserError(
            f"no candidates in {str(path)!r}; make them first: dpo-video generate RECIPE"
        )
    ranks = caption_ranks(known[name] for name in appeared)
    rank_of = [ranks[name] for name in appeared]
    order = array("i")
    for block in sorted(range(len(ends)), key=lambda block: rank_of[of_question[block]]):
        order.extend(range(ends[block - 1] if block else 0, ends[block]))
    return CandidateFile(
        path=path, samples=known, ranks=ranks, places=places, order=order
    ), screening


def caption_ranks(samples: Iterable[Sample]) -> dict[str, int]:
    """Return each sample id's place when those of one caption, then question, stand side by side,
    first come first.

    Servers then reuse the prompt up to the answer: the caption and the question stand before it.
    """
    rows = list({sample.id: sample for sample in samples}.values())
    first: dict[tuple[str, ...], int] = {}
    for number, sample in enumerate(rows):
        first.setdefault((sample.caption,), number)
        first.setdefault((sample.caption, sample.prompt), number)
    rows.sort(key=lambda sample: (first[sample.caption,], first[sample.caption, sample.prompt]))
    return {sample.id: rank for rank, sample in enumerate(rows)}
