"""The checks of a family in their order, run one after another, and what came of each as a
table.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from dpo_video.core.errors import UserError
from dpo_video.family import checks, training_checks, tuning_checks
from dpo_video.family.subject import CheckFailed, Subject

Check = Callable[[Subject, Path], None]
CHECKS: tuple[Check, ...] = (
    checks.layers_are_not_the_towers,
    checks.tokens_are_counted_from_the_config,
    checks.prompt_is_the_processors_and_a_prefix,
    checks.features_equal_pixels,
    checks.sound_is_counted_and_noticed,
    checks.batched_equals_unbatched,
    checks.shuffled_frames_are_noticed,
    checks.generates_as_teacher_forced,
    checks.answers_together_are_those_alone,
    checks.saves_and_reloads,
    checks.lora_is_on_all_language_layers,
    checks.adapter_has_the_names_of_peft,
    checks.adapter_reloads_and_merges,
    checks.only_the_language_model_is_in_4_bit,
    training_checks.shared_prefix_equals_rows,
    tuning_checks.tower_and_projector_are_tuned_as_by_plain_forwards,
    training_checks.a_family_that_declares_sharing_off_needs_to,
    training_checks.fsdp_shards_the_language_model_and_its_layers_only,
    training_checks.three_dpo_steps_change_the_adapter_and_nothing_else,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a check."""

    check: str
    reason: str | None
    """Why it failed, in one line that names a field of the row; None where it passed."""


def check_name(check: Check) -> str:
    """Return what tables call a check."""
    return check.__name__.replace("_", " ")


def run_checks(subject: Subject) -> Iterator[Outcome]:
    """Run every check and yield what came of it; one that fails does not stop the others."""
    for check in CHECKS:
        with tempfile.TemporaryDirectory() as folder:
            yield Outcome(check_name(check), _reason(check, subject, Path(folder)))


def _reason(check: Check, subject: Subject, folder: Path) -> str | None:
    try:
        check(subject, folder)
    except (CheckFailed, UserError) as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  # a row's own code may fail in any way: it is told
        text = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
        return f"{type(error).__name__}: {text}"
    return None


def outcomes_table(outcomes: list[Outcome]) -> Table:
    """Return a table of the checks, those that failed with the reason."""
    table = Table("check", "outcome", box=None, pad_edge=False)
    for outcome in outcomes:
        table.add_row(outcome.check, "passed" if outcome.reason is None else outcome.reason)
    return table
