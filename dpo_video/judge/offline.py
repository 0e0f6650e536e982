"""Judging without calls from here: stored replies read again, batch files written, their results
taken in.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dpo_video.client.http_errors import RequestRefused, TransientError
from dpo_video.core.errors import UserError
from dpo_video.core.progress import log
from dpo_video.judge.ask import COUNTED_FROM, KIND
from dpo_video.judge.backends.openai import read_completion, request_fields
from dpo_video.judge.backends.registry import (
    backend_judge,
    judge_without_calls,
    leave_unanswered,
    opening,
)
from dpo_video.judge.batch_files import BatchFiles, Results
from dpo_video.judge.reply_keys import key_maker
from dpo_video.judge.scorer import Scorer
from dpo_video.judge.stage import judge
from dpo_video.judge.types import Judge, Keep, Messages, Mode, Reply, mode_of
from dpo_video.recipe import JudgeSettings
from dpo_video.run import Run, StageResult
from dpo_video.store import OverlayStore
from dpo_video.store.database import in_pages

NO_REPLY = "no stored reply"
"""Reason of a candidate that there is no stored reply to."""


class MissingResults(Exception):
    """Some prompts have no reply yet: the stage cannot go on before they are asked."""


def reparse(run: Run) -> StageResult:
    """Do the judge stage from the stored replies alone; candidates without one are unscored,
    counted, and leave the stage incomplete.

    No call is made, no model is loaded and nothing is stored; judgments.jsonl is written anew.
    """
    recipe = run.recipe.model_copy(
        update={"judge": run.recipe.judge.model_copy(update={"max_failed_fraction": 1.0})}
    )
    unanswered = partial(judge_without_calls, ask=leave_unanswered(NO_REPLY))
    result = judge(
        replace(run, recipe=recipe),
        open_judge=opening(unanswered),
        store=OverlayStore(run.store),
    )
    num_missing = result.counts["asked"]
    if not num_missing:
        return result
    return replace(result, incomplete_because=f"{num_missing} prompts have no stored reply")


def write_batches(run: Run, out: Path) -> list[Path]:
    """Write every request that the store has no reply to as batch files; return them, none where
    nothing is missing.

    Scorers that ask in rounds (claims: split, then check), and juries, need a batch for each round.
    """
    with BatchFiles(path=out) as files:

        def batch_writer(settings: JudgeSettings) -> Judge:
            if settings.backend != "openai":
                raise UserError(
                    f"batch files hold requests to a server, and judge.backend is "
                    f"{settings.backend}. Set "
                    "judge.backend=openai and judge.model to the name that the batch's server knows"
                )
            silent = judge_without_calls(settings, leave_unanswered(NO_REPLY))
            return replace(silent, ask=partial(_write, settings, silent, files))

        with suppress(MissingResults):
            judge(run, open_judge=opening(batch_writer))
    return files.written


def _write(
    settings: JudgeSettings,
    silent: Judge,
    files: BatchFiles,
    scorer: Scorer,
    prompts: Iterable[Messages],
    keep: Keep,
) -> None:
    fields = request_fields(settings, mode_of(settings, scorer))
    key_of = key_maker(settings, scorer, silent)
    for messages in prompts:
        files.add(key_of(messages), fields | {"messages": messages})
    raise MissingResults


def judge_with_results(run: Run, paths: Sequence[Path]) -> StageResult:
    """Store the results of batches under their keys, then judge as usual; the counts gain
    `batch`.

    All are stored before a server is needed: it may be away, or the batch was run by a program that
    is none.
    """
    results = Results(paths)
    batch_judge = _BatchJudge(results)
    unlimited = run.recipe.judge.model_copy(
        update={"max_failed_fraction": 1.0, "max_unscored_fraction": 1.0, "max_cost": None}
    )  # all is paid
    try:
        _check_refused(results, run.recipe.judge)
        try:
            result = judge(
                replace(run, recipe=run.recipe.model_copy(update={"judge": unlimited})),
                open_judge=opening(batch_judge.open),
            )
        except MissingResults:
            log.info(
                f"batch: {batch_judge.stored} results are stored; the prompts without one are "
                "asked now"
            )
            result = judge(run, open_judge=opening(_when_needed))
        unknown = sum(
            len(page) - len(run.store.known(KIND, page)) for page in in_pages(results.keys())
        )
    finally:
        results.close()
    batch = {
        "results": results.counts["results"],
        "stored": batch_judge.stored,
        "duplicates": results.counts["duplicates"],
        "unknown ids": unknown,
        **results.reasons,
    }
    return replace(result, counts={**result.counts, "batch": batch})


def _check_refused(results: Results, settings: JudgeSettings) -> None:
    """Raise UserError where more of a batch was refused than may be: a refusal that is stored is
    not asked again.
    """
    refused, total = results.counts["refused"], results.counts["results"]
    if total >= COUNTED_FROM and refused > settings.max_failed_fraction * total:
        raise UserError(
            f"--batch-in: {refused} of {total} results refuse their prompt, more than "
            f"judge.max_failed_fraction {settings.max_failed_fraction:g} allows, for example: "
            f"{results.any_refusal()}. Nothing is stored. Mend it and send the batch again, or "
            f"raise "
            "judge.max_failed_fraction to take them in as they are"
        )


@dataclass
class _BatchJudge:
    """Judges that answer from the results of batches."""

    results: Results
    stored: int = 0
    """Results that became replies."""

    def open(self, settings: JudgeSettings) -> Judge:
        """Return the judge of the settings; its `ask` raises MissingResults where a prompt has no
        result.
        """
        silent = judge_without_calls(settings, leave_unanswered(NO_REPLY))
        return replace(silent, ask=partial(self._ask, settings, silent))

    def _ask(
        self,
        settings: JudgeSettings,
        silent: Judge,
        scorer: Scorer,
        prompts: Iterable[Messages],
        keep: Keep,
    ) -> None:
        mode, key_of = mode_of(settings, scorer), key_maker(settings, scorer, silent)
        is_complete = True
        for index, messages in enumerate(prompts):
            key = key_of(messages)
            reply = _reply(self.results, settings, scorer, mode, key, verified=self.stored > 0)
            if reply is None:
                is_complete = False
            else:
                keep(index, reply)
                self.stored += 1
        if not is_complete:
            raise MissingResults


@dataclass
class _LateJudge:
    """A judge that is opened by the first prompt: without one it needs no key, no model."""

    settings: JudgeSettings
    judge: Judge | None = None

    def ask(self, scorer: Scorer, prompts: Iterable[Messages], keep: Keep) -> None:
        """Answer the prompts, see `Judge.ask`."""
        self.judge = self.judge or backend_judge(self.settings)
        self.judge.ask(scorer, prompts, keep)

    def close(self) -> None:
        """Close what was opened."""
        if self.judge is not None:
            self.judge.close()


def _when_needed(settings: JudgeSettings) -> Judge:
    late = _LateJudge(settings)
    silent = judge_without_calls(settings, late.ask)
    return replace(silent, close=late.close)


def _reply(
    results: Results,
    settings: JudgeSettings,
    scorer: Scorer,
    mode: Mode,
    key: str,
    *,
    verified: bool,
) -> Reply | None:
    """Return the reply or the refusal among the results, None where there is none that can be
    read.
    """
    body, refused = results.body(key), results.refusal(key)
    try:
        if body is not None:
            return read_completion(settings, scorer, mode, "the batch", body, verified=verified)
    except TransientError as error:
        results.reasons[error.reason.split(":")[0]] += 1
    except RequestRefused as error:
        refused = error.reason
    if refused is None:
        return None
    results.reasons[refused.split(":")[0]] += 1
    return Reply(status="refused", reason=refused)
