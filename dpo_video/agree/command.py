"""`dpo-video agree RUN`: measure the judge against gold labels, against itself, and on probes made
from the captions.

Everything is asked through `judge_candidates` and kept in the run's store: a second call pays for
nothing twice.
"""

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dpo_video.agree.calibration import calibrate, ordered_pairs, suggest_margin
from dpo_video.agree.gold import Gold, Item, Known, annotator_alpha, read_gold
from dpo_video.agree.measures import (
    BootstrapSettings,
    MeasureInput,
    chance_best_of_n,
    difference,
    estimate,
    gold_lines,
)
from dpo_video.agree.noise import Noise, layouts, measure_noise, wordings
from dpo_video.agree.page import render_page
from dpo_video.agree.probes import make_probes, measure_probes, probe_items
from dpo_video.agree.requirements import MEASURES, Requirement, read_requirements, unmet
from dpo_video.agree.table import print_report
from dpo_video.agree.toy_gold import toy_gold
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_atomic
from dpo_video.core.records import Candidate
from dpo_video.core.statistics import Floats, weighted_mean
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.scorer import Scorer, load_scorer
from dpo_video.judge.stage import judge_candidates
from dpo_video.judge.types import Judge, mode_of
from dpo_video.recipe import JudgeSettings, Recipe
from dpo_video.recipe.file import change_recipe
from dpo_video.run import Run, open_run, recipe_of
from dpo_video.store import RunStore
from dpo_video.video import file_name

REPORT, PAGE = "agreement.json", "agreement.html"


@dataclass(frozen=True, kw_only=True)
class Session:
    """An open judge with the store that keeps what it says."""

    settings: JudgeSettings
    scorer: Scorer
    judge: Judge
    store: RunStore
    counts: Counter[str]

    def scores(
        self, items: Sequence[Item], *, scorer: Scorer | None = None, repeat: int = 0
    ) -> dict[str, float]:
        """Return the score of every candidate by its id, NaN where there is none."""
        settings = self.settings.model_copy(update={"repeat": repeat}) if repeat else self.settings
        rows, counts = judge_candidates(
            settings, scorer or self.scorer, items, self.store, judge=self.judge
        )
        self.counts.update(counts)
        self.counts.update(
            texts=len(rows),
            unscored=sum(row.score is None for row in rows.values()),
            failed=sum(row.status == "failed" for row in rows.values()),
        )
        return {
            name: float("nan") if row.score is None else row.score for name, row in rows.items()
        }


def agree_command(
    folder: Path, overrides: Sequence[str], *, gold: str | None, against: str | None, require: str
) -> list[str]:
    """Measure the judge of a run folder, print the tables, and return a line for each requirement
    that is not met.
    """
    needs = read_requirements(require, with_gold=gold is not None)
    recipe = change_recipe(recipe_of(folder), [*overrides, "tracking.to=none"])
    other = None if against is None else judge_of(against, recipe)
    with open_run(recipe) as run:
        report = agree(run, gold=gold, against=other, needs=needs)
    print_report(report, [str(folder / PAGE), str(folder / REPORT)])
    return [row["unmet"] for row in report["requirements"] if row["unmet"]]


def judge_of(text: str, recipe: Recipe) -> JudgeSettings:
    """Return the second judge: of another run's folder, or this one's with the settings
    `judge.key=value,...`.
    """
    if "=" not in text:
        return recipe_of(Path(text)).judge
    parts = re.split(r",(?=\s*[a-z_]+\.)", text)
    for part in parts:
        if not part.strip().startswith("judge."):
            raise UserError(
                f"--against {part!r}: give settings of the judge, e.g. "
                f"judge.model=NAME,judge.scorer=NAME, "
                "or the folder of another run"
            )
    return change_recipe(recipe, [part.strip() for part in parts]).judge


