"""Warnings in words about what a finished stage counted, each with the setting that helps."""

from collections.abc import Iterator, Mapping
from typing import Any

MANY_CUT = 0.05
"""Share of cut answers from which it is told."""
MANY_CUT_UNPAIRED = 0.2
"""Share of cut answers from which they cost pairs."""
MANY_UNSCORED = 0.05
"""Share of answers without a score from which it is told."""
MANY_LONGER = 0.65
"""Share of pairs whose chosen answer is longer from which length may be what is learnt."""
MANY_TIES = 0.5
"""Share of questions without two answers far enough apart from which it is told."""
FEW_PAIRS = 100
"""Fewer are told."""
FEW_PAIRED = 0.2
"""Share of questions with a pair below which it is told."""
TIED = ("below margin", "tie", "no tie break", "uniform")
"""Reasons of questions whose answers are too close."""
MORE_CONTRAST = "raise generate.temperature or generate.num_candidates, so that answers differ more"
REMEDIES = {
    "below margin": f"lower pair.min_margin, or {MORE_CONTRAST}",
    "tie": f"{MORE_CONTRAST}, or set pair.tie_break",
    "no tie break": f"{MORE_CONTRAST}, or another pair.tie_break",
    "uniform": f"{MORE_CONTRAST}, or change pair.threshold",
    "too few answers": "raise generate.num_candidates, or generate.temperature where answers are "
    "the same; judgments.jsonl has the reasons of those without a score",
    "no answers": "see why their clips were set aside: dpo-video status RUN",
    "cut": "raise generate.max_new_tokens: a cut answer is never chosen",
    "one side only": "draw more answers by the samplers of pair.chosen_samplers and "
    "pair.rejected_samplers",
    "chosen is wrong": "draw more answers by the samplers of pair.chosen_samplers "
    "(num_candidates in generate.mix), or lower pair.threshold",
    "both unsure": "a judge that is surer, or another judge.scorer",
    "rejected not worse": "a corruption that changes the answer (clip in generate.mix)",
    "chosen inside rejected": "draw more answers (num_candidates in generate.mix)",
    "lengths too unequal": "raise pair.max_length_ratio",
    "chosen not longer": "draw more answers, or name fewer samplers in pair.chosen_longer_than",
    "rejected scores too low": "lower pair.min_rejected_score",
    "rejected too short": "lower pair.min_rejected_length",
    "easy": "raise pair.keep_hardest",
    "length balance": "set pair.balance_length=false",
}
"""What gives more pairs where questions are dropped for a reason."""


def stage_warnings(name: str, counts: Mapping[str, Any]) -> list[str]:
    """Return what a reader of a stage's counts should not miss."""
    rules = {
        "generate": _generate,
        "judge": _judge,
        "pair": _pair,
        "train": _train,
        "evaluate": _evaluate,
    }
    return [*rules[name](counts)] if name in rules else []


def remedy_of(dropped: Mapping[str, int]) -> str:
    """Return which setting gives more pairs, by the reason for which most questions were
    dropped.
    """
    reason = max(dropped, key=lambda name: dropped[name], default="")
    return REMEDIES.get(reason, f"more samples, a lower pair.min_margin, or {MORE_CONTRAST}")


def _generate(counts: Mapping[str, Any]) -> Iterator[str]:
    share = _share(counts.get("cut"), counts.get("candidates"))
    if share > MANY_CUT:
        yield (
            f"{_percent(share)} of the answers were cut at generate.max_new_tokens: raise it, or "
            "the policy learns from halves"
        )


def _judge(counts: Mapping[str, Any]) -> Iterator[str]:
    share = _share(counts.get("unscored"), counts.get("candidates"))
    if share > MANY_UNSCORED:
        yield f"{_percent(share)} of the answers have no score: judgments.jsonl has the reasons"


def _pair(counts: Mapping[str, Any]) -> Iterator[str]:
    dropped: Any = counts.get("questions_dropped") or {}
    questions: Any = counts.get("questions") or {}
    answers: Any = counts.get("answers") or {}
    ties = _share(sum(dropped.get(name, 0) for name in TIED), questions.get("in"))
    yield from _few_pairs(counts, has_ties=ties > MANY_TIES)
    if ties > MANY_TIES:
        yield (
            f"{_percent(ties)} of the questions have no two answers far enough apart: lower "
            f"pair.min_margin, {MORE_CONTRAST}, or set pair.tie_break"
        )
    truncated = _share(answers.get("cut"), answers.get("in"))
    if truncated > MANY_CUT_UNPAIRED:
        yield (
            f"{_percent(truncated)} of the answers were cut, and a cut answer is never chosen: "
            "raise generate.max_new_tokens"
        )
    longer = counts.get("chosen_longer")
    if isinstance(longer, float) and longer > MANY_LONGER:
        yield (
            f"the chosen answer is the longer one in {_percent(longer)} of the pairs: length may "
            "be what is learnt (`dpo-video audit`)"
        )


def _few_pairs(counts: Mapping[str, Any], *, has_ties: bool) -> Iterator[str]:
    """Yield a warning where there are few pairs; where that is for ties, which are told apart,
    without a setting.
    """
    pairs, questions = counts.get("pairs"), counts.get("questions") or {}
    if not isinstance(pairs, int):
        return
    is_rare = bool(questions) and _share(questions.get("out"), questions.get("in")) < FEW_PAIRED
    if pairs >= FEW_PAIRS and not is_rare:
        return
    dropped = counts.get("questions_dropped") or {}
    of_questions = f" from {questions['in']} questions" if questions else ""
    why = ""
    if dropped:
        reason = max(dropped, key=lambda name: dropped[name])
        why = f", most of the others dropped as {reason!r} ({dropped[reason]})"
    remedy = "" if has_ties else f": {remedy_of(dropped)}"
    yield f"only {pairs} pairs{of_questions}{why}{remedy}"


def _train(counts: Mapping[str, Any]) -> Iterator[str]:
    reward = counts.get("chosen_reward") or {}
    if reward and reward["highest"] < 0:
        yield (
            f"rewards/chosen stayed below 0 after the first logged step (at most "
            f"{reward['highest']:.3g}, {reward['last']:.3g} at the end): the tuned model finds the "
            "chosen answers less likely than its reference does. An anchor holds them up "
            "(train.loss=[sigmoid,sft], or bco_pair for sft), and so does a lower "
            "train.learning_rate"
        )


def _evaluate(counts: Mapping[str, Any]) -> Iterator[str]:
    if counts.get("unanswered"):
        yield f"{counts['unanswered']} questions have no answer: their clips cannot be read"
    length = counts.get("length_change") or {}
    if length and (length["low"] > 0 or length["high"] < 0):
        change, word = length["change"], "longer" if length["change"] > 0 else "shorter"
        share = f", {_percent(abs(change) / length['before'])}" if length["before"] else ""
        yield (
            f"the tuned answers are {word} by {abs(change):.3g} characters{share} (95 % interval "
            f"{length['low']:+.3g} to {length['high']:+.3g}): length may be what was learnt. "
            "pair.balance_length=true evens the lengths of chosen and rejected answers"
        )


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _share(count: object, total: object) -> float:
    if isinstance(count, int) and isinstance(total, int) and total:
        return count / total
    return 0.0
