"""Pairs as tokens, and batches of them with each clip once.

B pairs, R = 2B rows (chosen, then rejected), T tokens, P prompt tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dpo_video.core.records import Pair
from dpo_video.models.collate import TokenRow, collate
from dpo_video.models.encoded_clip import EncodedClip
from dpo_video.models.families import ClipFeatures
from dpo_video.models.hearing import feature_rows
from dpo_video.models.load import Policy
from dpo_video.models.prompts import ClipInputs, Prompt, answer_ids, encode_prompt
from dpo_video.train.prefetch import ClipPrefetcher
from dpo_video.video import clip_key, rejected_clip_key


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTokens:
    """A pair whose answers are token ids, end of turn included where they ended; its prompt needs
    the clip's size.
    """

    pair: Pair
    clip: str
    """The clip's key."""
    rejected_clip: str
    """The key of the clip that the rejected answer goes with; mostly the same."""
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    @property
    def clips(self) -> tuple[str, ...]:
        """The clips that its rows need: one, or two."""
        return (self.clip,) if self.rejected_clip == self.clip else (self.clip, self.rejected_clip)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairBatch:
    """What a batch is read as: B pairs over fewer clips.

    Three pairs about two clips, the third one's rejected answer written about another clip:

        clips                 [inputs of a.mp4, inputs of b.mp4]
        clip_of_pair          [0, 0, 1]
        rejected_clip_of_pair [0, 0, 0]
        prompts               ["What is cut?" with a, "Who cooks?" with a, "What is cut?" with b]
        rejected_prompts      [the first object again, the second again, "What is cut?" with a]
        pairs                 [PairTokens(chosen=(314, 271, 2), rejected=(161, 2)), ...]
        indices               [0, 1, 3]
        num_requested         4: the pair at position 2 had a clip that cannot be read

    `pair_rows` makes R = 6 rows of it, chosen 0, 1, 2, then rejected 0, 1, 2. `loss_inputs` pads
    them on the right. With 5 tokens before the answers of the first pair, their rows are

        input_ids        [[1, 9, 9, 9, 57, 314, 271, 2], ..., [1, 9, 9, 9, 57, 161, 2, 0], ...]
        completion_mask  [[0, 0, 0, 0,  0,   1,   1, 1], ..., [0, 0, 0, 0,  0,   1, 1, 0], ...]

    where 9 is the placeholder of a video token and the padding is 0.
    """

    clips: Sequence[ClipInputs]
    """Each clip once."""
    features: Sequence[ClipFeatures]
    """Of each clip."""
    clip_of_pair: Sequence[int]
    """(B,) positions in `clips`."""
    rejected_clip_of_pair: Sequence[int]
    """(B,) those of the clips that the rejected answers go with."""
    prompts: Sequence[Prompt]
    rejected_prompts: Sequence[Prompt]
    """(B,) the same questions with the clips of the rejected answers."""
    pairs: Sequence[PairTokens]
    indices: Sequence[int]
    """(B,) positions among the pairs asked for; those of a clip that cannot be read are missing."""
    num_requested: int
    """Pairs asked for."""
    waited: float = 0.0
    """Seconds for which reading it had to wait for clips."""


