"""How the pairs of an optimizer step are cut into forwards, and how much each forward's loss
counts.

The cut changes neither which pairs a step has nor its loss, only how many tokens are in memory at a
time.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from accelerate.utils import gather_object
from torch import Tensor

from dpo_video.core.errors import UserError
from dpo_video.core.ranks import world_size
from dpo_video.models.prompts import Prompt
from dpo_video.train.pair_batches import PairBatch, PairTokens


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MicroBatch:
    """The pairs of one forward."""

    pairs: PairBatch
    weight: float
    """Share of its mean loss in the loss of the batch that it was cut from."""


MicroBatchSplitter = Callable[[PairBatch], list[MicroBatch]]


@dataclass(frozen=True, slots=True)
class PairCost:
    """What a pair costs, beside others."""

    clip: str
    question: str
    prompt: int
    """Tokens before the answer."""
    stem: int
    """Of these, the ones with which all questions about the clip begin."""
    answers: tuple[tuple[int, ...], ...]
    """Both; only the chosen one where the rejected one goes with another clip."""
    other: "PairCost | None" = None
    """The rejected answer's, where it goes with another clip."""

    @property
    def parts(self) -> tuple["PairCost", ...]:
        """By clip."""
        return (self,) if self.other is None else (self, self.other)


def single_micro_batch(pairs: PairBatch) -> list[MicroBatch]:
    """Return a batch as one forward."""
    return [MicroBatch(pairs=pairs, weight=1.0)]


def split_by_tokens(
    budget: int, *, shared: bool, batch_size: int, agree: bool = True
) -> MicroBatchSplitter:
    """Return the cut by `train.tokens_per_batch`: forwards of at most `budget` tokens, as few as
    come greedily.

    Pairs of a clip stay together and clips of similar length meet. With several processes all make
    the same cut, of equally many pairs in each forward, because TRL gathers metrics per forward.

    Args:
        shared: count what answers have in common once; otherwise each row counts as much as the
            longest.
        batch_size: `train.batch_size`, which decides what each pair counts for.
        agree: False where only this process works, or where each may make a cut of its own.
    """

    def cut(pairs: PairBatch) -> list[MicroBatch]:
        weights = pair_weights(pairs, batch_size)
        sizes = pair_costs(pairs)
        longest: dict[str, int] = {}
        for size in sizes:
            longest[size.clip] = max(longest.get(size.clip, 0), _row(size))
        order = sorted(
            range(len(sizes)),
            key=lambda place: (
                weights[place],
                longest[sizes[place].clip],
                sizes[place].clip,
                sizes[place].question,
                place,
            ),
        )
        made = []
        for weight, group in groupby(order, key=lambda place: weights[place]):
            places = list(group)
            own = [sizes[place] for place in places]
            everyone = gather_object([own]) if agree and world_size() > 1 else [own]
            begin = 0
            for count in micro_batch_sizes(everyone, budget=budget, shared=shared):
                some = places[begin : begin + count]
                made.append(MicroBatch(pairs=subset(pairs, some), weight=weight * count))
                begin += count
        return made

    return cut


def micro_batch_sizes(
    by_process: Sequence[Sequence[PairCost]], *, budget: int, shared: bool
) -> list[int]:
    """Return how many pairs each forward takes, in order, so that no process has more than `budget`
    tokens in one.

    Raises UserError for a pair that is over the budget alone.
    """
    counts: list[int] = []
    begin, total = 0, len(by_process[0])
    for end in range(1, total + 1):
        for sizes in by_process:
            alone = forward_tokens(sizes[end - 1 : end], shared=shared)
            if alone > budget:
                raise UserError(
                    f"a pair about clip {sizes[end - 1].clip!r} takes {alone} tokens, more than "
                    f"train.tokens_per_batch {budget}. Raise it, or lower video.max_tokens (or "
                    "video.max_pixels, or the number of frames)"
                )
        if any(forward_tokens(sizes[begin:end], shared=shared) > budget for sizes in by_process):
            counts.append(end - 1 - begin)
            begin = end - 1
    return [*counts, total - begin] if total else []


