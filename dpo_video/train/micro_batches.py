"""How the pairs of an optimizer step are split into micro-batches (forwards), and how much each
forward's loss counts.

The split changes neither which pairs a step has nor its loss, only how many tokens are in memory at
a time.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from accelerate.utils import gather_object
from torch import Tensor

from dpo_video.core.errors import UserError
from dpo_video.core.ranks import world_size
from dpo_video.core.turns import whole_question
from dpo_video.models.prompts import Prompt
from dpo_video.train.pair_batches import PairBatch, PairTokens


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MicroBatch:
    """The pairs of one forward."""

    pairs: PairBatch
    weight: float
    """Share of its mean loss in the loss of the batch that it was split from."""


MicroBatchSplitter = Callable[[PairBatch], list[MicroBatch]]


@dataclass(frozen=True, slots=True)
class PairCost:
    """How many tokens a pair adds to a forward, next to other pairs."""

    clip: str
    question: str
    """Earlier turns and the question."""
    prompt: int
    """Tokens before the answer."""
    stem: int
    """Of these, the ones with which all questions about the clip begin."""
    answers: tuple[tuple[int, ...], ...]
    """Both; only the chosen one where the rejected one goes with another clip."""
    rejected: "PairCost | None" = None
    """The rejected answer's, where it goes with another clip."""

    @property
    def by_clip(self) -> tuple["PairCost", ...]:
        """The pair itself, and the rejected answer's cost where it has a clip of its own."""
        return (self,) if self.rejected is None else (self, self.rejected)

    @property
    def row_length(self) -> int:
        """Tokens of the longer of its two rows."""
        return max(cost.prompt + max(map(len, cost.answers)) for cost in self.by_clip)


def single_micro_batch(pairs: PairBatch) -> list[MicroBatch]:
    """Return a batch as one forward."""
    return [MicroBatch(pairs=pairs, weight=1.0)]


def split_by_tokens(
    budget: int, *, shared: bool, batch_size: int, agree: bool = True
) -> MicroBatchSplitter:
    """Return the split by `train.tokens_per_batch`: forwards of at most `budget` tokens, as few as
    come greedily.

    Pairs of a clip stay together and clips of similar length meet. With several processes all make
    the same split, of equally many pairs in each forward, because TRL gathers metrics per forward.

    Args:
        shared: count what answers have in common once; otherwise each row counts as much as the
            longest.
        batch_size: `train.batch_size`, which decides what each pair counts for.
        agree: False where only this process works, or where each may split in its own way.
    """

    def split_batch(pairs: PairBatch) -> list[MicroBatch]:
        weights = pair_weights(pairs, batch_size)
        costs = pair_costs(pairs)
        longest: dict[str, int] = {}  # row of each clip
        for cost in costs:
            longest[cost.clip] = max(longest.get(cost.clip, 0), cost.row_length)

        def sort_key(index: int) -> tuple[float, int, str, str, int]:
            cost = costs[index]
            return weights[index], longest[cost.clip], cost.clip, cost.question, index

        micro_batches = []
        by_weight = groupby(sorted(range(len(costs)), key=sort_key), key=weights.__getitem__)
        for weight, group in by_weight:
            indices = list(group)
            group_costs = [costs[index] for index in indices]
            by_process = (
                gather_object([group_costs]) if agree and world_size() > 1 else [group_costs]
            )
            begin = 0
            for count in micro_batch_sizes(by_process, budget=budget, shared=shared):
                members = indices[begin : begin + count]
                micro_batches.append(
                    MicroBatch(pairs=subset(pairs, members), weight=weight * count)
                )
                begin += count
        return micro_batches

    return split_batch


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
        for costs in by_process:
            _check_fits(costs[end - 1], budget=budget, shared=shared)
        tokens = max(forward_tokens(costs[begin:end], shared=shared) for costs in by_process)
        if tokens > budget:
            counts.append(end - 1 - begin)
            begin = end - 1
    return [*counts, total - begin] if total else []


def _check_fits(cost: PairCost, *, budget: int, shared: bool) -> None:
    """Raise UserError for a pair that is over the budget alone."""
    tokens = forward_tokens([cost], shared=shared)
    if tokens > budget:
        raise UserError(
            f"a pair about clip {cost.clip!r} takes {tokens} tokens, more than "
            f"train.tokens_per_batch {budget}. Raise it, or lower video.max_tokens (or "
            "video.max_pixels, or the number of frames)"
        )


