"""`dpo-video family test`: the checks of every family on a row of the user's own."""

from collections.abc import Callable
from pathlib import Path

from dpo_video.core.errors import UserError
from dpo_video.family.run import Outcome, run_checks
from dpo_video.family.subject import Subject
from dpo_video.models.families.own_file import load_family_file
from dpo_video.models.remote_code import check_own_code
from dpo_video.recipe import ModelSettings


def test_family(
    file: Path,
    *,
    model: str,
    revision: str | None,
    trust_remote_code: bool,
    tell: Callable[[Outcome], None],
) -> list[Outcome]:
    """Return what came of each check of a family's file on a checkpoint; `tell` hears each at once.

    Raises UserError for a file or checkpoint that cannot be loaded at all.
    """
    if not trust_remote_code:
        raise UserError(
            f"{str(file)!r} is a Python file, and to test it is to run it: add "
            "--trust-remote-code once you have read it"
        )
    settings = ModelSettings(
        name=model,
        revision=revision,
        family=str(file),
        trust_remote_code=True,
        dtype="float32",
    )
    load_family_file(file)
    check_own_code(settings)
    subject = Subject(settings=settings)
    subject.plain  # noqa: B018  # what cannot be loaded fails here, in one line
    outcomes = []
    for outcome in run_checks(subject):
        tell(outcome)
        outcomes.append(outcome)
    return outcomes
