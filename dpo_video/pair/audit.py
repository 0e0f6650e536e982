"""What is in the pairs of a run, beside the preference: length, position, samplers, duplicates,
margins, drops.

Read from the run folder; nothing is asked or made. P pairs, A scored answers.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_atomic
from dpo_video.core.records import Candidate, Judgment, Pair
from dpo_video.core.statistics import (
    Statistic,
    bootstrap_ci,
    quantiles,
    weighted_correlation,
    weighted_mean,
    weighted_slope,
)
from dpo_video.core.text import normalised_text
from dpo_video.data.samples import load_samples
from dpo_video.pair.answers import sampler_of
from dpo_video.pair.audit_page import page
from dpo_video.pair.statistics import sampler_shares, uneven_samplers
from dpo_video.run import recipe_of
from dpo_video.video import clip_key, file_name, rejected_clip_key

Numbers = dict[str, Any]
RESAMPLES = 1000
SEED = 0
MOST_BINS = 20
ONE_SIDED = 0.6
"""Share of pairs on one side from which a bias is warned about, if its interval leaves out one
half.
"""


class Scored(NamedTuple):
    """An answer that has a score of its own."""

    question: str
    clip: str
    length: int
    score: float


def audit(folder: Path) -> Numbers:
    """Write audit.json and audit.html into a run folder and return the numbers; UserError where it
    has no pairs.
    """
    if not (folder / "pairs.jsonl").is_file():
        raise UserError(
            f"no pairs.jsonl in {str(folder)!r}: it is no run's folder, or no pairs were made "
            f"there. Make "
            "them first: dpo-video pair RECIPE"
        )
    every = list(read_jsonl(folder / "pairs.jsonl", Pair))
    pairs = [
        pair for pair in every if clip_key(pair) == rejected_clip_key(pair)
    ]  # the others compare clips
    if not pairs:
        raise UserError(
            f"no pairs in {str(folder / 'pairs.jsonl')!r}: nothing to audit. Make them first: "
            "dpo-video pair RECIPE"
        )
    candidates = _optional(folder / "candidates.jsonl", Candidate)
    judgments = _optional(folder / "judgments.jsonl", Judgment)
    drops = _rows(folder / "drops.jsonl")
    clips = [file_name(pair.video) for pair in pairs]
    numbers: Numbers = {
        "run": folder.name,
        "counts": counts(pairs, drops, _rows(folder / "cleaned.jsonl")),
        "duplicates": duplicates(pairs, drops, judgments),
        "margin": margins(pairs),
        "length": lengths(pairs, _scored(folder, pairs, candidates, judgments), clips),
        "position": positions(pairs, candidates, clips),
        "samplers": samplers(pairs, candidates, clips),
    }
    if len(pairs) < len(every):
        numbers["counts"]["other_clip_pairs"] = len(every) - len(pairs)
    numbers["warnings"] = warnings(numbers)
    write_atomic(folder / "audit.json", json.dumps(numbers, indent=2, ensure_ascii=False) + "\n")
    write_atomic(folder / "audit.html", page(numbers))
    return numbers


def counts(pairs: Sequence[Pair], drops: Sequence[Numbers], cleaned: Sequence[Numbers]) -> Numbers:
    """Return how many pairs, questions and clips, pairs per question, and what was left out by
    reason.
    """
    per_question = Counter(Counter(pair.sample_id for pair in pairs).values())
    dropped: dict[str, Counter[str]] = {
        "question": Counter(),
        "answer": Counter(),
        "pair": Counter(),
    }
    for row in drops:
        dropped[row["unit"]][row["reason"]] += row["count"]
    if dropped["question"]:
        per_question[0] = dropped["question"].total()
    units = {
        unit: Counter(row["reason"] for row in cleaned if row["unit"] == unit)
        for unit in ("sample", "answer")
    }
    return {
        "pairs": len(pairs),
        "questions": len({pair.sample_id for pair in pairs}),
        "clips": len({file_name(pair.video) for pair in pairs}),
        "pairs_per_question": {
            str(number): per_question[number] for number in sorted(per_question)
        },
        "dropped": {unit: dict(found.most_common()) for unit, found in dropped.items()},
        "cleaned": {unit: dict(found.most_common()) for unit, found in units.items()},
    }


def duplicates(
    pairs: Sequence[Pair], drops: Sequence[Numbers], judgments: Sequence[Judgment]
) -> Numbers:
    """Return how many answers repeat another of their question, and how many pairs repeat an
    earlier pair.
    """
    seen = Counter(
        (
            file_name(pair.video),
            pair.start,
            pair.end,
            normalised_text(pair.prompt),
            normalised_text(pair.chosen),
            normalised_text(pair.rejected),
        )
        for pair in pairs
    )
    return {
        "answers": sum(row["count"] for row in drops if row["reason"] == "duplicate"),
        "judged_once_for_several": sum(row.taken_from is not None for row in judgments),
        "pairs": len(pairs) - len(seen),
    }


def margins(pairs: Sequence[Pair]) -> Numbers:
    """Return quantiles and a histogram of the score margins, and what is known of the policy's
    implicit margins.
    """
    found = [pair.scores[0] - pair.scores[1] for pair in pairs]
    implicit = [pair.implicit_margin for pair in pairs if pair.implicit_margin is not None]
    numbers: Numbers = {
        "quantiles": quantiles(found),
        "mean": float(np.mean(found)),
        "histogram": histogram({"pairs": found}),
    }
    if implicit:
        numbers["implicit"] = {
            "quantiles": quantiles(implicit),
            "n": len(implicit),
            "wrongly_ranked": float(np.mean(np.asarray(implicit) < 0)),
        }
    return numbers


def lengths(pairs: Sequence[Pair], scored: Sequence[Scored], clips: Sequence[str]) -> Numbers:
    """Return how far chosen answers are the longer ones, and what of the margin is left once length
    is taken out.

    Lengths in characters. The slope of score on length is fitted within questions, over all scored
    answers where the run has them, else over the pairs' own; the residual margin of a pair is its
    margin less slope * extra length.
    """
    chosen, rejected = (
        [len(pair.chosen) for pair in pairs],
        [len(pair.rejected) for pair in pairs],
    )
    extra = np.subtract(chosen, rejected).astype(np.float64)
    margin = np.array([pair.scores[0] - pair.scores[1] for pair in pairs])
    source = "scored answers" if scored else "pairs"
    if not scored:
        scored = [
            Scored(pair.sample_id, clip, len(text), score)
            for pair, clip in zip(pairs, clips, strict=True)
            for text, score in zip((pair.chosen, pair.rejected), pair.scores, strict=True)
        ]
    answer_clips = [row.clip for row in scored]
    raw = np.array([(row.length, row.score) for row in scored], np.float64)  # (A, 2)
    within = _within_questions(scored)
    slope = _estimate(within, answer_clips, weighted_slope)
    residual = margin - slope["value"] * extra
    return {
        "chosen": float(np.mean(chosen)),
        "rejected": float(np.mean(rejected)),
        "extra": _estimate(extra, clips),
        "chosen_longer": _estimate((np.sign(extra) + 1) / 2, clips),
        "histogram": histogram({"chosen": chosen, "rejected": rejected}),
        "fitted_on": source,
        "answers": len(scored),
        "score_correlation": _estimate(raw, answer_clips, weighted_correlation),
        "score_correlation_within_questions": _estimate(within, answer_clips, weighted_correlation),
        "score_per_100_characters": {
            "value": slope["value"] * 100,
            "ci": slope["ci"] and [100 * end for end in slope["ci"]],
        },
        "margin": _estimate(margin, clips),
        "residual_margin": _estimate(residual, clips),
        "explained_by_length": float(np.mean(residual <= 0)),
    }


def positions(
    pairs: Sequence[Pair], candidates: Sequence[Candidate], clips: Sequence[str]
) -> Numbers:
    """Return whether chosen answers stand earlier among the candidates, and how often each place is
    on either side.
    """
    placed = [
        (_place(pair.chosen_id), _place(pair.rejected_id), clip)
        for pair, clip in zip(pairs, clips, strict=True)
    ]
    known = [
        (one, other, clip) for one, other, clip in placed if one is not None and other is not None
    ]
    if not known:
        return {"n": 0}
    last: dict[str, int] = {}
    for candidate in candidates:
        place = _place(candidate.id) or 0
        last[candidate.sample_id] = max(place, last.get(candidate.sample_id, 0))
    table = {place: [0, 0] for place in range(max(max(one, other) for one, other, _ in known) + 1)}
    for one, other, _ in known:
        table[one][0] += 1
        table[other][1] += 1
    numbers: Numbers = {
        "n": len(known),
        "by_place": {str(place): both for place, both in table.items()},
        "chosen_earlier": _estimate(
            [float(one < other) for one, other, _ in known], [clip for *_, clip in known]
        ),
    }
    for side, ids in {
        "chosen": [pair.chosen_id for pair in pairs],
        "rejected": [pair.rejected_id for pair in pairs],
    }.items():
        places = [(_place(name), name.rpartition("#")[0]) for name in ids]
        numbers[side] = {
            "first": float(np.mean([place == 0 for place, _ in places])),
            "last": float(np.mean([place == last.get(sample, -1) for place, sample in places])),
        }
    return numbers


def samplers(
    pairs: Sequence[Pair], candidates: Sequence[Candidate], clips: Sequence[str]
) -> Numbers:
    """Return by sampler how often its answers are chosen and rejected, and the share chosen; empty
    where unknown.
    """
    of = {candidate.id: sampler_of(candidate) for candidate in candidates}
    if any(name not in of for pair in pairs for name in (pair.chosen_id, pair.rejected_id)):
        return {}
    numbers: Numbers = {}
    for name, share in sampler_shares(pairs, of).items():
        rows = [
            (float(side), clip)
            for pair, clip in zip(pairs, clips, strict=True)
            for side, answer in ((1, pair.chosen_id), (0, pair.rejected_id))
            if of[answer] == name
        ]
        numbers[name] = {
            **share,
            "share_chosen": _estimate([value for value, _ in rows], [clip for _, clip in rows])
            if rows
            else None,
        }
    return numbers


def warnings(numbers: Mapping[str, Any]) -> list[str]:
    """Return what a reader should look at before training."""
    found = []
    length, position = numbers["length"], numbers["position"]
    for estimate, longer, other in (
        (
            length["chosen_longer"],
            "chosen answers are the longer ones",
            "rejected answers are the longer ones",
        ),
        (
            position.get("chosen_earlier"),
            "chosen answers were drawn first",
            "chosen answers were drawn last",
        ),
    ):
        if estimate is None or estimate["ci"] is None:
            continue
        low, high = estimate["ci"]
        share = max(estimate["value"], 1 - estimate["value"])
        if share >= ONE_SIDED and not low <= 0.5 <= high:
            found.append(
                f"{longer if estimate['value'] > 0.5 else other} in {share:.0%} of the pairs"
            )
    if (
        length["margin"]["value"] > 0
        and length["residual_margin"]["value"] < length["margin"]["value"] / 2
    ):
        found.append(
            "more than half of the margin goes with length: pair.balance_length drops the worst "
            "offenders"
        )
    found += uneven_samplers(
        {
            name: {side: row[side] for side in ("chosen", "rejected")}
            for name, row in numbers["samplers"].items()
        }
    )
    if numbers["duplicates"]["pairs"]:
        found.append(
            f"{numbers['duplicates']['pairs']} pairs repeat an earlier pair: "
            f"clean.sample_similarity=1 leaves "
            "repeated samples out"
        )
    return found


def histogram(values: Mapping[str, Sequence[float]]) -> Numbers:
    """Return the edges (bins + 1) of at most 20 equal bins over all values, and the counts (bins)
    of each series.
    """
    every = np.concatenate([np.asarray(each, np.float64) for each in values.values()])
    edges = np.histogram_bin_edges(every, bins=min(MOST_BINS, max(1, len(np.unique(every)))))
    return {
        "edges": edges.tolist(),
        "series": {name: np.histogram(each, edges)[0].tolist() for name, each in values.items()},
    }


def _within_questions(scored: Sequence[Scored]) -> NDArray[np.float64]:
    """Return (A, 2): length and score of each answer less the means of its question's answers."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(scored):
        groups[row.question].append(place)
    values = np.array([(row.length, row.score) for row in scored], np.float64)
    for places in groups.values():
        values[places] -= values[places].mean(axis=0)
    return values