def forward_tokens(sizes: Sequence[PairCost], *, shared: bool) -> int:
    """Return the tokens of a forward over pairs: of the trees of their clips, or of their rows with
    padding.

    The trees' number is that of shared_prefix.py within a few tokens per answer: answers that begin
    alike share more, and forks that save next to nothing are not made there.
    """
    if not shared:
        return 2 * len(sizes) * max(map(_row, sizes), default=0)
    parts = [part for size in sizes for part in size.parts]
    stems = {part.clip: part.stem for part in parts}
    questions = {(part.clip, part.question): part.prompt - part.stem for part in parts}
    answers = {(part.clip, part.question, answer) for part in parts for answer in part.answers}
    return (
        sum(stems.values()) + sum(questions.values()) + sum(len(answer) for _, _, answer in answers)
    )


def pair_costs(pairs: PairBatch) -> list[PairCost]:
    """Return what each pair of a batch costs."""
    stems: dict[str, tuple[Tensor, int]] = {}
    every = list(zip(pairs.pairs, pairs.prompts, pairs.rejected_prompts, strict=True))
    for pair, *prompts in every:
        for clip, prompt in zip((pair.clip, pair.rejected_clip), prompts, strict=True):
            ids = prompt.input_ids
            first, stem = stems.get(clip, (ids, len(ids)))
            stems[clip] = first, min(stem, _common(first, ids))

    def size(clip: str, prompt: Prompt, pair: PairTokens, *answers: tuple[int, ...]) -> PairCost:
        return PairCost(
            clip=clip,
            question=pair.pair.prompt,
            prompt=len(prompt.input_ids),
            stem=stems[clip][1],
            answers=answers,
        )

    return [
        size(pair.clip, prompt, pair, pair.chosen, pair.rejected)
        if pair.clip == pair.rejected_clip
        else replace(
            size(pair.clip, prompt, pair, pair.chosen),
            other=size(pair.rejected_clip, rejected_prompt, pair, pair.rejected),
        )
        for pair, prompt, rejected_prompt in every
    ]


def pair_weights(pairs: PairBatch, batch_size: int) -> list[float]:
    """Return what each pair counts for in a step's loss under the plain cut by `batch_size`, as TRL
    averages it.

    Each forward counts the same, also a short last one and one that lost pairs of a clip that
    cannot be read.
    """
    forwards = -(-pairs.num_asked // batch_size)
    left = Counter(place // batch_size for place in pairs.places)
    return [1 / (forwards * left[place // batch_size]) for place in pairs.places]


def subset(pairs: PairBatch, places: Sequence[int]) -> PairBatch:
    """Return the pairs at some places of a batch, with their clips."""
    clips = list(
        dict.fromkeys(
            clip
            for place in places
            for clip in (pairs.clip_of_pair[place], pairs.rejected_clip_of_pair[place])
        )
    )
    return PairBatch(
        clips=[pairs.clips[clip] for clip in clips],
        features=[pairs.features[clip] for clip in clips],
        clip_of_pair=[clips.index(pairs.clip_of_pair[place]) for place in places],
        rejected_clip_of_pair=[clips.index(pairs.rejected_clip_of_pair[place]) for place in places],
        prompts=[pairs.prompts[place] for place in places],
        rejected_prompts=[pairs.rejected_prompts[place] for place in places],
        pairs=[pairs.pairs[place] for place in places],
        places=[pairs.places[place] for place in places],
        num_asked=pairs.num_asked,
    )


def rows_tokens(pairs: PairBatch) -> int:
    """Return the tokens of a batch's rows, each answer with its own copy of the prompt, without
    padding.
    """
    prompts = sum(len(prompt.input_ids) for prompt in (*pairs.prompts, *pairs.rejected_prompts))
    return prompts + sum(len(pair.chosen) + len(pair.rejected) for pair in pairs.pairs)


def _row(size: PairCost) -> int:
    return max(part.prompt + max(map(len, part.answers)) for part in size.parts)


def _common(one: Tensor, other: Tensor) -> int:
    length = min(len(one), len(other))
    differs = (one[:length] != other[:length]).nonzero()
    return int(differs[0]) if len(differs) else length