def agree(
    run: Run,
    *,
    gold: str | None = None,
    against: JudgeSettings | None = None,
    needs: Sequence[Requirement] = (),
) -> dict[str, Any]:
    """Measure the run's judge, write agreement.json and agreement.html, and return what they hold.

    Args:
        gold: a JSONL file of gold labels, or toy:train or toy:heldout in the toy world; None leaves
            gold out.
        against: a second judge, held against the same gold labels.
        needs: conditions on the measures; whether each is met is written down.
    """
    settings = run.recipe.judge
    scorer = load_scorer(settings.scorer)
    if against is not None and gold is None:
        raise UserError("--against compares two judges on gold labels; give --gold")
    candidates = _candidates(run)
    labels = None if gold is None else _read_gold(run, gold, candidates, scorer)
    report: dict[str, Any] = {
        "run": str(run.folder),
        "gold": labels and _about(labels),
        "measures": {},
    }
    with open_judge(settings) as judge:
        session = Session(
            settings=settings, scorer=scorer, judge=judge, store=run.store, counts=Counter()
        )
        report["judge"] = {
            "name": judge.name,
            "backend": settings.backend,
            "scorer": scorer.version,
        }
        scores: dict[str, float] = {}
        if labels is not None:
            scores = session.scores(list(labels.items.values()))
            report |= _against_gold(run, labels, scores, session, report["measures"])
        report["noise"] = _noise(run, session, labels, candidates, report["measures"])
        report["probes"] = _probes(run, session, report["measures"])
    if labels is not None and against is not None:
        report["against"] = _against(run, labels, scores, session, against)
    counts = session.counts
    report["asked"] = {
        name: counts[name] for name in ("texts", "asked", "answered_before", "unscored", "failed")
    }
    report["measures"]["unscored"] = {
        "value": counts["unscored"] / max(counts["texts"], 1),
        "ci": None,
        "n": counts["texts"],
        "unscored": counts["unscored"],
    }
    report["noise_sigma"] = report["measures"].get("noise_sigma", {}).get("value")
    report["measures"] = {
        name: report["measures"][name] for name in MEASURES if name in report["measures"]
    }
    report["requirements"] = [
        {"text": str(need), "unmet": next(iter(unmet([need], report["measures"])), "")}
        for need in needs
    ]
    write_atomic(
        run.folder / REPORT,
        json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    )
    write_atomic(run.folder / PAGE, render_page(report))
    return report


def _candidates(run: Run) -> list[Candidate]:
    """Return the run's candidates; none where `generate` has not run."""
    path = run.folder / "candidates.jsonl"
    known = {sample.id for sample in run.samples}
    return (
        [one for one in read_jsonl(path, Candidate) if one.sample_id in known]
        if path.is_file()
        else []
    )


def _read_gold(run: Run, gold: str, candidates: Sequence[Candidate], scorer: Scorer) -> Gold:
    if gold.startswith("toy:"):
        return toy_gold(run, gold, candidates)
    samples = {sample.id: sample for sample in (*run.heldout, *run.samples)}
    return read_gold(
        Path(gold).expanduser(),
        Known(samples=samples, candidates={one.id: one for one in candidates}),
        scorer,
    )


def _about(gold: Gold) -> dict[str, Any]:
    annotators = gold.annotators
    return {
        "source": gold.source,
        "kind": "graded" if gold.grades else "paired",
        "labels": len(gold.grades) + len(gold.preferences),
        "answers": len(gold.items),
        "samples": len({sample.id for sample, _ in gold.items.values()}),
        "clips": len({file_name(sample.video) for sample, _ in gold.items.values()}),
        "annotators": len(annotators) if annotators != [""] else 0,
        "ties": sum(sign == 0 for _, _, sign in gold.pairs()),
    }


