"""What stands above the gallery of a report: the verdict in words, before and after, the funnel,
trust in the judge, what was not checked.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from dpo_video.agree.requirements import MEASURES
from dpo_video.core import strict_json
from dpo_video.core.charts import IntervalBar, interval_bar
from dpo_video.core.report import Estimate, ReportVerdict, estimate_text, number_text
from dpo_video.core.stage_warnings import stage_warnings
from dpo_video.evaluate.report import Metrics
from dpo_video.evaluate.set_verdict import SetVerdict
from dpo_video.evaluate.summary import ROWS
from dpo_video.evaluate.verdict import set_verdicts
from dpo_video.pages.run_files import RunFiles
from dpo_video.recipe.affects import key_settings

HIGHER_IS_BETTER = {"exact_match": True, "judged_score": True, "hallucination_rate": False}
"""Whether more of a measure is better; the length of answers is neither."""
TRUST = (
    "pair_accuracy",
    "pair_accuracy_three_class",
    "kappa",
    "spearman",
    "ece",
    "flip_rate",
    "noise_sigma",
    "unscored",
)
"""Measures of agreement.json that the report repeats, with those of swapped facts; the page of
`agree` has all.
"""
SWAPS = "auc_"
"""How the names of measures begin that say whether the judge notices a swapped fact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredChange:
    """One measure before and after, as text, with a bar of its change."""

    title: str
    before: str
    after: str
    change: str
    n: int
    verdict: str
    """`better`, `worse`, `not distinguishable`, or empty where more is neither."""
    bar: IntervalBar | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DropLink:
    """How many were left out for a reason, and the address of the examples on the page."""

    reason: str
    count: int
    link: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FunnelRow:
    """What came out of a step, and what it left out."""

    step: str
    count: int
    unit: str
    drops: Sequence[DropLink] = ()


def measure_rows(metrics: Metrics) -> list[MeasuredChange]:
    """Return the measures of the held-out questions, those that got worse first."""
    rows = []
    for title, name, share in ROWS:
        change: Estimate | None = getattr(metrics.change, name)
        if change is None or (name == "exact_match" and metrics.exact_match_hidden is not None):
            continue
        reach = max(map(abs, [change.value or 0.0, *(change.interval or ())])) or 1.0
        rows.append(
            MeasuredChange(
                title=title,
                before=words_of(getattr(metrics.before, name), share=share),
                after=words_of(getattr(metrics.after, name), share=share),
                change=words_of(change, share=share, signed=True),
                n=change.n,
                verdict=direction(change, HIGHER_IS_BETTER.get(name)),
                bar=interval_bar(change, low=-reach, high=reach, mark=0.0),
            )
        )
    return sorted(rows, key=lambda row: row.verdict != "worse")


def direction(change: Estimate, higher_is_better: bool | None) -> str:
    """Return whether a change is better or worse beyond its interval."""
    if higher_is_better is None or change.value is None:
        return ""
    if change.interval is None or change.interval[0] <= 0 <= change.interval[1]:
        return "not distinguishable"
    return "better" if (change.value > 0) == higher_is_better else "worse"


def report_verdict(run: RunFiles, verdicts: Sequence[SetVerdict]) -> ReportVerdict:
    """Return what the run came to, regressions first: by set where every answer is in the folder,
    else by the measures of the held-out questions.
    """
    if run.metrics is None:
        return ReportVerdict(
            text="Nothing was evaluated: whether the tuned model is better or worse is not known. "
            "Set data.heldout and run dpo-video evaluate.",
            mood="warn",
        )
    by_outcome: dict[str, list[str]] = {"worse": [], "better": [], "not distinguishable": []}
    for verdict in verdicts:
        by_outcome.setdefault(verdict.outcome, []).append(_in_short(verdict))
    for row in measure_rows(run.metrics):
        if row.verdict and (not verdicts or row.title in BESIDE_SETS):
            by_outcome[row.verdict].append(f"{row.title} {row.change}")
    worse, better = by_outcome["worse"], by_outcome["better"]
    clauses = []
    for outcome, names in by_outcome.items():
        if names:
            clauses.append(f"{outcome.capitalize()}: {'; '.join(names)}.")
    if better and not worse:
        clauses.append("Nothing that was measured got worse.")
    text = " ".join(clauses) or "No measure has a value before and after."
    return ReportVerdict(text=text, mood="bad" if worse else "good" if better else "warn")


BESIDE_SETS = ("judged score", "hallucination rate")
"""Measures of the held-out questions that the sets' verdicts do not speak of."""


