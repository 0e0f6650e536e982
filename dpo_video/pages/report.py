"""`dpo-video report RUN`: the page that says what a run did, what got better, what got worse, and
shows it.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpo_video.core.jsonl import write_atomic
from dpo_video.core.page import render_page
from dpo_video.pages.clips import ClipLimits, make_clips
from dpo_video.pages.curves import training_charts
from dpo_video.pages.gallery import Gallery, gallery_of, script_data
from dpo_video.pages.overview import (
    fact_rows,
    funnel_rows,
    measure_rows,
    report_verdict,
    trust_rows,
    trust_sentence,
    unchecked,
    verdicts_of,
    warning_lines,
)
from dpo_video.pages.run_files import RunFiles, read_run_files
from dpo_video.pages.why import category_rows, why_lines
from dpo_video.tracking import start_tracking

FOLDER, PAGE, CLIPS = "report", "report.html", "clips"


def write_report(folder: Path, limits: ClipLimits) -> Path:
    """Write RUN/report/report.html and its folder of clips, show them in the run's tracker, and
    return the page's path.

    Nothing is asked and no model is loaded. UserError where the folder is no run's.
    """
    run = read_run_files(folder)
    gallery = gallery_of(run)
    target = folder / FOLDER
    clips = make_clips(gallery.featured_first(), target / CLIPS, limits, run.recipe.video)
    write_atomic(target / PAGE, report_page(run, gallery, clips))
    with start_tracking(run.recipe) as tracker:
        if tracker.is_on:
            elsewhere = {"error": "it is in the report's folder, which is stored as an artifact"}
            page = report_page(run, gallery, dict.fromkeys(gallery.questions.requests, elsewhere))
            tracker.log_page("report", page)
            tracker.log_artifact(target, kind="report", uses=["metrics"])
    return target / PAGE


def report_page(run: RunFiles, gallery: Gallery, clips: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page as text; it loads nothing but the files of its own folder."""
    verdicts = verdicts_of(run)
    categories = [] if run.metrics is None else category_rows(run.metrics)
    return render_page(
        "pages/report.html.jinja",
        title=f"Report of {run.folder.name}",
        verdict=report_verdict(run, verdicts),
        nonce=secrets.token_hex(16),
        facts=fact_rows(run),
        verdicts=verdicts,
        changes=[] if run.metrics is None else measure_rows(run.metrics),
        categories=categories,
        why=why_lines(run, categories),
        metrics=run.metrics,
        funnel=funnel_rows(run),
        charts=training_charts(run.train_log),
        trust=trust_rows(run),
        trust_sentence=trust_sentence(run),
        has_agreement_page=(run.folder / "agreement.html").is_file(),
        has_audit_page=(run.folder / "audit.html").is_file(),
        warnings=warning_lines(run),
        unchecked=unchecked(run),
        counts={
            "pairs": len(gallery.pairs),
            "answers": len(gallery.answers),
            "drops": len(gallery.drops),
            "worse": sum((row["gain"] or 0.0) < 0 for row in gallery.answers),
            "better": sum((row["gain"] or 0.0) > 0 for row in gallery.answers),
        },
        data=script_data(gallery, {key: dict(row) for key, row in clips.items()}),
    )
