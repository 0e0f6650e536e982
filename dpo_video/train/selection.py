"""Which pairs can be trained on: texts that differ, clips that can be read, rows that fit; the rest
is counted.
"""

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dpo_video.core.errors import UserError
from dpo_video.core.progress import progress
from dpo_video.core.records import Pair
from dpo_video.core.turns import texts_before
from dpo_video.models.clip_source import open_source
from dpo_video.models.hearing import hearing_of
from dpo_video.models.load import Policy
from dpo_video.models.prompts import check_turns, clip_content, prompt_text
from dpo_video.models.tokens import token_budget, video_tokens
from dpo_video.recipe import Recipe, VideoSettings
from dpo_video.run import Run
from dpo_video.train.pair_batches import PairTokens, pair_prompt, tokenize_pair
from dpo_video.train.prefetch import OnBadClip
from dpo_video.video import (
    ClipRequest,
    VideoError,
    clip_key,
    clip_request,
    rejected_clip_key,
    rejected_clip_request,
)
from dpo_video.video.sources import check_inside

log = logging.getLogger(__name__)

LARGE = 8192
"""Pixels on a side, more than any checkpoint lets a frame keep."""
SLACK = 1.1
"""A frame of another shape than a square may keep slightly more tokens; families may add marks
around them.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The pairs to train on, how to read their clips, and why the others were left out."""

    indices: list[int]
    """Positions of `pairs` in pairs.jsonl."""
    pairs: list[PairTokens]
    requests: dict[str, ClipRequest]
    """By the clip's key."""
    dropped: dict[str, int]
    """Pairs left out, by reason."""


def check_clips_inside(run: Run, pairs: Iterable[Pair]) -> None:
    """Raise UserError for the first pair of pairs.jsonl whose clip lies outside of
    `data.video_root`.
    """
    if run.recipe.data.outside_root:
        return
    for number, pair in enumerate(pairs, 1):
        where = f"{run.folder / 'pairs.jsonl'}:{number}"
        check_inside(pair.video, run.video_root, where)
        check_inside(pair.rejected_video or [], run.video_root, where)


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
    if any(pair.history for pair in pairs):
        check_turns(policy.processor, policy.family, policy.settings.name)
    dropped: Counter[str] = Counter()
    usable: dict[int, PairTokens] = {}  # by position in `pairs`
    requests = clip_requests(pairs, root, on_bad_clip)
    for index, pair in enumerate(pairs):
        token = _control_token(policy, pair)
        if token is not None:
            dropped["control_token"] += 1
            log.warning("pairs.jsonl:%d: not trained on: %s is a control token", index + 1, token)
            continue
        tokens = tokenize_pair(policy, pair)
        if clip_key(pair) not in requests or rejected_clip_key(pair) not in requests:
            dropped["clip_unreadable"] += 1
        elif tokens is None:
            dropped["answers_empty_or_equal"] += 1
        else:
            usable[index] = tokens
    limit = length_limit(policy, recipe)
    if any(_longest_possible(policy, recipe.video, pair) > limit for pair in usable.values()):
        lengths = _lengths(policy, recipe, list(usable.values()), requests, on_bad_clip=on_bad_clip)
        for index, length in zip(list(usable), lengths, strict=True):
            if length is None:
                dropped["clip_unreadable"] += 1
                del usable[index]
            elif length > limit:
                dropped["longer_than_max_length"] += 1
                del usable[index]
    return _selection(usable, requests, dict(dropped))


def _control_token(policy: Policy, pair: Pair) -> str | None:
    """Return the first control token in a pair's texts, but for an end token that closes an
    answer.
    """
    tokens = policy.control_tokens
    answers = (tokens.without_end(pair.chosen), tokens.without_end(pair.rejected))
    texts = (*texts_before(pair.history).values(), pair.prompt, *answers)
    return next(filter(None, map(tokens.first_in, texts)), None)


def read_selection(
    policy: Policy,
    pairs: Sequence[Pair],
    *,
    root: Path,
    indices: Sequence[int],
    dropped: dict[str, int],
) -> Selection:
    """Return a selection that was made before, from the positions of its pairs."""
    selected: dict[int, PairTokens] = {}
    requests: dict[str, ClipRequest] = {}
    for index in indices:
        tokens = tokenize_pair(policy, pairs[index])
        if tokens is not None:
            selected[index] = tokens
            requests |= {clip: _request(pairs[index], clip, root) for clip in _clips(pairs[index])}
    return _selection(selected, requests, dropped)