def _in_short(verdict: SetVerdict) -> str:
    if verdict.before is None or verdict.after is None:
        return verdict.set
    share = verdict.measure != "judged score"
    before, after = (number_text(end, share=share) for end in (verdict.before, verdict.after))
    return f"{verdict.set}, {verdict.measure} {before} to {after}"


def verdicts_of(run: RunFiles) -> list[SetVerdict]:
    """Return what came of each set, worst first, from the rows of answers.jsonl; none without."""
    return set_verdicts(
        run.answers,
        parser=run.recipe.evaluate.parser,
        tie_margin=run.metrics.judged.tie_margin if run.metrics else 0.0,
        resamples=run.recipe.evaluate.bootstrap,
        seed=run.recipe.seed,
    )


def warning_lines(run: RunFiles) -> dict[str, list[str]]:
    """Return what should not be missed of the pairs (their audit's warnings too), of training and
    of evaluation.
    """
    pairs = [line for name in ("generate", "judge", "pair") for line in _warnings(run, name)]
    pairs += run.audit.get("warnings") or []
    return {
        "pairs": list(dict.fromkeys(pairs)),
        "train": _warnings(run, "train"),
        "evaluate": _warnings(run, "evaluate"),
    }


def _warnings(run: RunFiles, stage: str) -> list[str]:
    return stage_warnings(stage, run.stage(stage))


def funnel_rows(run: RunFiles) -> list[FunnelRow]:
    """Return the way from samples to trained pairs, with what each step left out by reason."""
    generated, judged = run.stage("generate"), run.stage("judge")
    paired, trained = run.stage("pair"), run.stage("train")
    cleaned = run.manifest.get("cleaned") or {}
    num_samples = len(run.train.samples) - sum(cleaned.values())
    rows = [_funnel_row("samples", num_samples, "questions", cleaned, "clean/sample")]
    if generated:
        unread = generated.get("samples_without", 0)
        drops = {"clip cannot be read": unread} if unread else {}
        rows.append(_funnel_row("generated", generated.get("candidates", 0), "answers", drops))
    if judged:
        names = ("unscored", "refused", "failed", "dropped")
        drops = {name: judged[name] for name in names if judged.get(name)}
        scored = judged.get("scored", 0)
        rows.append(_funnel_row("scored", scored, "answers", drops, "pair/answer"))
    for step, unit in (("usable", "answer"), ("paired", "question")):
        counts = paired.get(f"{unit}s")
        if isinstance(counts, Mapping):
            drops = paired.get(f"{unit}s_dropped") or {}
            rows.append(_funnel_row(step, counts.get("out", 0), f"{unit}s", drops, f"pair/{unit}"))
    if run.pairs:
        drops = paired.get("pairs_dropped") or {}
        rows.append(_funnel_row("pairs", len(run.pairs), "pairs", drops, "pair/pair"))
    if trained:
        drops = trained.get("dropped") or {}
        rows.append(_funnel_row("trained on", trained.get("trained", 0), "pairs", drops))
    return rows


def _funnel_row(
    step: str, count: int, unit: str, drops: Mapping[str, int], listed: str = ""
) -> FunnelRow:
    """Return a step; `listed` is the stage and the unit of its drops' examples, empty where no file
    lists them.
    """
    links = []
    for reason, num_dropped in drops.items():
        target = f"#drops={quote(f'{listed}/{reason}', safe='')}" if listed else ""
        links.append(DropLink(reason=reason, count=num_dropped, link=target))
    return FunnelRow(step=step, count=count, unit=unit, drops=links)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRow:
    """One measure of the judge."""

    title: str
    value: str
    n: int
    bar: IntervalBar | None


def trust_rows(run: RunFiles) -> list[TrustRow]:
    """Return the main measures of agreement.json."""
    rows = []
    measures = run.agreement.get("measures") or {}
    for name in (*TRUST, *(name for name in MEASURES if name.startswith(SWAPS))):
        measure = measures.get(name)
        if not isinstance(measure, Mapping):
            continue
        ends = measure.get("ci")
        estimate = Estimate(
            value=measure.get("value"),
            interval=(ends[0], ends[1]) if ends else None,
            n=measure.get("n", 0),
            unscored=measure.get("unscored", 0),
            why_none=measure.get("why_none", ""),
        )
        meaning = MEASURES[name]
        bar = None
        if name != "noise_sigma":
            low = -1.0 if name in ("kappa", "spearman") else 0.0
            mark = 0.5 if name == "pair_accuracy" or name.startswith(SWAPS) else 0.0
            bar = interval_bar(estimate, low=low, high=1.0, mark=mark)
        rows.append(
            TrustRow(
                title=f"notices: {meaning.title}" if name.startswith(SWAPS) else meaning.title,
                value=words_of(estimate, share=meaning.share),
                n=estimate.n,
                bar=bar,
            )
        )
    return rows


