"""Which pairs can be trained on: texts that differ, clips that can be read, rows that fit; the rest
is counted.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dpo_video.core.errors import UserError
from dpo_video.core.progress import progress
from dpo_video.core.records import Pair
from dpo_video.models.clip_source import open_source
from dpo_video.models.load import Policy
from dpo_video.models.prompts import clip_content, encode_prompt, prompt_text
from dpo_video.models.tokens import token_budget, video_tokens
from dpo_video.recipe import Recipe, VideoSettings
from dpo_video.train.pair_batches import PairTokens, tokenize_pair
from dpo_video.train.prefetch import OnBadClip
from dpo_video.video import (
    ClipRequest,
    VideoError,
    clip_key,
    clip_request,
    rejected_clip_key,
    rejected_clip_request,
)

LARGE = 8192
"""Pixels on a side, more than any checkpoint lets a frame keep."""
SLACK = 1.1
"""A frame of another shape than a square may keep slightly more tokens; families may add marks
around them.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The pairs to train on, how to read their clips, and why the others were left out."""

    places: list[int]
    """Positions of `pairs` in pairs.jsonl."""
    pairs: list[PairTokens]
    requests: dict[str, ClipRequest]
    """By the clip's key."""
    dropped: dict[str, int]
    """Pairs left out, by reason."""


def select_pairs(
    policy: Policy, recipe: Recipe, pairs: Sequence[Pair], *, root: Path, on_bad_clip: OnBadClip
) -> Selection:
    """Return the pairs that can be trained on, in their order.

    Clips are decoded here only where a row could be longer than `train.max_length` or the model's
    context.

    Args:
        root: where relative video paths start.
        on_bad_clip: told of each clip that cannot be read.
    """
    dropped: Counter[str] = Counter()
    kept: dict[int, PairTokens] = {}
    requests = _requests(pairs, root, on_bad_clip)
    for place, pair in enumerate(pairs):
        tokens = tokenize_pair(policy, pair)
        if clip_key(pair) not in requests or rejected_clip_key(pair) not in requests:
            dropped["clip_unreadable"] += 1
        elif tokens is None:
            dropped["answers_empty_or_equal"] += 1
        else:
            kept[place] = tokens
    limit = length_limit(policy, recipe)
    if any(_longest_possible(policy, recipe.video, pair) > limit for pair in kept.values()):
        lengths = _lengths(policy, recipe, list(kept.values()), requests, on_bad_clip=on_bad_clip)
        dropped["clip_unreadable"] += sum(length is None for length in lengths)
        dropped["longer_than_max_length"] += sum(
            length is not None and length > limit for length in lengths
        )
        kept = {
            place: pair
            for (place, pair), length in zip(kept.items(), lengths, strict=True)
            if length is not None and length <= limit
        }
    return _selection(kept, requests, {reason: count for reason, count in dropped.items() if count})


def read_selection(
    policy: Policy,
    pairs: Sequence[Pair],
    *,
    root: Path,
    places: Sequence[int],
    dropped: dict[str, int],
) -> Selection:
    """Return a selection that was made before, from the positions it kept."""
    kept = {place: tokenize_pair(policy, pairs[place]) for place in places}
    requests = {
        clip: _request(pairs[place], clip, root)
        for place in places
        for clip in _clips(pairs[place])
    }
    return _selection(
        {place: pair for place, pair in kept.items() if pair is not None}, requests, dropped
    )


def without_clips(selection: Selection, clips: Collection[str]) -> Selection:
    """Return a selection without the pairs of some clips."""
    kept = {
        place: pair
        for place, pair in zip(selection.places, selection.pairs, strict=True)
        if not any(clip in clips for clip in pair.clips)
    }
    lost = len(selection.pairs) - len(kept)
    return _selection(
        kept,
        selection.requests,
        selection.dropped | ({"clip_failed_in_training": lost} if lost else {}),
    )


def _selection(
    kept: Mapping[int, PairTokens], requests: Mapping[str, ClipRequest], dropped: dict[str, int]
) -> Selection:
    used = {clip for pair in kept.values() for clip in pair.clips}
    return Selection(
        places=list(kept),
        pairs=list(kept.values()),
        dropped=dropped,
        requests={clip: request for clip, request in requests.items() if clip in used},
    )


def _requests(pairs: Sequence[Pair], root: Path, on_bad_clip: OnBadClip) -> dict[str, ClipRequest]:
    requests: dict[str, ClipRequest] = {}
    for clip, one in {clip: pair for pair in pairs for clip in _clips(pair)}.items():
        try:
            requests[clip] = _request(one, clip, root)
        except VideoError as error:  # an address
            on_bad_clip(clip, error)
    return requests


def _clips(pair: Pair) -> set[str]:
    return {clip_key(pair), rejected_clip_key(pair)}


def _request(pair: Pair, clip: str, root: Path) -> ClipRequest:
    return (clip_request if clip == clip_key(pair) else rejected_clip_request)(pair, root)


def length_limit(policy: Policy, recipe: Recipe) -> int:
    """Return the most tokens that a row may have: `train.max_length`, at most the model's
    context.
    """
    context = policy.family.context_length(policy.bare.config)
    return min(recipe.train.max_length or context, context)


def _longest_possible(policy: Policy, settings: VideoSettings, pair: PairTokens) -> float:
    """Return a bound on a pair's length that needs no decoding."""
    frames = settings.num_frames if settings.policy == "uniform" else settings.max_frames
    clip = video_tokens(policy.spec, settings, num_frames=frames, height=LARGE, width=LARGE) * SLACK
    budget = token_budget(policy.spec, settings)
    if budget is not None:
        clip = min(clip, budget * SLACK)
    content = clip_content(policy.family, frames)
    text = policy.processor.tokenizer(prompt_text(policy.processor, pair.pair.prompt, content))[
        "input_ids"
    ]
    return clip + len(text) + max(len(pair.chosen), len(pair.rejected))


def _lengths(
    policy: Policy,
    recipe: Recipe,
    pairs: Sequence[PairTokens],
    requests: Mapping[str, ClipRequest],
    *,
    on_bad_clip: OnBadClip,
) -> list[int | None]:
    """Return each pair's length in tokens, None where one of its clips cannot be read; each is
    decoded once.
    """
    rows: dict[str, list[tuple[int, int]]] = defaultdict(
        list
    )  # by clip: which pair, and the tokens of its answer
    for place, pair in enumerate(pairs):
        if pair.clip == pair.rejected_clip:
            rows[pair.clip].append((place, max(len(pair.chosen), len(pair.rejected))))
        else:
            rows[pair.clip].append((place, len(pair.chosen)))
            rows[pair.rejected_clip].append((place, len(pair.rejected)))
    lengths: dict[int, list[int]] = defaultdict(list)
    with (
        open_source(policy, recipe) as source,
        progress("measure clips", total=len(rows)) as advance,
    ):
        for request, clip in source.map([requests[clip] for clip in sorted(rows)]):
            if isinstance(clip, UserError):
                on_bad_clip(request.key, clip)
            else:
                if recipe.video.cache == "features":
                    source.encode(clip)  # so that it is not decoded again
                for place, answer in rows[request.key]:
                    prompt = encode_prompt(policy, pairs[place].pair.prompt, clip.inputs)
                    lengths[place].append(len(prompt.input_ids) + answer)
            advance()
    return [
        max(lengths[place]) if len(lengths[place]) == len(pair.clips) else None
        for place, pair in enumerate(pairs)
    ]
