"""The judge stage: ask about every candidate once, store replies as they come, read the scores from the replies."""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

from dpo_video.cleaned import dropped_answer, note_cleaned
from dpo_video.errors import UserError
from dpo_video.judges.asking import ask_all
from dpo_video.judges.backends import Judge, Mode, Reply, mode_of, open_judge
from dpo_video.judges.scorer import Scorer, load_scorer, render
from dpo_video.judges.verdict import Verdict, check_examples, expected, parse
from dpo_video.recipe import JudgeSettings
from dpo_video.records import Candidate, Judgment, Sample, read_jsonl, write_jsonl
from dpo_video.run import Run
from dpo_video.screening import judgment_of, screened
from dpo_video.store import RunStore


def judge(run: Run) -> dict[str, Any]:
    """Score candidates.jsonl into judgments.jsonl; return counts."""
    samples = {sample.id: sample for sample in run.samples}
    items, screening = [], []
    for item in screened(read_jsonl(run.folder / "candidates.jsonl", Candidate), run.recipe.clean):
        candidate = item.candidate
        screening.append(item)
        if candidate.sample_id not in samples:
            raise UserError(f"candidate {candidate.id!r} answers sample {candidate.sample_id!r}, which is not among "
                            "data.samples. Make the candidates again: dpo-video generate RECIPE")
        if item.same_as is None and item.dropped is None:
            items.append((samples[candidate.sample_id], candidate))
    if not screening:
        raise UserError(f"no candidates in {str(run.folder / 'candidates.jsonl')!r}; make them first: "
                        "dpo-video generate RECIPE")
    settings, scorer = run.recipe.judge, load_scorer(run.recipe.judge.scorer)
    counts: Counter[str] = Counter(same_text=sum(item.same_as is not None for item in screening))
    judgments = judge_candidates(settings, scorer, items, run.store, counts=counts) if items else {}
    ordered = [judgment_of(item, judgments, scorer=scorer.version, judge=settings.model) for item in screening]
    write_jsonl(run.folder / "judgments.jsonl", ordered)
    note_cleaned(run.folder, "answer", (dropped_answer(item) for item in screening if item.dropped))
    summary = summarise(ordered) | dict(counts)
    if not summary["scored"]:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in summary["reasons"].items())
        raise UserError(f"none of the {len(screening)} candidates got a score: {reasons}. The judge's replies are in "
                        f"{str(run.folder / 'judgments.jsonl')!r}")
    return summary


def judge_candidates(settings: JudgeSettings, scorer: Scorer, items: Sequence[tuple[Sample, Candidate]],
                     store: RunStore, *, judge: Judge | None = None,
                     counts: Counter[str] | None = None) -> dict[str, Judgment]:
    """Return the judgment of every candidate by its id; ask only what the store holds no reply to.

    Failed rows are asked again. Candidates of a sample with the same text share one reply. Pass an open `judge` to use
    one loaded model for several calls. `counts` gains `asked`, `answered_before` and `same_text`.
    """
    check_examples(scorer)
    if scorer.needs_reference and items and not any(sample.answer for sample, _ in items):
        raise UserError(f"scorer {scorer.name!r} compares with gold answers, and none of the samples has an `answer`. "
                        "Add them, or choose a scorer that reads the caption, such as hound_quality")
    mode = mode_of(settings, scorer)
    asked = [(candidate.id, render(scorer, caption=sample.caption, question=sample.prompt, answer=candidate.text,
                                   reference=sample.answer))
             for sample, candidate in _by_caption(items) if sample.answer or not scorer.needs_reference]
    with nullcontext(judge) if judge else open_judge(settings) as opened:
        replies = ask_all(settings, scorer, [messages for _, messages in asked], store, judge=opened, counts=counts)
        by_id = {candidate_id: reply for (candidate_id, _), reply in zip(asked, replies, strict=True)}
        return {candidate.id: _judgment(scorer, mode, candidate, opened, by_id.get(candidate.id))
                for _, candidate in items}


def summarise(judgments: Iterable[Judgment]) -> dict[str, Any]:
    """Return the counts of a stage: candidates, scored, unscored, failed and dropped, the reasons, the mean score."""
    rows = list(judgments)
    status = Counter(row.status for row in rows)
    reasons = Counter(row.reason.split(":")[0] for row in rows if row.score is None)
    scores = [row.score for row in rows if row.score is not None]
    dropped = {"dropped": status["dropped"]} if status["dropped"] else {}
    return {"candidates": len(rows), "scored": status["scored"], "unscored": status["unscored"],
            "failed": status["failed"], "reasons": dict(reasons.most_common()),
            "mean_score": sum(scores) / len(scores) if scores else None} | dropped


def _by_caption(items: Sequence[tuple[Sample, Candidate]]) -> list[tuple[Sample, Candidate]]:
    """Return the items with those of one caption, then question, side by side: servers then reuse the shared prefix."""
    first: dict[tuple[str, ...], int] = {}
    for number, (sample, _) in enumerate(items):
        first.setdefault((sample.caption,), number)
        first.setdefault((sample.caption, sample.prompt), number)
    return sorted(items, key=lambda item: (first[item[0].caption,], first[item[0].caption, item[0].prompt]))


def _judgment(scorer: Scorer, mode: Mode, candidate: Candidate, judge: Judge, reply: Reply | None) -> Judgment:
    """Return what a reply says about a candidate; no reply means that there was nothing to compare with."""
    distribution = None
    if reply is None:
        verdict, status = Verdict(score=None, reason="no gold answer: the sample has none to compare with"), "unscored"
    elif reply.status == "failed":
        verdict, status = Verdict(score=None, reason=reply.reason), "failed"
    else:
        verdict, distribution = read_reply(scorer, mode, reply)
        status = "unscored" if verdict.score is None else "scored"
    return Judgment(candidate_id=candidate.id, scorer=scorer.version, judge=judge.name, score=verdict.score,
                    status=status, reason=verdict.reason, reply=reply.text if reply else "", distribution=distribution)


def read_reply(scorer: Scorer, mode: Mode, reply: Reply) -> tuple[Verdict, dict[str, float] | None]:
    """Return the verdict of an answered reply, and the label probabilities where it was read from them."""
    if mode == "labels" and reply.log_probs is not None:
        return expected(scorer, reply.log_probs)
    if reply.finish == "length":
        return Verdict(score=None, reason="cut off: the reply reached judge.max_tokens before its end"), None
    verdict = parse(scorer, reply.text)
    if mode == "labels" and verdict.score is not None:
        return Verdict(score=None, reason=f"no label probabilities: {verdict.label!r} is not a token of its own"), None
    return verdict, None
