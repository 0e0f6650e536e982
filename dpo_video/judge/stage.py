"""The judge stage: ask about every candidate once, store replies as they come, read the scores from
the replies.

Neither prompts nor replies are held: prompts are made one by one, and judgments.jsonl is written
from the store.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.progress import log
from dpo_video.core.records import Candidate, Judgment, Sample
from dpo_video.data.answer_filters import AnswerPlan
from dpo_video.data.removed import removed_answer, write_removed
from dpo_video.judge.ask import KIND, PAGE_SIZE, ask_missing, ask_prompts, statuses_asked_again
from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.candidate_file import (
    EDITED,
    CandidateFile,
    caption_ranks,
    open_candidates,
)
from dpo_video.judge.judgments import Tally, dropped_judgment, reply_judgment
from dpo_video.judge.modes.jury import family_warnings
from dpo_video.judge.modes.registry import judge_with_mode, needs_several_replies
from dpo_video.judge.prompt import question_of, render
from dpo_video.judge.reply_keys import KeysOfSample, answer_keys
from dpo_video.judge.scorer import Scorer, load_scorer
from dpo_video.judge.types import Judge, Judged, JudgeItem, Messages, OpenJudge, Reply, Spending
from dpo_video.judge.verdict import check_examples
from dpo_video.models.control_tokens import checkpoint_tokens
from dpo_video.recipe import JudgeSettings
from dpo_video.run import Run, StageResult
from dpo_video.store import RowStore


def judge(
    run: Run, *, open_judge: OpenJudge = open_judge, store: RowStore | None = None
) -> StageResult:
    """Score candidates.jsonl into judgments.jsonl; incomplete where judgments failed.

    Args:
        open_judge: opens every judge that is asked, those of a jury or a cascade too.
        store: holds the replies in the place of the run's own store.
    """
    settings = run.recipe.judge
    scorer = load_scorer(settings.scorer)
    judge_file = (
        _judge_by_several if needs_several_replies(settings, scorer) else _judge_by_one_reply
    )
    summary = judge_file(run, scorer, store or run.store, open_judge)
    related = family_warnings(settings, run.recipe.model.name)
    if related:
        summary["warning"] = "; ".join(related)
    if not summary["scored"]:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in summary["reasons"].items())
        raise UserError(
            f"none of the {summary['candidates']} candidates got a score: {reasons}. The judge's "
            f"replies are in {str(run.folder / 'judgments.jsonl')!r}"
        )
    failed = summary["failed"]
    return StageResult(
        counts=summary, incomplete_because=f"{failed} judgments failed" if failed else ""
    )


def _judge_by_one_reply(
    run: Run, scorer: Scorer, store: RowStore, open_judge: OpenJudge
) -> dict[str, Any]:
    """Write judgments.jsonl where one reply judges a candidate: nothing but keys is held; return
    counts.
    """
    settings = run.recipe.judge
    check_examples(scorer)
    with open_judge(settings) as judge:
        candidates = _open_candidates(run, answer_keys(settings, scorer, judge))
        _check_references(scorer, candidates.used)
        counts = _ask_missing(settings, scorer, candidates, store, judge=judge)
        candidates.keys.share(candidates.plan.judged_as)
        tally = Tally(spending=Spending(price=judge.spending.price))
        judgments = _judgments(settings, scorer, candidates, store, judge=judge)
        write_jsonl(run.folder / "judgments.jsonl", tally.watch(judgments))
    return tally.summary() | _reply_counts(counts, candidates.plan) | tally.spending.summary()


def _open_candidates(run: Run, keys_of: KeysOfSample | None = None) -> CandidateFile:
    """Return the candidates of a run; note those that cleaning leaves out."""
    candidates = open_candidates(
        run.folder / "candidates.jsonl",
        run.samples,
        run.recipe.clean,
        keys_of=keys_of,
        tokens=checkpoint_tokens(run.recipe.model),
    )
    write_removed(
        run.folder,
        "answer",
        (
            removed_answer(candidates.numbered(number), why)
            for number, why in candidates.plan.dropped.items()
        ),
    )
    _tell_edited(run, len(candidates))
    return candidates


def _tell_edited(run: Run, num_rows: int) -> None:
    """Say where candidates.jsonl has another number of rows than `generate` wrote."""
    generated = run.store.finished("generate")
    num_written = None if generated is None else generated["summary"].get("candidates")
    if num_written is None or num_written == num_rows:
        return
    change = (
        f"{num_written - num_rows} were deleted since"
        if num_rows < num_written
        else f"{num_rows - num_written} were added since"
    )
    log.info(
        f"warning: {run.folder / 'candidates.jsonl'} has {num_rows} rows where `dpo-video "
        f"generate` wrote {num_written}: {change}. They are judged as they are. {EDITED}"
    )


def _ask_missing(
    settings: JudgeSettings,
    scorer: Scorer,
    candidates: CandidateFile,
    store: RowStore,
    *,
    judge: Judge,
) -> Counter[str]:
    """Ask about the candidates that the store has no reply to, those of a clip side by side; return
    the counts.
    """
    keys = candidates.keys
    stored = store.keys(KIND, without=statuses_asked_again(settings))
    missing = keys.missing(candidates.order, stored)
    prompts = (
        (keys.of(number), candidate_prompt(scorer, sample, candidate))
        for number, sample, candidate in candidates.read(missing)
    )
    counts = ask_missing(
        settings,
        scorer,
        prompts,
        store,
        judge=judge,
        total=keys.num_different,
        answered=keys.num_different - len(missing),
    )
    counts["same_text"] += keys.num_judged - keys.num_different
    return counts


def _judge_by_several(
    run: Run, scorer: Scorer, store: RowStore, open_judge: OpenJudge
) -> dict[str, Any]:
    """Write judgments.jsonl where a judgment takes several replies, or several candidates; return
    counts.
    """
    settings, tally = run.recipe.judge, Tally()
    candidates = _open_candidates(run)
    plan = candidates.plan
    judge_items = [
        (sample, candidate)
        for number, sample, candidate in candidates.in_order()
        if plan.is_judged(number)
    ]
    judgments, counts = judge_candidates(
        settings, scorer, judge_items, store, open_judge=open_judge
    )

    def rows() -> Iterator[tuple[Judgment, None]]:
        for number, _, candidate in candidates.in_order():
            if number in plan.dropped:
                row = dropped_judgment(candidate, plan, number, scorer=scorer, judge=settings.model)
            elif plan.is_judged(number):
                row = judgments[candidate.id]
            else:
                twin = candidates.numbered(plan.judged_as[number]).id
                row = replace(judgments[twin], candidate_id=candidate.id, taken_from=twin)
            yield row, None

    write_jsonl(run.folder / "judgments.jsonl", tally.watch(rows()))
    return tally.summary() | dict(counts) | _reply_counts(counts, plan)


def _reply_counts(counts: Counter[str], plan: AnswerPlan) -> dict[str, int]:
    """Return how many replies were asked for, known before, and shared by candidates that say the
    same.
    """
    return {
        "asked": counts["asked"],
        "answered_before": counts["answered_before"],
        "same_text": counts["same_text"] + plan.num_shared,
    }


def judge_candidates(
    settings: JudgeSettings,
    scorer: Scorer,
    judge_items: Sequence[JudgeItem],
    store: RowStore,
    *,
    judge: Judge | None = None,
    open_judge: OpenJudge = open_judge,
) -> Judged:
    """Return the judgment of every candidate by its id, and the counts; ask only what the store
    holds no reply to.

    Failed rows are asked again. Candidates of a sample with the same text share one reply. Pass an
    open `judge` to use one loaded model for several calls; `open_judge` opens all others.
    """
    if needs_several_replies(settings, scorer):

        def judge_once(settings: JudgeSettings, judge_items: Sequence[JudgeItem]) -> Judged:
            return judge_candidates(settings, scorer, judge_items, store, open_judge=open_judge)

        return judge_with_mode(
            settings,
            scorer,
            judge_items,
            store,
            judge=judge,
            open_judge=open_judge,
            judge_once=judge_once,
        )
    check_examples(scorer)
    _check_references(scorer, [sample for sample, _ in judge_items])
    ranks = caption_ranks(sample for sample, _ in judge_items)
    candidate_ids, prompts = [], []
    for sample, candidate in sorted(judge_items, key=lambda judge_item: ranks[judge_item[0].id]):
        if scorer.can_judge(sample.answer):
            candidate_ids.append(candidate.id)
            prompts.append(candidate_prompt(scorer, sample, candidate))
    with nullcontext(judge) if judge else open_judge(settings) as opened:
        replies, counts = ask_prompts(settings, scorer, prompts, store, judge=opened)
        by_id = dict(zip(candidate_ids, replies, strict=True))
        judgments = {
            candidate.id: reply_judgment(
                settings, scorer, candidate, opened, by_id.get(candidate.id)
            )
            for _, candidate in judge_items
        }
    return Judged(judgments, counts)


def _check_references(scorer: Scorer, samples: Iterable[Sample]) -> None:
    has_answer = [bool(sample.answer) for sample in samples] if scorer.needs_reference else []
    if has_answer and not any(has_answer):
        raise UserError(
            f"scorer {scorer.name!r} compares with gold answers, and none of the samples has an "
            "`answer`. Add them, or choose a scorer that reads the caption, such as hound_quality"
        )


def candidate_prompt(scorer: Scorer, sample: Sample, candidate: Candidate) -> Messages:
    """Return what a judge is asked about a candidate."""
    return render(
        scorer,
        caption=sample.caption,
        question=question_of(sample),
        answer=candidate.text,
        reference=sample.answer,
    )


def _judgments(
    settings: JudgeSettings,
    scorer: Scorer,
    candidates: CandidateFile,
    store: RowStore,
    *,
    judge: Judge,
) -> Iterator[tuple[Judgment, Reply | None]]:
    """Yield the judgment of every candidate, in the order of the file, each reply with the first
    judgment that is read from it.
    """
    keys, plan = candidates.keys, candidates.plan
    rows = candidates.in_order()
    while page := list(islice(rows, PAGE_SIZE)):
        replies = store.get(KIND, {keys.of(number) for number, _, _ in page if keys.has(number)})
        for number, _, candidate in page:
            if number in plan.dropped:
                yield (
                    dropped_judgment(candidate, plan, number, scorer=scorer, judge=judge.name),
                    None,
                )
                continue
            reply = judge.note(Reply(**replies[keys.of(number)])) if keys.has(number) else None
            judgment = reply_judgment(settings, scorer, candidate, judge, reply)
            twin = plan.judged_as[number]
            if twin != number:
                judgment = replace(judgment, taken_from=candidates.numbered(twin).id)
            yield judgment, reply if keys.is_first(number) else None
