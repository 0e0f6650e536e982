"""The ways of judging that take more than one reply per candidate: claims, pairwise, jury,
cascade.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

from dpo_video.judge.candidate_file import caption_ranks
from dpo_video.judge.modes.cascade import judge_by_cascade
from dpo_video.judge.modes.claims import check_split_examples, judge_claims
from dpo_video.judge.modes.jury import judge_by_jury
from dpo_video.judge.modes.pairwise import judge_round_robin, matchups
from dpo_video.judge.scorer import Scorer
from dpo_video.judge.types import Judge, Judged, JudgeItem, OpenJudge
from dpo_video.judge.verdict import check_examples
from dpo_video.recipe import JudgeSettings
from dpo_video.store import RowStore

JudgeOnce = Callable[[JudgeSettings, Sequence[JudgeItem]], Judged]
"""Judges candidates by the settings of one judge among several."""
ASSUMED_CLAIMS = 8
MODES = {"claims": judge_claims, "pairwise": judge_round_robin}


def needs_several_replies(settings: JudgeSettings, scorer: Scorer) -> bool:
    """Return whether a candidate's judgment is made of several replies, so that all candidates are
    needed at once.
    """
    return settings.jury is not None or settings.cascade is not None or scorer.mode in MODES


def judge_with_mode(
    settings: JudgeSettings,
    scorer: Scorer,
    judge_items: Sequence[JudgeItem],
    store: RowStore,
    *,
    judge_once: JudgeOnce,
    open_judge: OpenJudge,
    judge: Judge | None = None,
) -> Judged:
    """Return the judgment of every candidate, where `needs_several_replies` says so.

    Every reply of every judge is stored and paid once. `judge_once` judges by the settings of one
    judge among several.
    """
    if settings.jury is not None:
        return judge_by_jury(settings, lambda juror: judge_once(juror, judge_items))
    if settings.cascade is not None:
        return judge_by_cascade(settings, scorer, judge_items, judge_once)
    check_examples(scorer)
    check_split_examples(scorer)
    with nullcontext(judge) if judge else open_judge(settings) as opened:
        judgments, counts = MODES[scorer.mode](
            settings, scorer, by_caption(judge_items), store, judge=opened
        )
    return Judged({candidate.id: judgments[candidate.id] for _, candidate in judge_items}, counts)


def calls_per_sample(settings: JudgeSettings, scorer: Scorer, answers: int) -> int:
    """Return how many prompts it takes to judge this many different answers to one question, all
    judges together.

    An answer is taken to make `ASSUMED_CLAIMS` claims, and a cascade to escalate everything: the
    dearest case.
    """
    calls = answers
    if scorer.mode == "pairwise":
        calls = 2 * len(matchups(answers, settings.opponents))
    elif scorer.claims is not None:
        calls = answers * (
            ASSUMED_CLAIMS + (settings.split_claims == "judge") + (scorer.coverage is not None)
        )
    return calls * (2 if settings.cascade else len(settings.jury) if settings.jury else 1)


def by_caption(judge_items: Sequence[JudgeItem]) -> list[JudgeItem]:
    """Return the items with those of one caption, then question, side by side: servers then reuse
    the shared prefix.
    """
    ranks = caption_ranks(sample for sample, _ in judge_items)
    return sorted(judge_items, key=lambda judge_item: ranks[judge_item[0].id])
