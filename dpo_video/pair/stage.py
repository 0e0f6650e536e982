"""The pair stage: candidates and judgments in; pairs, every drop with its reason, and their
statistics out.

Answers are joined with their judgments by candidate id, never by position. Unusable answers
(failed, unscored, cleaned, empty, repeated) are dropped before the rule sees the question. Where a
rule must choose among equals it takes the lowest hash of seed, sample id and answer number, so the
order of candidates and judgments never changes a pair.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, read_lines, read_object, write_atomic, write_jsonl
from dpo_video.core.records import Pair, Reward
from dpo_video.core.stage_warnings import remedy_of
from dpo_video.data.samples import load_pairs
from dpo_video.judge.scorer import load_scorer
from dpo_video.models.control_tokens import checkpoint_tokens
from dpo_video.pair.answers import Drop, read_judged, sampler_of
from dpo_video.pair.build import Paired, build_pairs
from dpo_video.pair.statistics import (
    has_given_sides,
    pair_statistics,
    sampler_shares,
    uneven_samplers,
)
from dpo_video.pair.tie_break import tie_breaker
from dpo_video.pair.video_negatives import Negatives, add_negatives
from dpo_video.pair.votes import apply_votes, votes_on_pairs
from dpo_video.recipe import PairSettings
from dpo_video.run import Run, StageResult

log = logging.getLogger(__name__)


def pair(run: Run) -> StageResult:
    """Write pairs.jsonl and drops.jsonl from candidates.jsonl and judgments.jsonl; incomplete where
    comparisons of the tie break failed.
    """
    recipe = run.recipe
    if recipe.data.pairs is not None:
        return _imported_pairs(run)
    candidates, judgment_of = read_judged(run.folder, run.samples)
    paired = build_pairs(
        run.samples,
        candidates,
        judgment_of.values(),
        settings=with_noise(recipe.pair, run.folder),
        threshold=load_scorer(recipe.judge.scorer).threshold,
        seed=recipe.seed,
        rewards=read_rewards(recipe.pair),
        compare=tie_breaker(recipe, run.store),
    )
    paired = _with_votes(run, paired, {row.id: row.finish for row in candidates})
    negatives = add_negatives(paired.pairs, recipe.pair.video_negatives, seed=recipe.seed)
    earlier = _earlier_pairs(recipe.pair, negatives.pairs)
    write_jsonl(run.folder / "pairs.jsonl", [*negatives.pairs, *earlier])
    drops = _write_drops(run.folder, paired.drops)
    if not paired.pairs:
        reasons = ", ".join(
            f"{reason} {count}" for reason, count in paired.summary["questions_dropped"].items()
        )
        raise UserError(
            f"no pairs: all {len(run.samples)} questions were dropped ({reasons}); {str(drops)!r} "
            f"lists each. To get some, {remedy_of(paired.summary['questions_dropped'])}, or take "
            "another pair.rule"
        )
    shares = sampler_shares(
        paired.pairs, {candidate.id: sampler_of(candidate) for candidate in candidates}
    )
    warnings = [] if has_given_sides(paired.pairs) else uneven_samplers(shares)
    for warning in warnings:
        log.warning("pair: %s", warning)
    failed = paired.summary.get("failed")
    return StageResult(
        counts={
            **paired.summary,
            **_negative_counts(negatives),
            **({"earlier_pairs": len(earlier)} if recipe.pair.also else {}),
            "samplers": shares,
            "warnings": warnings,
        },
        incomplete_because=f"{failed} comparisons of the tie break failed" if failed else "",
    )


def _write_drops(folder: Path, drops: Iterable[Drop]) -> Path:
    path = folder / "drops.jsonl"
    write_atomic(
        path, (strict_json.dumps(asdict(drop), ensure_ascii=False) + "\n" for drop in drops)
    )
    return path


def _with_votes(run: Run, paired: Paired, finish_of: Mapping[str, str]) -> Paired:
    """Return the pairs as people's votes have them, counted anew."""
    mode = run.recipe.pair.votes
    if mode == "ignore":
        return paired
    voted = apply_votes(
        paired.pairs, votes_on_pairs(run.folder, paired.pairs), mode, finish_of=finish_of
    )
    summary = dict(paired.summary)
    for unit in ("pair", "question"):
        reasons = Counter(summary[f"{unit}s_dropped"])
        reasons.update(drop.reason for drop in voted.drops if drop.unit == unit)
        summary[f"{unit}s_dropped"] = dict(reasons.most_common())
    num_questions = len({pair.sample_id for pair in voted.pairs})
    summary |= {
        "questions": summary["questions"] | {"out": num_questions},
        "pairs": len(voted.pairs),
        "votes": voted.counts,
        **pair_statistics(voted.pairs),
    }
    return Paired(voted.pairs, [*paired.drops, *voted.drops], summary)