def pair_ids(policy: Policy, pair: Pair) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids of the chosen and the rejected answer; a rejected one that was truncated has
    no end-of-turn token.
    """
    rejected = answer_ids(policy, pair.rejected, ended=pair.rejected_finish != "length")
    return tuple(answer_ids(policy, pair.chosen)), tuple(rejected)


def tokenize_pair(policy: Policy, pair: Pair) -> PairTokens | None:
    """Return a pair's answers as tokens; None when one has no text or both rows are the same:
    nothing is learnt.
    """
    chosen, rejected = pair_ids(policy, pair)
    clip, rejected_clip = clip_key(pair), rejected_clip_key(pair)
    rows_are_equal = clip == rejected_clip and rejected in (chosen, chosen[:-1])
    if not pair.chosen.strip() or not pair.rejected.strip() or rows_are_equal:
        return None
    return PairTokens(
        pair=pair, clip=clip, rejected_clip=rejected_clip, chosen=chosen, rejected=rejected
    )


def read_batch(
    policy: Policy, reader: ClipPrefetcher, pairs: Sequence[PairTokens], *, max_length: int
) -> PairBatch | None:
    """Return a batch of pairs in the order given, without those whose clips cannot be read; None
    when none is left.
    """
    clips: dict[str, EncodedClip] = {}
    indices: list[int] = []
    prompts: list[tuple[Prompt, Prompt]] = []
    waited = reader.waited
    for index, pair in enumerate(pairs):
        encoded = {}
        for key, clip in zip(pair.clips, reader.get(pair.clips), strict=True):
            if clip is not None:
                encoded[key] = clip
        if len(encoded) < len(pair.clips):
            continue
        # features are told apart as objects: a clip that was read again stays the first one
        clips = encoded | clips
        chosen_prompt, rejected_prompt = pair_prompts(
            policy, pair, {key: clips[key].inputs for key in pair.clips}
        )
        assert pair_length(pair, chosen_prompt, rejected_prompt) <= max_length, (
            f"sample {pair.pair.sample_id!r} is longer than {max_length}"
        )
        prompts.append((chosen_prompt, rejected_prompt))
        indices.append(index)
    if not indices:
        return None
    readable = [pairs[index] for index in indices]
    position = {key: position for position, key in enumerate(clips)}
    return PairBatch(
        clips=[clip.inputs for clip in clips.values()],
        features=[clip.features for clip in clips.values()],
        clip_of_pair=[position[pair.clip] for pair in readable],
        rejected_clip_of_pair=[position[pair.rejected_clip] for pair in readable],
        prompts=[chosen_prompt for chosen_prompt, _ in prompts],
        rejected_prompts=[rejected_prompt for _, rejected_prompt in prompts],
        pairs=readable,
        indices=indices,
        num_requested=len(pairs),
        waited=reader.waited - waited,
    )


def pair_prompts(
    policy: Policy, pair: PairTokens, clips: Mapping[str, ClipInputs]
) -> tuple[Prompt, Prompt]:
    """Return a pair's question with the chosen and with the rejected answer's clip; one object
    where it is the same.
    """
    prompts = {key: pair_prompt(policy, pair, clips[key]) for key in pair.clips}
    return prompts[pair.clip], prompts[pair.rejected_clip]


def pair_prompt(policy: Policy, pair: PairTokens, clip: ClipInputs) -> Prompt:
    """Return a pair's question, behind its earlier turns, with a clip."""
    return encode_prompt(policy, pair.pair.prompt, clip, history=pair.pair.history)


def pair_length(pair: PairTokens, prompt: Prompt, rejected_prompt: Prompt) -> int:
    """Return the tokens of the longer of a pair's two rows."""
    return max(
        len(prompt.input_ids) + len(pair.chosen),
        len(rejected_prompt.input_ids) + len(pair.rejected),
    )


def pair_rows(batch: PairBatch, features: Sequence[ClipFeatures]) -> list[TokenRow]:
    """Return the R rows of a batch, chosen answers first, with the features of its clips."""

    def row(prompt: Prompt, clip: int, answer: tuple[int, ...]) -> TokenRow:
        return TokenRow(
            prompt=prompt, clip=batch.clips[clip], features=features[clip], answer=answer
        )

    chosen, rejected = (
        [pair.chosen for pair in batch.pairs],
        [pair.rejected for pair in batch.pairs],
    )
    return [
        *map(row, batch.prompts, batch.clip_of_pair, chosen),
        *map(row, batch.rejected_prompts, batch.rejected_clip_of_pair, rejected),
    ]


def loss_inputs(policy: Policy, rows: Sequence[TokenRow]) -> dict[str, Any]:
    """Return what TRL's loss takes, on the policy's device: padded rows on the right, and `rows`
    for the engine.

    `completion_mask` (R, T): 1 on the answer's tokens, 0 on prompt and padding.
    """
    check_rows(policy, rows)
    # models write into features, so each forward packs its own from `rows`
    batch = collate(policy, rows, "right", with_features=False)
    return {**batch, "completion_mask": completion_mask(rows, batch), "rows": rows}


def completion_mask(rows: Sequence[TokenRow], batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return (R, T) int64, 1 where a row's answer stands."""
    columns = torch.arange(batch["input_ids"].shape[1])
    begins = torch.tensor([len(row.prompt.input_ids) for row in rows])[:, None]
    ends = torch.tensor([len(row) for row in rows])[:, None]
    return ((columns >= begins) & (columns < ends)).long().to(batch["input_ids"].device)


def check_rows(policy: Policy, rows: Sequence[TokenRow]) -> None:
    """Raise unless every row has an answer, and as many video tokens in its text as its clip has
    features.

    transformers compares sums over the batch only, and a forward without features compares nothing:
    it trains blind, on the placeholder's embedding.
    """
    for index, row in enumerate(rows):
        for part in feature_rows(policy.family, policy.bare.config, row.features):
            tokens, features = part.holes(row.prompt.input_ids), part.made
            if tokens != features or not len(row.features):
                raise RuntimeError(
                    f"row {index} of the batch has {tokens} video tokens in its text and "
                    f"{features} features of {part.of}; they must be equal, and more than "
                    "0"
                )
        if not row.answer:
            raise RuntimeError(
                f"row {index} of the batch has no answer token: a log-prob of 0 teaches nothing"
            )
