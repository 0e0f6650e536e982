"""The pair stage: candidates and judgments in; pairs, every drop with its reason, and their statistics out.

Answers are joined with their judgments by candidate id, never by position. Unusable answers (failed, unscored, empty,
repeated) are dropped before the rule sees the question. Where a rule must choose among equals it takes the lowest hash
of seed, sample id and answer number, so the order of candidates and judgments never changes a pair.
"""

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dpo_video.errors import UserError
from dpo_video.judges.scorer import load_scorer
from dpo_video.names import choose
from dpo_video.pair_rules import PAIR_RULES, REASONS, Answer, Choice, length_offenders
from dpo_video.recipe import PairSettings
from dpo_video.records import Candidate, Judgment, Pair, Sample, read_jsonl, write_atomic, write_jsonl
from dpo_video.statistics import correlation, mean, quantiles

if TYPE_CHECKING:
    from dpo_video.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """What was left out of one question, and why: a line of drops.jsonl."""

    sample_id: str
    unit: Literal["answer", "pair", "question"]
    """`question`: nothing of it was paired."""
    reason: str
    count: int
    """Answers or pairs of the question that were dropped for this reason."""
    detail: str


class Paired(NamedTuple):
    """The pairs of all questions in sample order, every drop, and counts and statistics."""

    pairs: list[Pair]
    drops: list[Drop]
    summary: dict[str, Any]


class _Kept(NamedTuple):
    sample: Sample
    choice: Choice


def pair(run: "Run") -> dict[str, Any]:
    """Write pairs.jsonl and drops.jsonl from candidates.jsonl and judgments.jsonl; return the summary."""
    recipe = run.recipe
    paired = build_pairs(run.samples, read_jsonl(run.folder / "candidates.jsonl", Candidate),
                         read_jsonl(run.folder / "judgments.jsonl", Judgment), settings=recipe.pair,
                         threshold=load_scorer(recipe.judge.scorer).threshold, seed=recipe.seed)
    write_jsonl(run.folder / "pairs.jsonl", paired.pairs)
    drops = run.folder / "drops.jsonl"
    write_atomic(drops, (json.dumps(asdict(drop), ensure_ascii=False) + "\n" for drop in paired.drops))
    if not paired.pairs:
        reasons = ", ".join(f"{reason} {count}" for reason, count in paired.summary["questions_dropped"].items())
        raise UserError(f"no pairs: all {len(run.samples)} questions were dropped ({reasons}); {str(drops)!r} lists "
                        "each. More `generate.num_candidates`, a higher `generate.temperature` or another `pair.rule` "
                        "give more contrast between answers")
    return paired.summary


def build_pairs(samples: Sequence[Sample], candidates: Iterable[Candidate], judgments: Iterable[Judgment], *,
                settings: PairSettings, threshold: float, seed: int) -> Paired:
    """Return the pairs of the samples, the same whatever the order of candidates and judgments.

    `threshold` is the score from which an answer is good where `settings.threshold` is None.
    """
    answers = _by_sample(samples, candidates)
    judged = _by_candidate(answers, judgments)
    rule = choose(PAIR_RULES, settings.rule, "pair rule")
    limit = threshold if settings.threshold is None else settings.threshold
    drops: list[Drop] = []
    kept: list[_Kept] = []
    num_cut = 0
    for sample in samples:
        usable = _usable(sample.id, answers[sample.id], judged, seed=seed, drops=drops)
        num_cut += sum(answer.cut for answer in usable)
        if len(usable) < 2:
            reason = "too few answers" if answers[sample.id] else "no answers"
            drops.append(_drop(sample.id, "question", reason, usable))
            continue
        ruling = rule(usable, settings, limit)
        kept += [_Kept(sample, choice) for choice in ruling.choices]
        drops += [_drop(sample.id, "pair", reason, usable, count=ruling.dropped[reason])
                  for reason in REASONS if ruling.dropped.get(reason) and reason != "uniform"]
        if not ruling.choices:
            reason = next(reason for reason in REASONS if ruling.dropped.get(reason))
            drops.append(_drop(sample.id, "question", reason, usable))
    if settings.balance_length:
        kept = _balance_length(kept, drops)
    pairs = [_to_pair(item, settings.rule) for item in kept]
    summary = _count(len(samples), sum(map(len, answers.values())), pairs, drops)
    summary["answers"]["cut"] = num_cut
    return Paired(pairs, drops, summary | pair_statistics(pairs))


