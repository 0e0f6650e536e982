"""What a stage that is done again leaves behind: a finished adapter is replaced only when told so,
results made from what is gone are moved to RUN/stale, and files that were edited between stages are
told.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import as_row
from dpo_video.core.records import AS_IT_STANDS, BENCHMARK, Sample
from dpo_video.data.choices import SEVERAL
from dpo_video.pair.stage import noise_file
from dpo_video.recipe import Recipe
from dpo_video.run import Run
from dpo_video.store import content_hash

log = logging.getLogger(__name__)

FINISHED_WITH, OUTPUT_BEFORE, OUTPUT = "finished_with", "output_before", "output"
"""Kinds of stored rows, by stage: what determined the result of the last finished pass, the hash of
the output that a pass under way will replace, and the hash of the output that the last pass left.
"""
MOST_CHANGES = 5
CHOICE_FIELDS = {"options": None, "answer_kind": "text", "group": None, "category": None}
"""Fields of a sample that came later, each with the value that stands in no fingerprint, so that
those of earlier versions hold.
"""


def note_what_determined(run: Run, parts: Mapping[str, Any]) -> None:
    """Keep what a finished stage was done with, so that a change can be told by name."""
    run.store.put(run.store.own(FINISHED_WITH), run.stage, dict(parts))


def check_replace(run: Run, output: Path, parts: Mapping[str, Any]) -> None:
    """Raise UserError where a finished result would be replaced, with what has changed since."""
    if run.store.finished(run.stage) is None or not output.exists():
        return
    mended = [clip for clip, fault in run.stored_bad_clips().items() if fault.is_changed()]
    before = run.store.get(run.store.own(FINISHED_WITH), [run.stage]).get(run.stage)
    changes = [f"the clip {clip}, which could not be read" for clip in mended]
    if before is not None:
        changes += _changes(before, parts)
    listed = ", ".join(changes[:MOST_CHANGES]) or "settings or data"
    more = f" and {len(changes) - MOST_CHANGES} more" if len(changes) > MOST_CHANGES else ""
    raise UserError(
        f"{str(output)!r} is finished, and {listed}{more} changed since: `{run.stage}` would "
        "replace it. Add --replace to do that, or keep it and give this run another name: "
        f"name={run.recipe.name}_2"
    )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words which settings and files differ."""
    flat_before, flat_now = _flat(before), _flat(now)
    changes = []
    for name in sorted(flat_before.keys() | flat_now.keys()):
        value_before, value_now = flat_before.get(name), flat_now.get(name)
        if value_before == value_now:
            continue
        if name.startswith("files."):
            changes.append(name.removeprefix("files."))
        else:
            changes.append(f"{name} ({value_before} before, {value_now} now)")
    return changes


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def remember_output(run: Run, output: Path) -> None:
    """Store the hash of a stage's output before the stage is done again; that of before stays where
    a pass was killed.
    """
    if not output.exists() or _hash_before(run) is not None:
        return
    run.store.put(run.store.own(OUTPUT_BEFORE), run.stage, {"hash": content_hash(output)})
    run.store.flush()


def _hash_before(run: Run) -> str | None:
    row = run.store.get(run.store.own(OUTPUT_BEFORE), [run.stage]).get(run.stage)
    return None if row is None else row["hash"]


def move_stale(run: Run, output: Path, reports: Sequence[str]) -> None:
    """Move the reports on a stage's former output to RUN/stale, once the output is another one."""
    hash_before = _hash_before(run)
    if hash_before is None:
        return
    if content_hash(output) != hash_before:
        moved = [name for name in reports if _move(run, name)]
        if moved:
            log.info(
                "%s: %s is a new one; what told of the one before lies in %s: %s",
                run.stage,
                output.name,
                run.folder / "stale",
                ", ".join(moved),
            )
    run.store.put(run.store.own(OUTPUT_BEFORE), run.stage, {"hash": None})


def note_output(run: Run, output: Path) -> None:
    """Keep the hash of what a stage has just written, so that an edit of it is told to the next."""
    if output.exists():
        run.store.put(run.store.own(OUTPUT), run.stage, {"hash": content_hash(output)})


def tell_edited(run: Run, maker: str, output: Path) -> None:
    """Say that a file is not the one that its stage left: edited, cut short or put there by hand.

    Such a file is read all the same, for an edit may be meant. Nothing is known of a file that an
    earlier version made, or another command.
    """
    row = run.store.get(run.store.own(OUTPUT), [maker]).get(maker)
    if row is not None and row["hash"] != content_hash(output):
        log.warning(
            "warning: %s: %s is not as `%s` left it. What it holds now is taken as it is; to have "
            "it made anew, remove it and run `%s` again",
            run.stage,
            output,
            maker,
            maker,
        )


def _move(run: Run, name: str) -> bool:
    """Move one report; return False where there is none, or the recipe itself reads it."""
    path, target = run.folder / name, run.folder / "stale" / name
    if not path.exists() or path.resolve() in _read_by(run.recipe):
        return False
    target.parent.mkdir(exist_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    path.replace(target)
    return True


def _read_by(recipe: Recipe) -> set[Path]:
    """Return the reports that the pair stage of a recipe reads."""
    paths = set()
    if recipe.pair.implicit_rewards is not None:
        paths.add(Path(recipe.pair.implicit_rewards).expanduser().resolve())
    if recipe.pair.noise_margins is not None:
        paths.add(noise_file(recipe.pair, recipe.run_folder).resolve())
    return paths


def sample_row(sample: Sample, *, with_choice: bool) -> dict[str, Any]:
    """Return what a sample's results depend on: all of it but what `meta` says beyond the rules
    that read its answers.

    Args:
        with_choice: also what is to be chosen from, which evaluation alone asks for: training asks
            the prompt as it is.
    """
    row = as_row(sample)
    del row["meta"]
    if not sample.history:  # as samples had it before there were turns
        del row["history"]
    rules = {name: (sample.meta or {}).get(name) for name in (AS_IT_STANDS, BENCHMARK, SEVERAL)}
    if with_choice and any(rules.values()):
        row["rules"] = rules
    row["caption"] = sample.caption or ""  # as samples of imported pairs had it once
    for name, default in CHOICE_FIELDS.items():
        if not with_choice or row[name] == default:
            del row[name]
    return row