def _against_gold(
    run: Run, gold: Gold, scores: Mapping[str, float], session: Session, measures: dict[str, Any]
) -> dict[str, Any]:
    """Return calibration and suggested margin; measures go into the report's."""
    options, drawing = (
        run.recipe.agree,
        BootstrapSettings(run.recipe.agree.bootstrap, run.recipe.seed),
    )
    for name, line in gold_lines(gold, scores, session.scorer).items():
        measures[name] = estimate(line, drawing)
    if gold.grades and "kappa" not in measures:
        measures["kappa"] = {
            "value": None,
            "ci": None,
            "n": 0,
            "unscored": 0,
            "why_none": "gold and the scorer share no categories",
        }
    if "best_of_n" in measures:
        measures["best_of_n"]["chance"] = chance_best_of_n(gold)
    alpha, units = annotator_alpha(gold)
    if units:
        measures["annotator_alpha"] = {"value": alpha, "ci": None, "n": units, "unscored": 0}
    pairs = ordered_pairs(gold, scores)
    calibration = calibrate(pairs, bins=options.bins, drawing=drawing)
    for ending, side in (("_before", "before"), ("", "after")):
        for name in ("brier", "ece"):
            measures[name + ending] = (
                calibration[side][name]
                if side in calibration
                else {
                    "value": None,
                    "ci": None,
                    "n": 0,
                    "unscored": calibration["unscored"],
                    "why_none": calibration["why_none"],
                }
            )
    suggestion = suggest_margin(pairs, precision=options.precision, drawing=drawing)
    unscored = int(np.isnan(pairs.margin).sum())
    measures["coverage"] = {
        "value": suggestion.get("coverage", 0.0),
        "ci": None,
        "n": len(pairs.margin),
        "unscored": unscored,
    }
    return {"calibration": calibration, "min_margin": suggestion}


def _noise(
    run: Run,
    session: Session,
    gold: Gold | None,
    candidates: Sequence[Candidate],
    measures: dict[str, Any],
) -> dict[str, Any]:
    """Judge some answers again and again; measures go into the report's."""
    options = run.recipe.agree
    items = _noise_items(run, gold, candidates)
    if not options.repeats or not items:
        return {
            "why_none": "agree.repeats is 0"
            if items
            else "no answers: neither gold labels nor candidates.jsonl"
        }
    sampled = (
        mode_of(session.settings, session.scorer) == "verdict" and session.settings.temperature > 0
    )
    columns = {"as it is": session.scores(items)}
    if sampled:
        for k in range(1, options.repeats + 1):
            columns[f"drawn again {k}"] = session.scores(items, repeat=k)
    else:
        for name, other in itertools.islice(wordings(session.scorer).items(), options.repeats):
            columns[name] = session.scores(items, scorer=other)
    names = [candidate.id for _, candidate in items]
    table = _table(columns.values(), names)
    pairs = _pairs(items, table[:, 0])
    drawing = BootstrapSettings(options.bootstrap, run.recipe.seed)
    found = measure_noise(table, pairs, by_wording=not sampled)
    clips = [file_name(sample.video) for sample, _ in items]
    incomplete = len(items) - found.complete
    measures["noise_sigma"] = estimate(found.sigma_line(clips, incomplete), drawing)
    measures["flip_rate"] = estimate(_flips(found, pairs, clips), drawing)
    moved = {}
    for name, other in layouts(session.scorer).items():
        again = _table([columns["as it is"], session.scores(items, scorer=other)], names)
        changed = measure_noise(again, pairs, by_wording=True)
        measures[f"{name}_flip_rate"] = estimate(_flips(changed, pairs, clips), drawing)
        moved[name] = _shift(again)
    return {
        "how": "sampled" if sampled else "wordings",
        "answers": len(items),
        "pairs": len(pairs),
        "shifts": {name: _shift(table[:, [0, k]]) for k, name in enumerate(columns) if k},
        "layout_shifts": moved,
    }


def _noise_items(run: Run, gold: Gold | None, candidates: Sequence[Candidate]) -> list[Item]:
    """Return the distinct answers of `agree.noise_samples` samples, drawn by hash: the run's
    candidates, which pairs are made of, or the labelled answers where it has none."""
    samples = {sample.id: sample for sample in run.samples}
    every = [(samples[one.sample_id], one) for one in candidates] or list(
        gold.items.values() if gold else ()
    )
    distinct = list({(sample.id, one.text): (sample, one) for sample, one in every}.values())
    ids = sorted(
        {sample.id for sample, _ in distinct},
        key=lambda name: hashlib.sha256(f"{run.recipe.seed} {name}".encode()).digest(),
    )
    drawn = set(ids[: run.recipe.agree.noise_samples])
    return [item for item in distinct if item[0].id in drawn]


