"""The judge stage: ask about every candidate once, store replies as they come, read the scores from
the replies.

Neither prompts nor replies are held: prompts are made one by one, and judgments.jsonl is written
from the store.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Candidate, Judgment, Sample
from dpo_video.data.answer_filters import AnswerPlan
from dpo_video.data.removed import dropped_answer, write_removed
from dpo_video.judge.ask import KIND, LOOKED_UP, ask_all, ask_missing, asked_again
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.candidate_file import CandidateFile, caption_ranks, open_candidates
from dpo_video.judge.modes.jury import family_warnings
from dpo_video.judge.modes.registry import judge_with_mode, needs_several_replies
from dpo_video.judge.reply_keys import Keys, answer_keys
from dpo_video.judge.scorer import Scorer, load_scorer, render
from dpo_video.judge.types import Judge, Messages, Reply, Spending
from dpo_video.judge.verdict import Verdict, check_examples, read_reply
from dpo_video.recipe import JudgeSettings
from dpo_video.run import Run, StageResult
from dpo_video.store import RunStore


def judge(run: Run) -> StageResult:
    """Score candidates.jsonl into judgments.jsonl; incomplete where judgments failed."""
    settings = run.recipe.judge
    scorer = load_scorer(settings.scorer)
    summary = (_judge_by_several if needs_several_replies(settings, scorer) else _judge_each)(
        run, scorer
    )
    related = family_warnings(settings, run.recipe.model.name)
    if related:
        summary["warning"] = "; ".join(related)
    if not summary["scored"]:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in summary["reasons"].items())
        raise UserError(
            f"none of the {summary['candidates']} candidates got a score: {reasons}. The judge's "
            f"replies "
            f"are in {str(run.folder / 'judgments.jsonl')!r}"
        )
    failed = summary["failed"]
    return StageResult(
        counts=summary, incomplete_because=f"{failed} judgments failed" if failed else ""
    )


def _open(run: Run, keys: Keys | None = None) -> tuple[CandidateFile, AnswerPlan]:
    """Return the candidates and what is done about each; note those that cleaning leaves out."""
    candidates, screening = open_candidates(
        run.folder / "candidates.jsonl", run.samples, run.recipe.clean, keys=keys
    )
    write_removed(
        run.folder,
        "answer",
        (
            dropped_answer(candidates.numbered(number), why)
            for number, why in screening.dropped.items()
        ),
    )
    return candidates, screening


def _judge_each(run: Run, scorer: Scorer) -> dict[str, Any]:
    """Write judgments.jsonl where one reply judges a candidate: nothing but keys is held; return
    counts.
    """
    settings, counts, tally = run.recipe.judge, Counter[str](), Tally()
    check_examples(scorer)
    with open_judge(settings) as opened:
        keys = Keys(key_of=answer_keys(settings, scorer, opened))
        candidates, screening = _open(run, keys)
        _check_references(scorer, candidates.used)
        _ask_missing(run, scorer, candidates, keys, judge=opened, counts=counts)
        keys.share(screening.takes)
        spending = Spending(price=opened.spending.price)
        judgments = _judgments(
            settings,
            scorer,
            candidates,
            screening,
            keys,
            run.store,
            judge=opened,
            spending=spending,
        )
        write_jsonl(run.folder / "judgments.jsonl", tally.watch(judgments))
    return tally.summary() | _asked(counts, screening) | spending.summary()


def _ask_missing(
    run: Run,
    scorer: Scorer,
    candidates: CandidateFile,
    keys: Keys,
    *,
    judge: Judge,
    counts: Counter[str],
) -> None:
    """Ask about the candidates that the store has no reply to, those of a clip side by side."""
    settings = run.recipe.judge
    missing = keys.missing(candidates.order, run.store.keys(KIND, without=asked_again(settings)))
    prompts = (
        (keys.of(number), _prompt(scorer, sample, candidate))
        for number, sample, candidate in candidates.read(missing)
    )
    ask_missing(
        settings,
        scorer,
        prompts,
        run.store,
        judge=judge,
        total=keys.num_different,
        answered=keys.num_different - len(missing),
        counts=counts,
    )
    counts["same_text"] += keys.num_made - keys.num_different


def _judge_by_several(run: Run, scorer: Scorer) -> dict[str, Any]:
    """Write judgments.jsonl where a judgment takes several replies, or several candidates; return
    counts.
    """
    settings, counts, tally = run.recipe.judge, Counter[str](), Tally()
    candidates, screening = _open(run)
    items = [
        (sample, candidate)
        for number, sample, candidate in candidates.in_order()
        if screening.is_judged(number)
    ]
    made = judge_candidates(settings, scorer, items, run.store, counts=counts)

    def rows() -> Iterator[Judgment]:
        for number, _, candidate in candidates.in_order():
            if number in screening.dropped:
                yield dropped_judgment(
                    candidate, screening.dropped[number], scorer=scorer, judge=settings.model
                )
            elif screening.is_judged(number):
                yield made[candidate.id]
            else:
                other = candidates.numbered(screening.takes[number]).id
                yield replace(made[other], candidate_id=candidate.id, taken_from=other)

    write_jsonl(run.folder / "judgments.jsonl", tally.watch(rows()))
    return tally.summary() | dict(counts) | _asked(counts, screening)


def _asked(counts: Counter[str], screening: AnswerPlan) -> dict[str, int]:
    """Return how many replies were asked for, known before, and shared by candidates that say the
    same.
    """
    return {
        "asked": counts["asked"],
        "answered_before": counts["answered_before"],
        "same_text": counts["same_text"] + screening.num_taken,
    }


def judge_candidates(
    settings: JudgeSettings,
    scorer: Scorer,
    items: Sequence[tuple[Sample, Candidate]],
    store: RunStore,
    *,
    judge: Judge | None = None,
    counts: Counter[str] | None = None,
) -> dict[str, Judgment]:
    """Return the judgment of every candidate by its id; ask only what the store holds no reply to.

    Failed rows are asked again. Candidates of a sample with the same text share one reply. Pass an
    open `judge` to use one loaded model for several calls. `counts` gains `asked`,
    `answered_before` and `normalised_text`.
    """
    if needs_several_replies(settings, scorer):
        return judge_with_mode(
            settings,
            scorer,
            items,
            store,
            judge=judge,
            counts=counts,
            again=lambda one, some: judge_candidates(one, scorer, some, store, counts=counts),
        )
    check_examples(scorer)
    _check_references(scorer, [sample for sample, _ in items])
    ranks = caption_ranks(sample for sample, _ in items)
    asked = [
        (candidate.id, _prompt(scorer, sample, candidate))
        for sample, candidate in sorted(items, key=lambda item: ranks[item[0].id])
        if scorer.can_judge(sample.answer)
    ]
    with nullcontext(judge) if judge else open_judge(settings) as opened:
        replies = ask_all(
            settings,
            scorer,
            [messages for _, messages in asked],
            store,
            judge=opened,
            counts=counts,
        )
        by_id = {
            candidate_id: reply for (candidate_id, _), reply in zip(asked, replies, strict=True)
        }
        return {
            candidate.id: _judgment(settings, scorer, candidate, opened, by_id.get(candidate.id))
            for _, candidate in items
        }


@dataclass(kw_only=True)
class Tally:
    """Counts over judgments as they pass."""

    status: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    score: float = 0.0

    def watch(self, judgments: Iterable[Judgment]) -> Iterator[Judgment]:
        """Yield the judgments, counted."""
        for row in judgments:
            self.status[row.status] += 1
            if row.score is None:
                self.reasons[row.reason.split(":")[0]] += 1
            else:
                self.score += row.score
            yield row

    def summary(self) -> dict[str, Any]:
        """Return candidates, scored, unscored, failed, those refused and dropped, the reasons, the
        mean score.
        """
        scored = self.status["scored"]
        others = {name: self.status[name] for name in ("refused", "dropped") if self.status[name]}
        return {
            "candidates": self.status.total(),
            "scored": scored,
            "unscored": self.status["unscored"],
            "failed": self.status["failed"],
            **others,
            "reasons": dict(self.reasons.most_common()),
            "mean_score": self.score / scored if scored else None,
        }


def summarise(judgments: Iterable[Judgment]) -> dict[str, Any]:
    """Return what `Tally.summary` does, of all judgments."""
    tally = Tally()
    for _ in tally.watch(judgments):
        pass
    return tally.summary()


def _check_references(scorer: Scorer, samples: Iterable[Sample]) -> None:
    answers = [bool(sample.answer) for sample in samples] if scorer.needs_reference else []
    if answers and not any(answers):
        raise UserError(
            f"scorer {scorer.name!r} compares with gold answers, and none of the samples has an "
            f"`answer`. "
            "Add them, or choose a scorer that reads the caption, such as hound_quality"
        )


def _prompt(scorer: Scorer, sample: Sample, candidate: Candidate) -> Messages:
    return render(
        scorer,
        caption=sample.caption,
        question=sample.prompt,
        answer=candidate.text,
        reference=sample.answer,
    )


def _judgments(
    settings: JudgeSettings,
    scorer: Scorer,
    candidates: CandidateFile,
    screening: AnswerPlan,
    keys: Keys,
    store: RunStore,
    *,
    judge: Judge,
    spending: Spending,
) -> Iterator[Judgment]:
    """Yield the judgment of every candidate, in the order of the file; `spending` counts each reply
    once.
    """
    waiting = candidates.in_order()
    while some := list(islice(waiting, LOOKED_UP)):
        rows = store.get(KIND, {keys.of(number) for number, _, _ in some if keys.has(number)})
        for number, _, candidate in some:
            if number in screening.dropped:
                yield dropped_judgment(
                    candidate, screening.dropped[number], scorer=scorer, judge=judge.name
                )
                continue
            reply = judge.note(Reply(**rows[keys.of(number)])) if keys.has(number) else None
            if reply is not None and keys.is_first(number):
                spending.add(reply)
            made, other = (
                _judgment(settings, scorer, candidate, judge, reply),
                screening.takes[number],
            )
            yield (
                made if other == number else replace(made, taken_from=candidates.numbered(other).id)
            )


def dropped_judgment(candidate: Candidate, why: str, *, scorer: Scorer, judge: str) -> Judgment:
    """Return the judgment of a candidate that cleaning left out."""
    return Judgment(
        candidate_id=candidate.id,
        scorer=scorer.version,
        judge=judge,
        score=None,
        status="dropped",
        reason=why,
        reply="",
    )


def _judgment(
    settings: JudgeSettings, scorer: Scorer, candidate: Candidate, judge: Judge, reply: Reply | None
) -> Judgment:
    """Return what a reply says about a candidate; no reply means that there was nothing to compare
    with.
    """
    distribution = None
    if reply is None:
        verdict, status = (
            Verdict(score=None, reason="no gold answer: the sample has none to compare with"),
            "unscored",
        )
    elif reply.status != "answered":
        verdict, status = Verdict(score=None, reason=reply.reason), reply.status
    else:
        verdict, distribution = read_reply(settings, scorer, reply)
        status = "unscored" if verdict.score is None else "scored"
    return Judgment(
        candidate_id=candidate.id,
        scorer=scorer.version,
        judge=judge.name,
        score=verdict.score,
        status=status,
        reason=verdict.reason,
        reply=reply.text if reply else "",
        distribution=distribution,
    )
