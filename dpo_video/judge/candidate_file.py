"""The candidates of a file without holding them: where each line is, and in which order a judge is
asked about them.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpo_video.core.control_tokens import NO_TOKENS, ControlTokens
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import json_object, read_lines, read_places
from dpo_video.core.records import Candidate, Sample
from dpo_video.data.answer_filters import AnswerPlan
from dpo_video.judge.prompt import question_of
from dpo_video.judge.reply_keys import Keys, KeysOfSample
from dpo_video.recipe import CleanSettings

EDITED = (
    "The file was changed since it was written: delete it, and `dpo-video generate RECIPE` writes "
    "it again from the answers that are stored"
)


@dataclass(frozen=True, kw_only=True)
class CandidateFile:
    """12 bytes a candidate: the rest stays on disk."""

    path: Path
    samples: Mapping[str, Sample]
    ranks: Mapping[str, int]
    """Place of each sample id when samples of one caption, then question, stand side by side."""
    offsets: "array[int]"
    """Byte at which each candidate's line begins."""
    order: "array[int]"
    """Numbers of the candidates, those of one caption, then question, side by side."""
    plan: AnswerPlan
    """What is done about each candidate: judged, or by another's judgment, or dropped."""
    keys: Keys = field(default_factory=Keys)
    """The keys of their replies, where one reply judges a candidate."""

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def used(self) -> Iterator[Sample]:
        """The samples that have candidates."""
        return (self.samples[sample_id] for sample_id in self.ranks)

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
                lines.seek(self.offsets[number])
                candidate = Candidate(
                    **json_object(lines.readline(), str(self.path))
                )  # fields were checked at first
                yield number, self.samples[candidate.sample_id], candidate


def open_candidates(
    path: Path,
    samples: Iterable[Sample],
    clean: CleanSettings,
    *,
    keys_of: KeysOfSample | None = None,
    tokens: ControlTokens = NO_TOKENS,
) -> CandidateFile:
    """Read once through a candidates file; UserError where it is wrong, empty, or answers other
    samples.

    An answer with one of the policy's control `tokens` is not judged: it could not be trained on.
    With `keys_of` (see `answer_keys`) the keys of those that are judged are made on the way.
    """
    samples_by_id = {sample.id: sample for sample in samples}
    offsets, plan, keys = array("q"), AnswerPlan(), Keys(keys_of=keys_of)
    appeared: dict[str, int] = {}
    id_hashes = array("q")
    question_of_block, block_ends = array("i"), array("i")
    for sample_id, rows in groupby(read_places(path, Candidate), key=lambda row: row[1].sample_id):
        block = []  # candidates of one question that stand side by side
        for offset, candidate in rows:
            offsets.append(offset)
            id_hashes.append(hash(candidate.id))
            block.append(candidate)
        if sample_id not in samples_by_id:
            line = next(line for line, row in read_lines(path, Candidate) if row == block[0])
            raise UserError(
                f"{path}:{line}: candidate {block[0].id!r} answers sample {sample_id!r}, which is "
                "not among data.samples. Make the candidates again: dpo-video generate RECIPE"
            )
        question_of_block.append(appeared.setdefault(sample_id, len(appeared)))
        block_ends.append(len(offsets))
        plan.add(block, clean, tokens)
        keys.add(samples_by_id[sample_id], block, plan)
    if not offsets:
        raise UserError(
            f"no candidates in {str(path)!r}; make them first: dpo-video generate RECIPE"
        )
    _check_doubled(path, np.frombuffer(id_hashes, np.int64))
    ranks = caption_ranks(samples_by_id[sample_id] for sample_id in appeared)
    question_ranks = [ranks[sample_id] for sample_id in appeared]
    order = array("i")
    for index in sorted(
        range(len(block_ends)), key=lambda index: question_ranks[question_of_block[index]]
    ):
        order.extend(range(block_ends[index - 1] if index else 0, block_ends[index]))
    return CandidateFile(
        path=path,
        samples=samples_by_id,
        ranks=ranks,
        offsets=offsets,
        order=order,
        plan=plan,
        keys=keys,
    )


def _check_doubled(path: Path, id_hashes: NDArray[np.int64]) -> None:
    """Raise UserError where two rows have one id; only hashes of ids are held, 8 bytes each."""
    ordered = np.sort(id_hashes)
    suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not suspects:
        return
    line_of: dict[str, int] = {}
    for line, candidate in read_lines(path, Candidate):
        if candidate.id in line_of:
            raise UserError(
                f"{path}:{line}: candidate {candidate.id!r} stands in line "
                f"{line_of[candidate.id]} already. {EDITED}"
            )
        if hash(candidate.id) in suspects:
            line_of[candidate.id] = line


def caption_ranks(samples: Iterable[Sample]) -> dict[str, int]:
    """Return each sample id's rank when those of one caption, then question, stand side by side,
    first come first.

    Servers then reuse the prompt up to the answer: the caption and the question stand before it.
    """
    unique = list({sample.id: sample for sample in samples}.values())
    captions: dict[str | None, int] = {}
    questions: dict[tuple[str | None, str], int] = {}
    for index, sample in enumerate(unique):
        captions.setdefault(sample.caption, index)
        questions.setdefault((sample.caption, question_of(sample)), index)
    unique.sort(
        key=lambda sample: (
            captions[sample.caption],
            questions[sample.caption, question_of(sample)],
        )
    )
    return {sample.id: rank for rank, sample in enumerate(unique)}
