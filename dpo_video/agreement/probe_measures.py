"""What the judge's scores of the probes say: AUC by swapped kind, and what dressing an answer up pays."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dpo_video.agreement.measures import Drawing, Line, auc, estimate, present_mean
from dpo_video.agreement.probes import KINDS, Probe, Probes
from dpo_video.judges.scorer import Scorer
from dpo_video.statistics import weighted_mean
from dpo_video.video import file_name

RAISED = 0.05
"""Share of the scale that a score must rise by to count as raised."""
EXAMPLES = 3

Both = Sequence[tuple[float, float]]
"""Scores of base and changed text, NaN where unscored."""


def measure_probes(made: Probes, scores: Both, scorer: Scorer,
                   drawing: Drawing) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the measures by name, and per kind: probes, texts without one, unscored, how often the right one wins,
    mean scores and the worst examples."""
    measures: dict[str, Any] = {}
    kinds: dict[str, Any] = {}
    for kind, sort in KINDS.items():
        places = [place for place, probe in enumerate(made.probes) if probe.kind == kind]
        probes, pairs = [made.probes[place] for place in places], [scores[place] for place in places]
        lines = _swap_lines(probes, pairs) if sort == "swap" else _dressing_lines(probes, pairs, scorer)
        wanted = {f"auc_{kind}": "auc"} if sort == "swap" else {f"{kind}_shift": "shift", f"{kind}_raised": "raised"}
        for name, of in wanted.items():
            measures[name] = estimate(lines[of], drawing) | {"without": made.without.get(kind, 0)}
            if not places:
                measures[name]["why_none"] = "no text offers such a probe"
        table = np.array(pairs, dtype=float).reshape(-1, 2)
        shown = {"n": len(places), "without": made.without.get(kind, 0),
                 "unscored": int(np.isnan(table).any(axis=1).sum()),
                 "worst": _worst(probes, pairs, tie_counts=sort == "swap")}
        if sort == "swap":
            shown["true_scores_higher"] = estimate(lines["wins"], drawing)
        kinds[kind] = shown | {"base_mean": _mean(table[:, 0]), "changed_mean": _mean(table[:, 1])}
    return measures, kinds


def _swap_lines(probes: Sequence[Probe], scores: Both) -> dict[str, Line]:
    """Return the AUC of all true against all false sentences, and how often a true one beats its own twin."""
    table = np.array(scores, dtype=float).reshape(-1, 2)
    clips = [file_name(probe.sample.video) for probe in probes]
    missing = int(np.isnan(table).any(axis=1).sum())
    stacked = np.column_stack([np.repeat([1.0, 0.0], len(table)), table.T.reshape(-1)])
    gap = table[:, 0] - table[:, 1]
    wins = np.where(np.isnan(gap), 0.0, np.where(gap == 0, 0.5, (gap > 0).astype(float)))
    return {"auc": Line(stacked, clips * 2, auc, missing, len(clips)),
            "wins": Line(wins, clips, weighted_mean, missing, len(clips))}


def _dressing_lines(probes: Sequence[Probe], scores: Both, scorer: Scorer) -> dict[str, Line]:
    """Return the mean change of the score, and the share that rose by more than RAISED of the scale."""
    table = np.array(scores, dtype=float).reshape(-1, 2)
    clips = [file_name(probe.sample.video) for probe in probes]
    change = table[:, 1] - table[:, 0]
    missing = int(np.isnan(change).sum())
    rose = np.nan_to_num(change) > RAISED * (scorer.high - scorer.low)
    return {"shift": Line(change, clips, present_mean, missing, len(clips)),
            "raised": Line(rose.astype(float), clips, weighted_mean, missing, len(clips))}


def _worst(probes: Sequence[Probe], scores: Both, *, tie_counts: bool) -> list[dict[str, Any]]:
    """Return the probes whose changed text scores most above its base; with `tie_counts` also equal scores."""
    rows = sorted(zip(probes, scores, strict=True), key=lambda row: np.nan_to_num(row[1][0] - row[1][1]))
    return [{"sample_id": probe.sample.id, "base": probe.base, "changed": probe.changed, "base_score": base,
             "changed_score": changed} for probe, (base, changed) in rows[:EXAMPLES]
            if changed > base or (tie_counts and changed == base)]


def _mean(values: "np.ndarray[Any, np.dtype[np.float64]]") -> float | None:
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else None