def without_clips(selection: Selection, clips: Collection[str]) -> Selection:
    """Return a selection without the pairs of some clips."""
    selected: dict[int, PairTokens] = {}
    for index, pair in zip(selection.indices, selection.pairs, strict=True):
        if not any(clip in clips for clip in pair.clips):
            selected[index] = pair
    num_lost = len(selection.pairs) - len(selected)
    return _selection(
        selected,
        selection.requests,
        selection.dropped | ({"clip_failed_in_training": num_lost} if num_lost else {}),
    )


def _selection(
    selected: Mapping[int, PairTokens],
    requests: Mapping[str, ClipRequest],
    dropped: dict[str, int],
) -> Selection:
    used: set[str] = set()
    for pair in selected.values():
        used.update(pair.clips)
    return Selection(
        indices=list(selected),
        pairs=list(selected.values()),
        dropped=dropped,
        requests={clip: request for clip, request in requests.items() if clip in used},
    )


def clip_requests(
    pairs: Sequence[Pair], root: Path, on_bad_clip: OnBadClip = lambda clip, error: None
) -> dict[str, ClipRequest]:
    """Return how to read the clips of pairs, by key; `on_bad_clip` is told of what names no
    file.
    """
    pair_of_clip: dict[str, Pair] = {}
    for pair in pairs:
        pair_of_clip |= dict.fromkeys(_clips(pair), pair)
    requests: dict[str, ClipRequest] = {}
    for clip, pair in pair_of_clip.items():
        try:
            requests[clip] = _request(pair, clip, root)
        except VideoError as error:  # an address
            on_bad_clip(clip, error)
    return requests


def _clips(pair: Pair) -> tuple[str, ...]:
    return tuple(dict.fromkeys((clip_key(pair), rejected_clip_key(pair))))


def _request(pair: Pair, clip: str, root: Path) -> ClipRequest:
    return (clip_request if clip == clip_key(pair) else rejected_clip_request)(pair, root)


def length_limit(policy: Policy, recipe: Recipe) -> int:
    """Return the most tokens that a row may have: `train.max_length`, at most the model's
    context.
    """
    context = policy.family.context_length(policy.bare.config)
    return min(recipe.train.max_length or context, context)


def _most_of_sound(policy: Policy, settings: VideoSettings) -> float:
    """Return the most tokens that a clip's sound can take."""
    hearing = hearing_of(policy.family, policy.bare.config, settings)
    if hearing is None:
        return 0
    if hearing.most_tokens is not None:
        return hearing.most_tokens
    longest = hearing.form.max_seconds
    return math.inf if longest is None else hearing.tokens(round(longest * hearing.form.rate))


def _longest_possible(policy: Policy, settings: VideoSettings, pair: PairTokens) -> float:
    """Return a bound on a pair's length that needs no decoding."""
    frames = settings.num_frames if settings.policy == "uniform" else settings.max_frames
    clip = video_tokens(policy.spec, settings, num_frames=frames, height=LARGE, width=LARGE) * SLACK
    clip += _most_of_sound(policy, settings)
    budget = token_budget(policy.spec, settings)
    if budget is not None:
        clip = min(clip, budget * SLACK)
    content = clip_content(policy.family, frames)
    text = prompt_text(policy.processor, pair.pair.prompt, content, history=pair.pair.history)
    tokens = policy.processor.tokenizer(text)["input_ids"]
    return clip + len(tokens) + max(len(pair.chosen), len(pair.rejected))


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
    # by clip: which pair, and the tokens of its answer
    rows: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        if pair.clip == pair.rejected_clip:
            rows[pair.clip].append((index, max(len(pair.chosen), len(pair.rejected))))
        else:
            rows[pair.clip].append((index, len(pair.chosen)))
            rows[pair.rejected_clip].append((index, len(pair.rejected)))
    row_lengths: dict[int, list[int]] = defaultdict(list)
    with (
        open_source(policy, recipe) as source,
        progress("measure clips", total=len(rows)) as advance,
    ):
        for request, clip in source.map([requests[clip] for clip in sorted(rows)]):
            if isinstance(clip, UserError):
                on_bad_clip(request.key, clip)
            else:
                if source.keeps_features:
                    source.encode(clip)  # so that it is not decoded again
                for index, num_answer_tokens in rows[request.key]:
                    prompt = pair_prompt(policy, pairs[index], clip.inputs)
                    row_lengths[index].append(len(prompt.input_ids) + num_answer_tokens)
            advance()
    return [
        max(row_lengths[index]) if len(row_lengths[index]) == len(pair.clips) else None
        for index, pair in enumerate(pairs)
    ]
