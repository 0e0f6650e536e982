"""The ways of judging that take more than one reply per candidate: claims, pairwise, jury,
cascade.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from dpo_video.core.records import Candidate, Judgment, Sample
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.candidate_file import caption_ranks
from dpo_video.judge.modes.cascade import judge_by_cascade
from dpo_video.judge.modes.claims import check_split_examples, judge_claims
from dpo_video.judge.modes.jury import judge_by_jury
from dpo_video.judge.modes.pairwise import judge_round_robin, schedule
from dpo_video.judge.scorer import Scorer
from dpo_video.judge.types import Judge
from dpo_video.judge.verdict import check_examples
from dpo_video.recipe import JudgeSettings
from dpo_video.store import RunStore

Item = tuple[Sample, Candidate]
JudgeItems = Callable[[JudgeSettings, Sequence[Item]], dict[str, Judgment]]
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
    items: Sequence[Item],
    store: RunStore,
    *,
    again: JudgeItems,
    judge: Judge | None = None,
    counts: Counter[str] | None = None,
) -> dict[str, Judgment]:
    """Return the judgment of every candidate by its id, where `needs_several_replies` says so.

    Every reply of every judge is stored and paid once. `again` judges by the settings of one judge
    among several.
    """
    if settings.jury is not None:
        return judge_by_jury(settings, lambda one: again(one, items))
    if settings.cascade is not None:
        return judge_by_cascade(settings, scorer, items, again, counts=counts)
    check_examples(scorer)
    check_split_examples(scorer)
    with nullcontext(judge) if judge else open_judge(settings) as opened:
        found = MODES[scorer.mode](
            settings, scorer, by_caption(items), store, judge=opened, counts=counts
        )
    return {candidate.id: found[candidate.id] for _, candidate in items}


def calls_per_sample(settings: JudgeSettings, scorer: Scorer, answers: int) -> int:
    """Return how many prompts it takes to judge this many different answers to one question, all
    judges together.

    An answer is taken to make `ASSUMED_CLAIMS` claims, and a cascade to escalate everything: the
    dearest case.
    """
    calls = answers
    if scorer.mode == "pairwise":
        calls = 2 * len(schedule(answers, settings.opponents))
    elif scorer.claims is not None:
        calls = answers * (
            ASSUMED_CLAIMS + (settings.split_claims == "judge") + (scorer.coverage is not None)
        )
    return calls * (2 if settings.cascade else len(settings.jury) if settings.jury else 1)


def by_caption(items: Sequence[Item]) -> list[Item]:
    """Return the items with those of one caption, then question, side by side: servers then reuse
    the shared prefix.
    """
    ranks = caption_ranks(sample for sample, _ in items)
    return sorted(items, key=lambda item: ranks[item[0].id])
