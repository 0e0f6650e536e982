"""The judge stage: ask about every candidate once, store replies as they come, read the scores from the replies.

Neither prompts nor replies are held: prompts are made one by one, and judgments.jsonl is written from the store.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from dpo_video.errors import UserError
from dpo_video.judges.asking import KIND, LOOKED_UP, Prompts, ask_all, ask_missing, key_maker
from dpo_video.judges.backends import Judge, Messages, Mode, Reply, mode_of, open_judge
from dpo_video.judges.candidates import CandidateFile, Keys, caption_ranks, open_candidates
from dpo_video.judges.scorer import Scorer, load_scorer, render
from dpo_video.judges.spending import Spending
from dpo_video.judges.verdict import Verdict, check_examples, expected, parse
from dpo_video.recipe import JudgeSettings
from dpo_video.records import Candidate, Judgment, Sample, write_jsonl
from dpo_video.run import Run
from dpo_video.store import RunStore


def judge(run: Run) -> dict[str, Any]:
    """Score candidates.jsonl into judgments.jsonl; return counts."""
    settings = run.recipe.judge
    scorer = load_scorer(settings.scorer)
    check_examples(scorer)
    candidates = open_candidates(run.folder / "candidates.jsonl", run.samples)
    _check_references(scorer, candidates.used)
    counts, keys, tally = Counter[str](), Keys(size=len(candidates)), Tally()
    with open_judge(settings) as opened:
        prompts = _prompts(scorer, candidates, keys, key_of=key_maker(settings, scorer, opened))
        ask_missing(settings, scorer, prompts, run.store, judge=opened, total=len(candidates), counts=counts)
        spending = Spending(price=opened.spending.price)
        judgments = _judgments(settings, scorer, candidates, keys, run.store, judge=opened, spending=spending)
        write_jsonl(run.folder / "judgments.jsonl", tally.watch(judgments))
    asked = {name: counts[name] for name in ("asked", "answered_before", "same_text")}
    summary = tally.summary() | asked | spending.summary()
    if not summary["scored"]:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in summary["reasons"].items())
        raise UserError(f"none of the {len(candidates)} candidates got a score: {reasons}. The judge's replies are in "
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
    _check_references(scorer, [sample for sample, _ in items])
    mode, ranks = mode_of(settings, scorer), caption_ranks(sample for sample, _ in items)
    asked = [(candidate.id, messages) for sample, candidate in sorted(items, key=lambda item: ranks[item[0].id])
             if (messages := _prompt(scorer, sample, candidate)) is not None]
    with nullcontext(judge) if judge else open_judge(settings) as opened:
        replies = ask_all(settings, scorer, [messages for _, messages in asked], store, judge=opened, counts=counts)
        by_id = {candidate_id: reply for (candidate_id, _), reply in zip(asked, replies, strict=True)}
        return {candidate.id: _judgment(scorer, mode, candidate, opened, by_id.get(candidate.id))
                for _, candidate in items}


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
        """Return candidates, scored, unscored, failed, refused where there are any, the reasons, the mean score."""
        scored, refused = self.status["scored"], self.status["refused"]
        return {"candidates": self.status.total(), "scored": scored, "unscored": self.status["unscored"],
                "failed": self.status["failed"], **({"refused": refused} if refused else {}),
                "reasons": dict(self.reasons.most_common()), "mean_score": self.score / scored if scored else None}


def summarise(judgments: Iterable[Judgment]) -> dict[str, Any]:
    """Return what `Tally.summary` does, of all judgments."""
    tally = Tally()
    for _ in tally.watch(judgments):
        pass
    return tally.summary()


def _check_references(scorer: Scorer, samples: Iterable[Sample]) -> None:
    answers = [bool(sample.answer) for sample in samples] if scorer.needs_reference else []
    if answers and not any(answers):
        raise UserError(f"scorer {scorer.name!r} compares with gold answers, and none of the samples has an `answer`. "
                        "Add them, or choose a scorer that reads the caption, such as hound_quality")


def _prompt(scorer: Scorer, sample: Sample, candidate: Candidate) -> Messages | None:
    """Return what the judge is asked; None where there is nothing to compare with."""
    if scorer.needs_reference and not sample.answer:
        return None
    return render(scorer, caption=sample.caption, question=sample.prompt, answer=candidate.text,
                  reference=sample.answer)


def _prompts(scorer: Scorer, candidates: CandidateFile, keys: Keys, *, key_of: Callable[[Messages], str]) -> Prompts:
    """Yield each candidate's key and prompt, those of a clip side by side, and note the key.

    Equal prompts stand near each other: they have the caption and the question in common.
    """
    caption, seen = None, set[str]()
    for number, sample, candidate in candidates.by_caption():
        messages = _prompt(scorer, sample, candidate)
        if messages is None:
            continue
        if sample.caption != caption:
            caption = sample.caption
            seen.clear()
        key = key_of(messages)
        keys.put(number, key, first=key not in seen)
        yield key, None if key in seen else messages
        seen.add(key)


def _judgments(settings: JudgeSettings, scorer: Scorer, candidates: CandidateFile, keys: Keys, store: RunStore, *,
               judge: Judge, spending: Spending) -> Iterator[Judgment]:
    """Yield the judgment of every candidate, in the order of the file; `spending` counts each reply once."""
    mode, waiting = mode_of(settings, scorer), candidates.in_order()
    while some := list(islice(waiting, LOOKED_UP)):
        rows = store.get(KIND, {key for number, _, _ in some if (key := keys.get(number)) is not None})
        for number, _, candidate in some:
            key = keys.get(number)
            reply = None if key is None else Reply(**rows[key])
            if reply is not None and keys.is_first(number):
                spending.add(reply)
            yield _judgment(scorer, mode, candidate, judge, reply)


def _judgment(scorer: Scorer, mode: Mode, candidate: Candidate, judge: Judge, reply: Reply | None) -> Judgment:
    """Return what a reply says about a candidate; no reply means that there was nothing to compare with."""
    distribution = None
    if reply is None:
        verdict, status = Verdict(score=None, reason="no gold answer: the sample has none to compare with"), "unscored"
    elif reply.status != "answered":
        verdict, status = Verdict(score=None, reason=reply.reason), reply.status
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