def trust_sentence(run: RunFiles) -> str:
    """Return in a sentence how far the judge is to be trusted."""
    measure = (run.agreement.get("measures") or {}).get("pair_accuracy")
    if not run.agreement:
        return (
            "The judge was not measured, so how often its scores are right is not known. "
            f"Measure it: dpo-video agree {run.folder}, or vote yourself: dpo-video review "
            f"{run.folder}"
        )
    if not isinstance(measure, Mapping) or measure.get("value") is None:
        return (
            "The judge was held against itself and against probes, not against gold labels: how "
            "often its order is right is not known."
        )
    share = number_text(measure["value"], share=True)
    return f"The judge orders {share} of {measure['n']:,} pairs as the gold labels do."


def fact_rows(run: RunFiles) -> list[tuple[str, str]]:
    """Return what was run: model, what became of the clips' sound where it can hear, judge, cost,
    time, versions, and the hash of the recipe.
    """
    recipe = run.recipe
    judged = run.stage("judge")
    seconds = dict(run.metrics.seconds) if run.metrics else _stage_seconds(run)
    stages = ", ".join(f"{name} {_duration(value)}" for name, value in seconds.items())
    together = _duration(sum(seconds.values()))
    versions = run.manifest.get("versions") or {}
    sound = run.stage("train").get("sound", "")
    return [
        ("model", recipe.model.name),
        *([("sound of the clips", sound)] if sound else []),
        ("judge", f"{recipe.judge.model} by scorer {recipe.judge.scorer} ({recipe.judge.backend})"),
        ("judge's cost", _cost(judged)),
        ("unscored answers", _unscored(judged)),
        ("wall time", f"{together} ({stages})" if stages else "-"),
        ("recipe", f"{recipe.name}, settings {recipe_hash(run)}, seed {recipe.seed}"),
        ("versions", ", ".join(f"{name} {value}" for name, value in versions.items())),
    ]


def recipe_hash(run: RunFiles) -> str:
    """Return twelve digits that say which settings the results rest on."""
    text = strict_json.dumps(key_settings(run.recipe), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _stage_seconds(run: RunFiles) -> dict[str, float]:
    stages = run.manifest.get("stages") or {}
    return {name: row["seconds"] for name, row in stages.items() if row}


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _cost(judged: Mapping[str, Any]) -> str:
    if "dollars" in judged:
        return f"{judged['dollars']:.2f} US dollars"
    tokens = judged.get("tokens")
    if isinstance(tokens, Mapping):
        return ", ".join(f"{count:,} {name} tokens" for name, count in tokens.items())
    return "not counted: a local judge, or a server that does not say"


def _unscored(judged: Mapping[str, Any]) -> str:
    if not judged:
        return "-"
    reasons = judged.get("reasons") or {}
    words = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
    count = judged.get("unscored", 0) + judged.get("failed", 0)
    return f"{count} of {judged.get('candidates', 0):,}{f' ({words})' if words else ''}"


def unchecked(run: RunFiles) -> list[str]:
    """Return what this run does not tell, a sentence each."""
    lines = list(run.faults)
    if run.metrics is None:
        lines.append("The tuned model was not evaluated on held-out clips.")
    elif not run.recipe.evaluate.sets:
        lines.append(
            "No published benchmark was run (evaluate.sets): what got worse outside of these "
            "held-out questions is not known."
        )
    if not run.agreement:
        lines.append("The judge was not held against labels or probes (dpo-video agree).")
    elif run.agreement.get("gold") is None:
        lines.append("The judge was not held against gold labels (dpo-video agree --gold).")
    if not run.audit:
        lines.append("The pairs were not audited for length, place and sampler (dpo-video audit).")
    if not (run.folder / "votes.jsonl").is_file():
        lines.append("No person has voted on the pairs (dpo-video review).")
    if not (run.folder / "answers.jsonl").is_file():
        lines.append(
            "The answers before and after are not in this folder (answers.jsonl): a run of an "
            "earlier version, or nothing was evaluated."
        )
    lines.append("Whether a server that serves the adapter answers alike is not part of a report.")
    return lines


def words_of(estimate: Estimate, *, share: bool, signed: bool = False) -> str:
    return estimate_text(replace(estimate, bounds=None), share=share, signed=signed)
