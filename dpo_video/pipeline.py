"""Does the stages of a run in order, each unless it is finished, and keeps what came of it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl
from dpo_video.core.progress import log, open_terminal, print_line
from dpo_video.core.records import Judgment, Pair
from dpo_video.data.planned_answers import PlannedAnswers
from dpo_video.judge.ahead import overlapping_stages
from dpo_video.judge.probe import probe_judges
from dpo_video.run import Run, StageResult, write_manifest
from dpo_video.runs.stage_summary import stage_lines
from dpo_video.stages import (
    STAGES,
    Stage,
    determining_parts,
    fingerprint,
    fingerprint_of,
    maker_of,
    stage_of,
)
from dpo_video.stale import (
    check_replace,
    move_stale,
    note_output,
    note_what_determined,
    remember_output,
    tell_edited,
)

WIDTH = 110  # columns of what a stage says where the output is no terminal


def do_stages(
    run: Run,
    names: Sequence[str],
    *,
    instead: Mapping[str, Callable[[Run], StageResult]] | None = None,
    replace_adapter: bool = False,
) -> list[str]:
    """Do the named stages in order, each unless it is finished with these settings; return those
    done.

    Args:
        instead: other functions that do a stage; they do it again where it is finished.
        replace_adapter: whether training may replace a finished adapter of other settings or data;
            UserError where it would have to, and may not.
    """
    stages_done, recipe = [], run.recipe
    asks = recipe.start_adapter or recipe.reference_adapter or recipe.train.tunes_further
    if asks and any("model" in STAGES[name].sections for name in names):
        from dpo_video.models.start import check_start  # here: it needs torch

        check_start(recipe)
    _check_training(run, names)
    _probe_judges(run, names)
    overlapping = overlapping_stages(
        run, names, generate=STAGES["generate"].run, planned=_planned_answers
    )
    for name in names:
        stage = stage_of(run.recipe, name)
        stage_function = (instead or {}).get(name)
        _check_inputs(run, stage)
        stage_run = replace(run, stage=name, bad_clips={}, stage_began=time.monotonic())
        if stage_function is None and _is_finished(stage_run):
            print_line(f"{name}: finished before, nothing to do ({run.folder / stage.writes})")
            continue
        run.begin_stage(name)
        stage_function = stage_function or overlapping.get(name, stage.run)
        _do_stage(stage_run, stage_function, replace_adapter=replace_adapter)
        run.bad_clips.update(stage_run.bad_clips)
        stages_done.append(name)
        write_manifest(run, STAGES)
        from dpo_video.cards.model_card import renew_documents  # here: it needs agreement and pages

        renew_documents(run, name)
    return stages_done


def _planned_answers(run: Run) -> Sequence[PlannedAnswers]:
    from dpo_video.generate.stage import planned_answers  # here: it needs torch

    return planned_answers(run)


def _do_stage(
    run: Run, stage_function: Callable[[Run], StageResult], *, replace_adapter: bool
) -> None:
    """Do one stage, keep what came of it, and say it in a line."""
    name, stage = run.stage, stage_of(run.recipe, run.stage)
    output = run.folder / stage.writes
    parts = determining_parts(run, name)
    key = fingerprint_of(run, name, parts)
    if name == "train" and not replace_adapter:
        check_replace(run, output, parts)
    for file in stage.reads:
        tell_edited(run, maker_of(file), run.folder / file)
    remember_output(run, output)
    result = stage_function(run)
    seconds = time.monotonic() - run.stage_began
    move_stale(run, output, stage.reports)
    note_output(run, output)
    if result.complete:
        note_what_determined(run, parts)
        run.forget_read_clips()
        run.store.finish(name, fingerprint=key, seconds=seconds, summary=result.counts)
    _track(run, name, result.counts, seconds)
    width = open_terminal(width=WIDTH).width
    for line in stage_lines(name, result.counts, seconds=seconds, output=str(output), width=width):
        print_line(line)
    if not result.complete:
        print_line(f"{name}: not finished: {result.incomplete_because}; the same command goes on")


def _check_training(run: Run, names: Sequence[str]) -> None:
    """Refuse what training would refuse, before the stages in front of it have cost anything."""
    if len(names) > 1 and "train" in names and not run.store.finished("train"):
        from dpo_video.train.dpo_config import check_train_settings  # here: it needs torch

        check_train_settings(run.recipe)


def _probe_judges(run: Run, names: Sequence[str]) -> None:
    """Ask each judge a first prompt where a run of several stages begins: later it would cost all
    that was made before.
    """
    is_begun = any(run.store.finished(name) for name in names)
    if len(names) > 1 and not is_begun:
        for warning in probe_judges(run.recipe, run.store).warnings:
            log.info(f"warning: {warning}")


def _check_inputs(run: Run, stage: Stage) -> None:
    """Raise UserError where a file that the stage reads is not there."""
    for file in stage.reads:
        if not (run.folder / file).exists():
            raise UserError(
                f"no {file} in {str(run.folder)!r}; make it first: "
                f"dpo-video {maker_of(file)} RECIPE"
            )


def _is_finished(run: Run) -> bool:
    """Return whether the stage was finished with these settings and inputs, its result is still
    there, and no clip that was set aside has changed since.
    """
    before = run.store.finished(run.stage)
    return (
        before is not None
        and (run.folder / STAGES[run.stage].writes).exists()
        and any(
            before["fingerprint"] == fingerprint(run, run.stage, defaults=defaults)
            for defaults in (True, False)
        )
        and not any(fault.is_changed() for fault in run.stored_bad_clips().values())
    )


def _track(run: Run, name: str, summary: Mapping[str, Any], seconds: float) -> None:
    """Log a finished stage: its counts, a table of pairs, and what it made as an artifact."""
    run.tracker.log_stage(name, summary, seconds)
    if not run.tracker.is_on:
        return
    if name == "pair":
        from dpo_video.pair.tracked_table import tracked_rows

        judged = run.folder / "judgments.jsonl"
        judgments = (
            {row.candidate_id: row for row in read_jsonl(judged, Judgment)}
            if judged.exists()
            else {}
        )
        pairs = list(read_jsonl(run.folder / "pairs.jsonl", Pair))
        run.tracker.log_table(
            "pairs",
            tracked_rows(
                pairs,
                judgments,
                root=run.video_root,
                video=run.recipe.video,
                count=run.recipe.tracking.pair_table_rows,
                seed=run.recipe.seed,
            ),
        )
    kinds = {
        "pair": ("pairs", []),
        "train": ("adapter", ["pairs"]),
        "evaluate": ("metrics", ["adapter"]),
    }
    if name in kinds:
        kind, uses = kinds[name]
        run.tracker.log_artifact(run.folder / STAGES[name].writes, kind=kind, uses=uses)