def pair_statistics(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return lengths in characters, how often chosen is the longer, margins, and how far score follows length."""
    chosen = [float(len(pair.chosen)) for pair in pairs]
    rejected = [float(len(pair.rejected)) for pair in pairs]
    margins = [pair.chosen_score - pair.rejected_score for pair in pairs]
    scores = [pair.chosen_score for pair in pairs] + [pair.rejected_score for pair in pairs]
    return {"chosen_length": mean(chosen), "rejected_length": mean(rejected),
            "chosen_longer": mean([float(a > b) for a, b in zip(chosen, rejected, strict=True)]),
            "margin": quantiles(margins), "score_length_correlation": correlation(scores, chosen + rejected)}


def normalise_space(text: str) -> str:
    """Return the text with every run of whitespace as one space: answers equal in this are the same answer."""
    return " ".join(text.split())


def _by_sample(samples: Sequence[Sample], candidates: Iterable[Candidate]) -> dict[str, list[Candidate]]:
    """Group candidates by question, each question's in the order of their numbers."""
    groups: dict[str, list[Candidate]] = {sample.id: [] for sample in samples}
    seen: set[str] = set()
    for candidate in candidates:
        if candidate.sample_id not in groups:
            raise UserError(f"candidate {candidate.id!r} answers {candidate.sample_id!r}, which is not among the "
                            "samples. Make candidates again: dpo-video generate RECIPE")
        if candidate.id in seen:
            raise UserError(f"two candidates have the id {candidate.id!r}. Make them again: dpo-video generate RECIPE")
        seen.add(candidate.id)
        groups[candidate.sample_id].append(candidate)
    for group in groups.values():
        group.sort(key=_number)
    return groups


def _number(candidate: Candidate) -> int:
    """Return k of `<sample id>#<k>`."""
    number = candidate.id.removeprefix(f"{candidate.sample_id}#")
    if not number.isdecimal():
        raise UserError(f"candidate id {candidate.id!r} must be its sample id {candidate.sample_id!r}, # and a number")
    return int(number)


def _by_candidate(answers: Mapping[str, Sequence[Candidate]], judgments: Iterable[Judgment]) -> dict[str, Judgment]:
    known = {candidate.id for group in answers.values() for candidate in group}
    judged: dict[str, Judgment] = {}
    again = "Judge the candidates again: dpo-video judge RECIPE"
    for judgment in judgments:
        if judgment.candidate_id not in known:
            raise UserError(f"a judgment names {judgment.candidate_id!r}, which is not among the candidates. {again}")
        if judgment.candidate_id in judged:
            raise UserError(f"candidate {judgment.candidate_id!r} has two judgments. {again}")
        judged[judgment.candidate_id] = judgment
    scorers = sorted({judgment.scorer for judgment in judged.values()})
    if len(scorers) > 1:
        raise UserError(f"the judgments come from several scorers ({', '.join(scorers)}), whose scores do not compare. "
                        f"{again}")
    return judged


def _usable(sample_id: str, candidates: Sequence[Candidate], judged: Mapping[str, Judgment], *, seed: int,
            drops: list[Drop]) -> list[Answer]:
    """Return a question's answers that a rule may use; the others are added to `drops`."""
    usable: list[Answer] = []
    dropped: dict[str, list[str]] = defaultdict(list)
    texts: dict[str, int] = {}
    for candidate in candidates:
        number = _number(candidate)
        judgment = judged.get(candidate.id)
        text = normalise_space(candidate.text)
        if not text:
            dropped["empty"].append(f"#{number}")
        elif judgment is None:
            dropped["unscored"].append(f"#{number}: not judged")
        elif judgment.status in ("failed", "refused"):
            dropped[judgment.status].append(f"#{number}: {judgment.reason}")
        elif judgment.status != "scored" or judgment.score is None or not math.isfinite(judgment.score):
            dropped["unscored"].append(f"#{number}: {judgment.reason}")
        elif text in texts:
            dropped["duplicate"].append(f"#{number} of #{texts[text]}")
        else:
            texts[text] = number
            rank = hashlib.sha256(json.dumps([seed, sample_id, number]).encode()).hexdigest()
            usable.append(Answer(candidate, judgment.score, rank))
    drops += [Drop(sample_id=sample_id, unit="answer", reason=reason, count=len(each), detail="; ".join(each))
              for reason, each in sorted(dropped.items())]
    return usable


def _balance_length(kept: Sequence[_Kept], drops: list[Drop]) -> list[_Kept]:
    offenders = length_offenders([item.choice for item in kept])
    left = [item for index, item in enumerate(kept) if index not in offenders]
    paired = {item.sample.id for item in left}
    lost: dict[str, list[Answer]] = defaultdict(list)
    for index in sorted(offenders):
        lost[kept[index].sample.id] += kept[index].choice
    for sample_id, answers in lost.items():
        drops.append(_drop(sample_id, "pair", "length balance", answers, count=len(answers) // 2))
        if sample_id not in paired:
            drops.append(_drop(sample_id, "question", "length balance", answers))
    return left


def _drop(sample_id: str, unit: Literal["pair", "question"], reason: str, answers: Sequence[Answer], *,
          count: int = 1) -> Drop:
    scores = ", ".join(f"#{_number(answer.candidate)} {answer.score:g}{' (cut)' if answer.cut else ''}"
                       for answer in answers)
    return Drop(sample_id=sample_id, unit=unit, reason=reason, count=count, detail=scores or "no usable answer")


def _to_pair(item: _Kept, rule: str) -> Pair:
    sample, (chosen, rejected) = item
    return Pair(sample_id=sample.id, video=sample.video, prompt=sample.prompt, chosen=chosen.candidate.text,
                rejected=rejected.candidate.text, chosen_score=chosen.score, rejected_score=rejected.score,
                source=rule, chosen_id=chosen.candidate.id, rejected_id=rejected.candidate.id,
                start=sample.start, end=sample.end)


def _count(num_samples: int, num_answers: int, pairs: Sequence[Pair], drops: Sequence[Drop]) -> dict[str, Any]:
    """Return counts in, out and dropped by reason; for answers and questions, in = out + dropped."""
    dropped: dict[str, Counter[str]] = {"answer": Counter(), "pair": Counter(), "question": Counter()}
    for drop in drops:
        dropped[drop.unit][drop.reason] += drop.count
    return {
        "questions": {"in": num_samples, "out": len({pair.sample_id for pair in pairs})},
        "questions_dropped": dict(dropped["question"].most_common()),
        "answers": {"in": num_answers, "out": num_answers - dropped["answer"].total()},
        "answers_dropped": dict(dropped["answer"].most_common()),
        "pairs": len(pairs),
        "pairs_dropped": dict(dropped["pair"].most_common())}
