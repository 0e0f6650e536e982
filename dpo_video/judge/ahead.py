"""Judge answers while the next are being written: a judge behind a server works beside the policy.

Replies go to the run's store, where the judge stage finds them: what it writes is what it would
have written had it asked by itself, and a run that was killed goes on in the same way.
"""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue

from dpo_video.core.progress import log
from dpo_video.data.answer_filters import AnswerPlan
from dpo_video.data.planned_answers import PlannedAnswers
from dpo_video.judge.ask import Prompts, ask_as_they_come
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.modes.registry import needs_several_replies
from dpo_video.judge.reply_keys import answer_keys
from dpo_video.judge.scorer import Scorer, load_scorer
from dpo_video.judge.stage import candidate_prompt, judge
from dpo_video.judge.types import NOT_YET, Judge
from dpo_video.models.control_tokens import checkpoint_tokens
from dpo_video.recipe import JudgeSettings
from dpo_video.run import Run, StageResult

CANDIDATE = "candidate"
"""Kind of the stored rows that the generate stage writes."""


class _Stopped(Exception):
    """The block beside which the judge is asked has ended by an error."""


def overlapping_stages(
    run: Run,
    names: Collection[str],
    *,
    generate: Callable[[Run], StageResult],
    planned: Callable[[Run], Sequence[PlannedAnswers]],
) -> dict[str, Callable[[Run], StageResult]]:
    """Return what does the stages generate and judge of a command that does both, where the judge
    can be asked beside the first; nothing where it cannot.
    """
    if not {"generate", "judge"} <= set(names) or not judges_ahead(run.recipe.judge):
        return {}
    ahead = JudgingAhead()

    def generate_beside(run: Run) -> StageResult:
        with ahead.beside(run, planned(run)):
            return generate(run)

    return {"generate": generate_beside, "judge": ahead.judge}


def judges_ahead(settings: JudgeSettings) -> bool:
    """Return whether answers are judged while the next are being written: by one reply each, of a
    judge behind a server, whose cost has no limit for the command.
    """
    return (
        settings.while_generating
        and settings.backend == "openai"
        and settings.engine == "here"
        and settings.max_cost is None
        and not needs_several_replies(settings, load_scorer(settings.scorer))
    )


@dataclass(kw_only=True)
class JudgingAhead:
    """What came of the judgments that were asked for beside the generate stage of a command."""

    counts: Counter[str] = field(default_factory=Counter)
    error: BaseException | None = None

    @contextmanager
    def beside(self, run: Run, planned: Sequence[PlannedAnswers]) -> Iterator[None]:
        """Ask about each sample's answers once all are stored, for as long as the block runs; what
        was stored before is asked about first. An error of the judge lets the block go on, and what
        is not asked for when it ends is the judge stage's.
        """
        asking = _JudgeThread(run=run, planned=planned, outcome=self)
        log.info(
            f"judge {run.recipe.judge.model}: asked about answers while the next are written "
            "(judge.while_generating)"
        )
        with run.store.watch(CANDIDATE, asking.tell), asking.in_thread():
            yield
        if self.error is None:
            log.info(
                f"judge {run.recipe.judge.model}: {self.counts['asked']} answers judged meanwhile"
            )
        else:
            log.info(
                f"warning: judge {run.recipe.judge.model} stopped while answers were being written"
            )

    def judge(self, run: Run) -> StageResult:
        """Do the judge stage; what was asked for beside the generate stage counts as asked now.

        Raises the error that ended asking then: asked again, the judge would fail again.
        """
        if self.error is not None:
            raise self.error
        result = judge(run)
        counts = dict(result.counts)
        total = counts["asked"] + counts["answered_before"]
        # not below 0: what failed meanwhile was asked again by the stage
        counts["answered_before"] = max(counts["answered_before"] - self.counts["asked"], 0)
        counts["asked"] = total - counts["answered_before"]
        return replace(result, counts=counts)


@dataclass(kw_only=True)
class _JudgeThread:
    """The judge at work in a thread of its own."""

    run: Run
    planned: Sequence[PlannedAnswers]
    outcome: JudgingAhead
    stored: SimpleQueue[str] = field(default_factory=SimpleQueue)
    """Keys of candidates as they are stored."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Set where the block has ended: what is under way is waited for, and the judge stage asks the
    rest.
    """
    stopped: threading.Event = field(default_factory=threading.Event)
    """Set where the block ended by an error: no more prompts are asked, and none is waited for."""

    def tell(self, key: str) -> None:
        """Take note of a stored candidate."""
        self.stored.put(key)

    @contextmanager
    def in_thread(self) -> Iterator[None]:
        """Ask for as long as the block runs, and until what is under way then is answered."""
        thread = threading.Thread(target=self._work, name="judge-ahead", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            self.stopped.set()
            raise
        finally:
            self.ended.set()
            thread.join()

    def _work(self) -> None:
        settings = self.run.recipe.judge
        scorer = load_scorer(settings.scorer)
        try:
            with open_judge(settings) as opened:
                self.outcome.counts = ask_as_they_come(
                    settings,
                    scorer,
                    self._prompts(scorer, opened),
                    self.run.store,
                    judge=opened,
                    is_over=self.ended.is_set,
                )
        except BaseException as error:  # noqa: BLE001 - raised again where the judge stage begins
            self.outcome.error = error

    def _prompts(self, scorer: Scorer, opened: Judge) -> Prompts:
        """Yield the prompts of samples whose candidates are all stored, as they come to be, each
        with its key; NOT_YET while there are none.
        """
        keys_of = answer_keys(self.run.recipe.judge, scorer, opened)
        tokens = checkpoint_tokens(self.run.recipe.model)

        def prompts_of(answers: PlannedAnswers) -> Prompts:
            key_of = keys_of(answers.sample)
            if key_of is None:
                return
            rows = self.run.store.get(CANDIDATE, answers.candidates)
            block = [make(rows[key]) for key, make in answers.candidates.items()]
            plan = AnswerPlan()
            plan.add(block, self.run.recipe.clean, tokens)
            for number, candidate in enumerate(block):
                if plan.is_judged(number):
                    prompt = candidate_prompt(scorer, answers.sample, candidate)
                    yield key_of(candidate.text).hex(), prompt

        for answers in self._complete():
            if answers is None:
                yield "", NOT_YET
            else:
                yield from prompts_of(answers)

    def _complete(self) -> Iterator[PlannedAnswers | None]:
        """Yield the samples whose candidates are all stored, as they come to be; None while there
        is none.
        """
        missing: list[set[str]] = []
        sample_of: dict[str, int] = {}
        for index, answers in enumerate(self.planned):
            stored = self.run.store.known(CANDIDATE, answers.candidates, without=())
            missing.append(set(answers.candidates) - stored)
            sample_of |= dict.fromkeys(missing[-1], index)
            if not missing[-1]:
                yield answers
        while True:
            if self.stopped.is_set():
                raise _Stopped
            if self.ended.is_set():
                return
            try:
                key = self.stored.get_nowait()
            except Empty:
                yield None
                continue
            index = sample_of.pop(key, -1)  # -1: another stage's, or stored before and now again
            if index >= 0:
                missing[index].discard(key)
                if not missing[index]:
                    yield self.planned[index]
