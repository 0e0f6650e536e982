"""Whether the checkpoints that are on this disk take the earlier turns that questions have."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dpo_video.check.data import Data
from dpo_video.check.findings import Findings, attempt, join_findings, problem
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import try_rows
from dpo_video.core.records import Pair, Sample
from dpo_video.models.families import Family
from dpo_video.models.hub import load_config
from dpo_video.models.load_errors import one_line_errors
from dpo_video.models.names import local_file, resolve_model
from dpo_video.recipe import ModelSettings, Recipe


def check_history(recipe: Recipe, data: Data) -> Findings:
    """Return a problem for each checkpoint whose chat template does not take the earlier turns of
    the data, with the first question that has some; and which are not here to be looked at.
    """
    where = next(_places(recipe, data), None)
    if where is None:
        return Findings()
    models = {settings.name: settings for settings in (recipe.model, *_mixed(recipe))}
    return join_findings(_check_model(settings, where) for settings in models.values())


def _check_model(settings: ModelSettings, where: str) -> Findings:
    from dpo_video.models.prompts import check_turns  # here: it needs PEFT, as what loads models

    processor_here, findings = attempt(_processor_here, settings)
    if findings.problems:
        return findings
    if processor_here is None:
        return Findings(
            assumptions=(
                f"the chat template of {settings.name!r}, which is not on this disk yet, takes "
                f"earlier turns (`history`, first in {where})",
            )
        )
    processor, family = processor_here
    try:
        check_turns(processor, family, settings.name)
    except UserError as error:
        return problem(f"{where}: {error}")
    return Findings()


def _processor_here(settings: ModelSettings) -> tuple[Any, Family] | None:
    """Return a checkpoint's processor and its family; None where its files are still on the hub."""
    from dpo_video.models.load import load_processor

    if any(local_file(settings, name) is None for name in ("config.json", "tokenizer_config.json")):
        return None
    source = {
        "revision": settings.revision,
        "trust_remote_code": settings.trust_remote_code,
        "local_files_only": True,
    }
    _, family = load_config(settings, local_only=True)
    with one_line_errors(settings.name):
        try:
            return load_processor(settings, family, source), family
        except OSError:
            if Path(resolve_model(settings.name)).is_dir():
                raise
            return None


def _mixed(recipe: Recipe) -> Iterator[ModelSettings]:
    """Yield the other models that write candidates here."""
    for sampler in () if recipe.data.pairs is not None else recipe.generate.mix or ():
        if sampler.model is not None:
            yield sampler.model


def _places(recipe: Recipe, data: Data) -> Iterator[str]:
    """Yield where questions with earlier turns stand (file:line), split by split."""
    for split in (data.train, data.heldout):
        yield from _lines(split.pairs or split.samples, split.file)
    for settings, samples in zip(recipe.evaluate.sets, data.sets, strict=True):
        yield from _lines(samples, Path(settings.samples).expanduser())


def _lines(records: Sequence[Sample | Pair], file: Path | None) -> Iterator[str]:
    behind = {_name(record) for record in records if record.history}
    if not behind or file is None:
        return
    key = "sample_id" if isinstance(records[0], Pair) else "id"
    for number, row in try_rows(file, "records"):
        if not isinstance(row, UserError) and row.get("history") and row.get(key) in behind:
            yield f"{file}:{number}"


def _name(record: Sample | Pair) -> str:
    return record.sample_id if isinstance(record, Pair) else record.id