def _earlier_pairs(settings: PairSettings, pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs of `pair.also` without those that are among `pairs`, whatever their ids."""
    if settings.also is None:
        return []
    texts = {_texts(pair) for pair in pairs}
    earlier = read_jsonl(Path(settings.also).expanduser(), Pair)
    return [pair for pair in earlier if _texts(pair) not in texts]


def _texts(pair: Pair) -> tuple[str | None, ...]:
    return (
        pair.sample_id,
        pair.chosen,
        pair.rejected,
        str(pair.rejected_video),
        pair.rejected_corruption,
    )


def _imported_pairs(run: Run) -> StageResult:
    """Write the pairs of `data.pairs` as pairs.jsonl, as they are, with video negatives."""
    recipe = run.recipe
    pairs = load_pairs(recipe, checkpoint_tokens(recipe.model)).pairs or ()
    votes: dict[str, Any] = {}
    if recipe.pair.votes != "ignore":
        voted = apply_votes(pairs, votes_on_pairs(run.folder, pairs), recipe.pair.votes)
        _write_drops(run.folder, voted.drops)
        pairs, votes = voted.pairs, {"votes": voted.counts}
        if not pairs:
            raise UserError("no pairs: people's votes drop all of them; set pair.votes=ignore")
    negatives = add_negatives(pairs, recipe.pair.video_negatives, seed=recipe.seed)
    write_jsonl(run.folder / "pairs.jsonl", negatives.pairs)
    return StageResult(
        counts={
            "pairs": len(pairs),
            "given": str(recipe.data.pairs),
            **votes,
            **pair_statistics(pairs),
            **_negative_counts(negatives),
        }
    )


def _negative_counts(negatives: Negatives) -> dict[str, Any]:
    """Return how many video negatives there are beside the pairs, by source, and how many could not
    be made.
    """
    counts = {"video_negatives": negatives.counts, "video_negatives_dropped": negatives.dropped}
    return {name: count for name, count in counts.items() if count}


def with_noise(settings: PairSettings, folder: Path) -> PairSettings:
    """Return the settings, `min_margin` raised to `noise_margins` times the noise that `dpo-video
    agree` measured.
    """
    if settings.noise_margins is None:
        return settings
    path = noise_file(settings, folder)
    requirement = (
        f"pair.noise_margins {settings.noise_margins:g} takes the judge's noise from {str(path)!r}"
    )
    remedy = f"Measure it first: dpo-video agree {path.parent}; or leave pair.noise_margins out"
    if not path.is_file():
        raise UserError(f"{requirement}, which is not there. {remedy}")
    try:
        sigma = read_object(path).get("noise_sigma")
    except UserError as error:
        raise UserError(f"{requirement}, which is no JSON object ({error}). {remedy}") from error
    if (
        isinstance(sigma, bool)
        or not isinstance(sigma, int | float)
        or not math.isfinite(sigma)
        or sigma < 0
    ):
        raise UserError(
            f"{requirement}, whose `noise_sigma` is {sigma!r}, not a number of at least 0. {remedy}"
        )
    return settings.model_copy(
        update={"min_margin": max(settings.min_margin, settings.noise_margins * sigma)}
    )


def noise_file(settings: PairSettings, folder: Path) -> Path:
    """Return where the judge's noise of a run stands."""
    if settings.noise_from is None:
        return folder / "agreement.json"
    return Path(settings.noise_from).expanduser()


def read_rewards(settings: PairSettings) -> dict[str, float] | None:
    """Return the policy's implicit rewards by candidate id; None where the recipe names no file of
    them.
    """
    if settings.implicit_rewards is None:
        if settings.keep_hardest < 1:
            raise UserError(
                f"pair.keep_hardest {settings.keep_hardest:g} chooses by implicit margins: set "
                "pair.implicit_rewards to what `dpo-video rewards RUN` writes"
            )
        return None
    path = Path(settings.implicit_rewards).expanduser()
    rewards: dict[str, float] = {}
    line_of: dict[str, int] = {}
    for line, row in read_lines(path, Reward):
        name = row.candidate_id
        if name in rewards:
            raise UserError(
                f"{path}:{line}: candidate {name!r} has two rewards, the first in line "
                f"{line_of[name]}"
            )
        if not math.isfinite(row.reward):
            raise UserError(f"{path}:{line}: candidate {name!r} has the reward {row.reward}")
        rewards[name] = row.reward
        line_of[name] = line
    return rewards
