"""`dpo-video agree RUN`: measure the judge against gold labels, against itself, and on probes made
from the captions.

Everything is asked through `judge_candidates` and kept in the run's store: a second call pays for
nothing twice.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from dpo_video.agree.agreement import (
    Agreement,
    AskedCounts,
    JudgeComparison,
    JudgeName,
    RequirementResult,
    agreement_row,
)
from dpo_video.agree.gold import Gold
from dpo_video.agree.gold_agreement import (
    GoldAgreement,
    compare_judges,
    load_gold,
    measure_agreement,
    summarise_gold,
)
from dpo_video.agree.measures import BootstrapSettings, Measure, Measures
from dpo_video.agree.noise import judge_again, noise_items
from dpo_video.agree.page import agreement_page
from dpo_video.agree.probes import judge_probes
from dpo_video.agree.requirements import MEASURES, Requirement, read_requirements, unmet
from dpo_video.agree.session import JudgeSession
from dpo_video.agree.table import print_report
from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_atomic
from dpo_video.core.records import Candidate
from dpo_video.core.report import Estimate
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.scorer import load_scorer
from dpo_video.recipe import JudgeSettings, Recipe
from dpo_video.recipe.file import change_recipe
from dpo_video.run import Run, open_run, recipe_of

REPORT, PAGE = "agreement.json", "agreement.html"


def agree_command(
    folder: Path, overrides: Sequence[str], *, gold: str | None, against: str | None, require: str
) -> list[str]:
    """Measure the judge of a run folder, print the tables, and return a line for each requirement
    that is not met.
    """
    needs = read_requirements(require, with_gold=gold is not None)
    recipe = change_recipe(recipe_of(folder), [*overrides, "tracking.to=none"])
    second_judge = None if against is None else judge_of(against, recipe)
    with open_run(recipe) as run:
        report = agree(run, gold=gold, against=second_judge, needs=needs)
    print_report(report, [str(folder / PAGE), str(folder / REPORT)])
    return [row.unmet for row in report.requirements if row.unmet]


def judge_of(text: str, recipe: Recipe) -> JudgeSettings:
    """Return the second judge: of another run's folder, or this one's with the settings
    `judge.key=value,...`.
    """
    if "=" not in text:
        return recipe_of(Path(text)).judge
    overrides = re.split(r",(?=\s*[a-z_]+\.)", text)
    for override in overrides:
        if not override.strip().startswith("judge."):
            raise UserError(
                f"--against {override!r}: give settings of the judge, e.g. "
                f"judge.model=NAME,judge.scorer=NAME, "
                "or the folder of another run"
            )
    return change_recipe(recipe, [override.strip() for override in overrides]).judge


def agree(
    run: Run,
    *,
    gold: str | None = None,
    against: JudgeSettings | None = None,
    needs: Sequence[Requirement] = (),
) -> Agreement:
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
    labels = None if gold is None else load_gold(run, gold, candidates, scorer)
    counts: Counter[str] = Counter()
    scores: dict[str, float] = {}
    agreed: GoldAgreement | None = None
    with open_judge(settings) as judge:
        session = JudgeSession(
            settings=settings, scorer=scorer, judge=judge, store=run.store, counts=counts
        )
        if labels is not None:
            scores = session.scores(list(labels.answers.values()))
            agreed = measure_agreement(
                labels, scores, scorer, settings=run.recipe.agree, bootstrap=_bootstrap(run)
            )
        noise_measures, noise = judge_again(run, session, noise_items(run, labels, candidates))
        probe_measures, probes = judge_probes(run, session)
    comparison = None
    if labels is not None and against is not None:
        comparison = _compare(run, labels, scores, session, against)
    gold_measures = agreed.measures if agreed else {}
    measures = gold_measures | noise_measures | probe_measures | _unscored_measure(counts)
    noise_sigma = measures.get("noise_sigma")
    report = Agreement(
        run=str(run.folder),
        gold=None if labels is None else summarise_gold(labels),
        measures={name: measures[name] for name in MEASURES if name in measures},
        judge=JudgeName(name=judge.name, backend=settings.backend, scorer=scorer.version),
        calibration=agreed.calibration if agreed else None,
        min_margin=agreed.min_margin if agreed else None,
        noise=noise,
        probes=probes,
        against=comparison,
        asked=_asked_counts(counts),
        noise_sigma=None if noise_sigma is None else noise_sigma.estimate.value,
        requirements=[
            RequirementResult(text=str(need), unmet=unmet(need, measures)) for need in needs
        ],
    )
    _write(run.folder, report)
    return report


def _write(folder: Path, report: Agreement) -> None:
    text = strict_json.dumps(agreement_row(report), indent=2, ensure_ascii=False)
    write_atomic(folder / REPORT, text + "\n")
    write_atomic(folder / PAGE, agreement_page(report))


def _candidates(run: Run) -> list[Candidate]:
    """Return the run's candidates; none where `generate` has not run."""
    path = run.folder / "candidates.jsonl"
    if not path.is_file():
        return []
    ids = {sample.id for sample in run.samples}
    return [candidate for candidate in read_jsonl(path, Candidate) if candidate.sample_id in ids]


def _bootstrap(run: Run) -> BootstrapSettings:
    return BootstrapSettings(run.recipe.agree.bootstrap, run.recipe.seed)


def _unscored_measure(counts: Mapping[str, int]) -> Measures:
    share = counts["unscored"] / counts["texts"] if counts["texts"] else None
    estimate = Estimate(value=share, n=counts["texts"], unscored=counts["unscored"])
    return {"unscored": Measure(estimate=estimate)}


def _asked_counts(counts: Mapping[str, int]) -> AskedCounts:
    return AskedCounts(
        texts=counts["texts"],
        asked=counts["asked"],
        answered_before=counts["answered_before"],
        unscored=counts["unscored"],
        failed=counts["failed"],
    )


def _compare(
    run: Run,
    gold: Gold,
    scores: Mapping[str, float],
    session: JudgeSession,
    settings: JudgeSettings,
) -> JudgeComparison:
    """Return both judges' measures of agreement and their paired differences (second minus
    first).
    """
    scorer = load_scorer(settings.scorer)
    with open_judge(settings) as judge:
        second = JudgeSession(
            settings=settings, scorer=scorer, judge=judge, store=run.store, counts=session.counts
        )
        second_scores = second.scores(list(gold.answers.values()))
    return JudgeComparison(
        judge=JudgeName(name=judge.name, backend=settings.backend, scorer=scorer.version),
        measures=compare_judges(
            gold, (scores, session.scorer), (second_scores, scorer), _bootstrap(run)
        ),
    )