def forward_tokens(pair_costs: Sequence[PairCost], *, shared: bool) -> int:
    """Return the tokens of a forward over pairs: of the trees of their clips, or of their rows with
    padding.

    The trees' number is that of shared_prefix/tree.py within a few tokens per answer: answers that
    begin alike share more, and forks that save next to nothing are not made there.
    """
    if not shared:
        return 2 * len(pair_costs) * max((cost.row_length for cost in pair_costs), default=0)
    stems: dict[str, int] = {}
    questions: dict[tuple[str, str], int] = {}
    answers: set[tuple[str, str, tuple[int, ...]]] = set()
    for pair_cost in pair_costs:
        for cost in pair_cost.by_clip:
            stems[cost.clip] = cost.stem
            questions[cost.clip, cost.question] = cost.prompt - cost.stem
            answers.update((cost.clip, cost.question, answer) for answer in cost.answers)
    num_answer_tokens = sum(len(answer) for _, _, answer in answers)
    return sum(stems.values()) + sum(questions.values()) + num_answer_tokens


def pair_costs(pairs: PairBatch) -> list[PairCost]:
    """Return what each pair of a batch costs."""
    stems: dict[str, tuple[Tensor, int]] = {}
    rows = list(zip(pairs.pairs, pairs.prompts, pairs.rejected_prompts, strict=True))
    for pair, chosen_prompt, rejected_prompt in rows:
        for clip, prompt in ((pair.clip, chosen_prompt), (pair.rejected_clip, rejected_prompt)):
            ids = prompt.input_ids
            first_ids, stem = stems.get(clip, (ids, len(ids)))
            stems[clip] = first_ids, min(stem, _common_length(first_ids, ids))

    def cost(clip: str, prompt: Prompt, pair: PairTokens, *answers: tuple[int, ...]) -> PairCost:
        return PairCost(
            clip=clip,
            question=whole_question(pair.pair),
            prompt=len(prompt.input_ids),
            stem=stems[clip][1],
            answers=answers,
        )

    costs = []
    for pair, chosen_prompt, rejected_prompt in rows:
        if pair.clip == pair.rejected_clip:
            costs.append(cost(pair.clip, chosen_prompt, pair, pair.chosen, pair.rejected))
        else:
            rejected = cost(pair.rejected_clip, rejected_prompt, pair, pair.rejected)
            chosen = cost(pair.clip, chosen_prompt, pair, pair.chosen)
            costs.append(replace(chosen, rejected=rejected))
    return costs


def pair_weights(pairs: PairBatch, batch_size: int) -> list[float]:
    """Return what each pair counts for in a step's loss under the plain split by `batch_size`, as
    TRL averages it.

    Each forward counts the same, also a short last one and one that lost pairs of a clip that
    cannot be read.
    """
    num_forwards = -(-pairs.num_requested // batch_size)
    forwards = [index // batch_size for index in pairs.indices]
    num_pairs = Counter(forwards)
    return [1 / (num_forwards * num_pairs[forward]) for forward in forwards]


def subset(pairs: PairBatch, members: Sequence[int]) -> PairBatch:
    """Return the pairs at some positions of a batch, with their clips."""
    clips: dict[int, int] = {}  # position in the batch -> in the subset
    for member in members:
        for clip in (pairs.clip_of_pair[member], pairs.rejected_clip_of_pair[member]):
            clips.setdefault(clip, len(clips))
    return PairBatch(
        clips=[pairs.clips[clip] for clip in clips],
        features=[pairs.features[clip] for clip in clips],
        clip_of_pair=[clips[pairs.clip_of_pair[member]] for member in members],
        rejected_clip_of_pair=[clips[pairs.rejected_clip_of_pair[member]] for member in members],
        prompts=[pairs.prompts[member] for member in members],
        rejected_prompts=[pairs.rejected_prompts[member] for member in members],
        pairs=[pairs.pairs[member] for member in members],
        indices=[pairs.indices[member] for member in members],
        num_requested=pairs.num_requested,
    )


def rows_tokens(pairs: PairBatch) -> int:
    """Return the tokens of a batch's rows, each answer with its own copy of the prompt, without
    padding.
    """
    prompts = sum(len(prompt.input_ids) for prompt in (*pairs.prompts, *pairs.rejected_prompts))
    return prompts + sum(len(pair.chosen) + len(pair.rejected) for pair in pairs.pairs)


def _common_length(ids: Tensor, other_ids: Tensor) -> int:
    """Return how many tokens two rows have in common at their beginning."""
    length = min(len(ids), len(other_ids))
    differs = (ids[:length] != other_ids[:length]).nonzero()
    return int(differs[0]) if len(differs) else length