def _pairs(items: Sequence[Item], scores: Floats) -> list[tuple[int, int]]:
    """Return the pairs of one sample's answers that the judge did not tie at first."""
    of_sample: dict[str, list[int]] = {}
    for place, (sample, _) in enumerate(items):
        of_sample.setdefault(sample.id, []).append(place)
    return [
        (one, other)
        for places in of_sample.values()
        for one, other in itertools.combinations(places, 2)
        if scores[one] != scores[other] and not np.isnan(scores[[one, other]]).any()
    ]


def _flips(noise: Noise, pairs: Sequence[tuple[int, int]], clips: Sequence[str]) -> MeasureInput:
    """Return the share of judgments that change a pair's order; one that is missing counts as
    changed.
    """
    missing = np.isnan(noise.flips).any(axis=1)
    values = np.nan_to_num(noise.flips, nan=1.0).mean(axis=1) if len(pairs) else np.empty(0)
    return MeasureInput(
        values, [clips[one] for one, _ in pairs], weighted_mean, int(missing.sum()), len(pairs)
    )


def _shift(table: Floats) -> float | None:
    """Return the mean change from the first to the second column, over rows with both."""
    change = (table[:, 1] - table[:, 0])[~np.isnan(table).any(axis=1)]
    return float(change.mean()) if len(change) else None


def _table(columns: Any, names: Sequence[str]) -> Floats:
    """Return (answers, columns) of scores."""
    return np.array([[column[name] for column in columns] for name in names]).reshape(
        len(names), -1
    )


def _probes(run: Run, session: Session, measures: dict[str, Any]) -> dict[str, Any]:
    """Make, judge and measure the probes; measures go into the report's."""
    options, scorer = run.recipe.agree, session.scorer
    if scorer.needs_reference or "{caption}" not in scorer.prompt:
        return {"why_none": f"scorer {scorer.name!r} does not judge by the caption"}
    if not options.probes:
        return {"why_none": "agree.probes is 0"}
    samples = run.heldout or run.samples
    made = make_probes(
        samples, scorer, source=options.probes_from, per_kind=options.probes, seed=run.recipe.seed
    )
    if not made.probes:
        return {
            "why_none": f"none of the {made.texts} {options.probes_from}s offers a probe",
            "without": made.without,
        }
    items, ids = probe_items(made.probes)
    scores = session.scores(items)
    found, kinds = measure_probes(
        made,
        [(scores[one], scores[other]) for one, other in ids],
        scorer,
        BootstrapSettings(options.bootstrap, run.recipe.seed),
    )
    measures.update(found)
    return {
        "source": options.probes_from,
        "split": "heldout" if run.heldout else "samples",
        "texts": made.texts,
        "kinds": kinds,
    }


def _against(
    run: Run, gold: Gold, scores: Mapping[str, float], session: Session, settings: JudgeSettings
) -> dict[str, Any]:
    """Return both judges' measures of agreement and their paired differences (second minus
    first).
    """
    scorer, drawing = (
        load_scorer(settings.scorer),
        BootstrapSettings(run.recipe.agree.bootstrap, run.recipe.seed),
    )
    with open_judge(settings) as judge:
        second = Session(
            settings=settings, scorer=scorer, judge=judge, store=run.store, counts=session.counts
        )
        others = second.scores(list(gold.items.values()))
    first, last = gold_lines(gold, scores, session.scorer), gold_lines(gold, others, scorer)
    rows = {
        name: {
            "first": estimate(first[name], drawing),
            "second": estimate(last[name], drawing),
            "difference": difference(first[name], last[name], drawing),
        }
        for name in first
        if name in last
    }
    return {
        "judge": {"name": judge.name, "backend": settings.backend, "scorer": scorer.version},
        "measures": rows,
    }