def _scored(
    folder: Path,
    pairs: Sequence[Pair],
    candidates: Sequence[Candidate],
    judgments: Sequence[Judgment],
) -> list[Scored]:
    """Return every answer that was judged for itself; none where the run did not make them."""
    clips = {pair.sample_id: file_name(pair.video) for pair in pairs}
    if any(candidate.sample_id not in clips for candidate in candidates):
        samples = load_samples(recipe_of(folder), "samples", clean=False).samples
        clips = {sample.id: file_name(sample.video) for sample in samples}
    scores = {
        row.candidate_id: row.score
        for row in judgments
        if row.taken_from is None and row.score is not None
    }
    return [
        Scored(row.sample_id, clips[row.sample_id], len(row.text), score)
        for row in candidates
        if (score := scores.get(row.id)) is not None
    ]


def _place(candidate_id: str) -> int | None:
    number = candidate_id.rpartition("#")[2]
    return int(number) if number.isdecimal() and "#" in candidate_id else None


def _estimate(values: Any, clips: Sequence[str], statistic: Statistic = weighted_mean) -> Numbers:
    found = bootstrap_ci(
        values, clusters=clips, statistic=statistic, resamples=RESAMPLES, seed=SEED
    )
    return {"value": found.value, "ci": None if found.interval is None else list(found.interval)}


def _rows(path: Path) -> list[Numbers]:
    if not path.is_file():
        return []
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
    ]


def _optional(path: Path, kind: Any) -> list[Any]:
    return list(read_jsonl(path, kind)) if path.is_file() else []
