"""Judge answers claim by claim: take each apart, hold every claim against the caption, weigh
precision with coverage.

Score = F1 of precision and coverage, 2 p c / (p + c), in 0 to 1; precision p alone where the scorer
names no coverage. p is the mean over the claims of a claim's worth: the labels' values weighed by
their probabilities, supported being 1. c is the expected score of the coverage scorer for the whole
answer, put on 0 to 1.

F1 of atomic statements held against a video's reference text is Tarsier's AutoDQ (arXiv
2407.00634), precision over atomic facts FActScore's (arXiv 2305.14251); probabilities in the place
of counts, and coverage of the question in the place of the caption's events, are ours. RLAIF-V
(arXiv 2405.17220) counts rejected claims: it throws the margin of each claim away, and a longer
answer has more claims to lose by. A mean over distinct claims does neither.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from statistics import fmean
from typing import Any, Protocol

from dpo_video.core.errors import UserError
from dpo_video.core.records import Judgment, Sample
from dpo_video.judge.ask import Asked, ask_prompts
from dpo_video.judge.prompt import question_of, render
from dpo_video.judge.scorer import Scorer
from dpo_video.judge.thinking import thinking_end
from dpo_video.judge.types import Judge, Judged, JudgeItem, Messages, Reply
from dpo_video.judge.unscored import ReadReply
from dpo_video.judge.verdict import Verdict, read_reply
from dpo_video.recipe import JudgeSettings
from dpo_video.store import RowStore

CLAIM = re.compile(r"(?:[-*\u2022]|\d+[.)])\s+(?P<claim>\S.*)")
SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")
NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """The claims of one answer, or why there are none."""

    claims: tuple[str, ...] = ()
    reason: str = ""
    reply: str = ""
    """What the judge wrote."""
    status: str = "unscored"
    """The judgment's status where there are no claims."""


def judge_claims(
    settings: JudgeSettings,
    scorer: Scorer,
    judge_items: Sequence[JudgeItem],
    store: RowStore,
    *,
    judge: Judge,
) -> Judged:
    """Return the judgment of every candidate, with its claims and their label probabilities.

    Three rounds of prompts, each stored and paid once: the lists of claims, every claim, the
    coverage of every answer. A claim without a verdict leaves its answer without a score.
    """
    ask = partial(ask_prompts, settings, store=store, judge=judge)
    claims, split_counts = _split(settings, scorer, judge_items, ask)
    checks, check_counts = _check(scorer, judge_items, claims, ask)
    with_claims = [judge_item for judge_item in judge_items if claims[judge_item[1].id].claims]
    coverage, cover_counts = _cover(scorer, with_claims, ask)
    judgments = {}
    for _, candidate in judge_items:
        judgment = _weigh(
            settings,
            scorer,
            claims[candidate.id],
            checks[candidate.id],
            coverage.get(candidate.id),
        )
        judgments[candidate.id] = replace(judgment, candidate_id=candidate.id, judge=judge.name)
    return Judged(judgments, split_counts + check_counts + cover_counts)


def read_claims(scorer: Scorer, reply: str) -> Claims:
    """Return the claims that a reply lists: lines behind "- ", "* " or a number, equal ones once.

    A first line that ends in a colon may introduce them. Any other line, or none of them, is no
    list of claims.
    """
    assert scorer.claims is not None, "only a claims scorer takes answers apart"
    begin, unclosed = thinking_end(reply)
    if unclosed is not None:
        return Claims(reason=f"malformed claims: {unclosed} has no end", reply=reply)
    lines = [line.strip() for line in reply[begin:].splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":") and not CLAIM.fullmatch(lines[0]):
        lines = lines[1:]
    if not lines or [line.casefold().strip("-*. ") for line in lines] == [NONE]:
        return Claims(
            reason="no claim: the judge found none in the answer" if lines else "empty reply",
            reply=reply,
        )
    claims = []
    for line in lines:
        match = CLAIM.fullmatch(line)
        if match is None:
            return Claims(
                reason=f'malformed claims: {line[:80]!r} is not a claim behind "- "', reply=reply
            )
        claims.append(match["claim"])
    return _distinct(scorer, claims, reply=reply)


def check_split_examples(scorer: Scorer) -> None:
    """Raise UserError for the first list of claims that is not read as the scorer file says."""
    for example in scorer.claims.examples if scorer.claims else ():
        read = read_claims(scorer, example.reply)
        if example.unscored is None:
            agrees = list(read.claims) == example.claims
            expected = str(example.claims)
        else:
            agrees = not read.claims and read.reason.startswith(example.unscored)
            expected = f"no claims ({example.unscored})"
        if not agrees:
            actual = (
                f"the claims {list(read.claims)}" if read.claims else f"no claims ({read.reason})"
            )
            raise UserError(
                f"{scorer.path}: the example {example.reply!r} is read as {actual}, the file says "
                f"{expected}"
            )


def sentence_claims(scorer: Scorer, text: str) -> Claims:
    """Return the sentences of an answer as its claims, for judges that cannot write."""
    spans = [span.strip() for span in SENTENCE_ENDS.split(text)]
    return _distinct(scorer, [span for span in spans if re.search(r"\w", span)])


def _distinct(scorer: Scorer, claims: Sequence[str], *, reply: str = "") -> Claims:
    """Return the claims, equal ones once; none where they are too many."""
    assert scorer.claims is not None, "only a claims scorer takes answers apart"
    by_text = {" ".join(claim.casefold().split()): claim for claim in reversed(claims)}
    distinct = tuple(reversed(by_text.values()))
    if not distinct:
        return Claims(reason="no claim: the answer has no sentence with a word in it", reply=reply)
    if len(distinct) > scorer.claims.most:
        return Claims(
            reason=f"too many claims: {len(distinct)}, claims.most is {scorer.claims.most}",
            reply=reply,
        )
    return Claims(claims=distinct, reply=reply)


class _Ask(Protocol):
    """Asks the open judge; see `ask_prompts`."""

    def __call__(
        self, scorer: Scorer, prompts: Sequence[Messages], /, *, read: ReadReply | None = None
    ) -> Asked: ...


def _split(
    settings: JudgeSettings, scorer: Scorer, judge_items: Sequence[JudgeItem], ask: _Ask
) -> tuple[dict[str, Claims], Counter[str]]:
    """Return the claims of every candidate by its id, and the counts."""
    assert scorer.claims is not None, "only a claims scorer takes answers apart"
    if settings.split_claims == "sentences":
        by_sentence = {
            candidate.id: sentence_claims(scorer, candidate.text) for _, candidate in judge_items
        }
        return by_sentence, Counter()
    writer = scorer.model_copy(
        update={"mode": "verdict", "prompt": scorer.claims.prompt, "name": f"{scorer.name}, claims"}
    )
    prompts = [
        render(writer, caption=sample.caption, question=question_of(sample), answer=candidate.text)
        for sample, candidate in judge_items
    ]
    replies, counts = ask(writer, prompts, read=partial(_unreadable, scorer))
    claims = {}
    for (_, candidate), reply in zip(judge_items, replies, strict=True):
        if reply.status == "answered":
            claims[candidate.id] = _read_split(scorer, reply)
        else:
            claims[candidate.id] = Claims(reason=reply.reason, status=reply.status)
    return claims, counts


def _read_split(scorer: Scorer, reply: Reply) -> Claims:
    """Return the claims that an answered reply lists."""
    if reply.reason:
        return Claims(reason=reply.reason, reply=reply.text)
    if reply.finish == "length":
        return Claims(
            reason="cut off: the list of claims reached judge.max_tokens before its end",
            reply=reply.text,
        )
    return read_claims(scorer, reply.text)


def _unreadable(scorer: Scorer, reply: Reply) -> str | None:
    """Return why a reply lists no claims; None too where the judge says that there are none."""
    claims = _read_split(scorer, reply)
    return None if claims.claims or claims.reason.startswith("no claim:") else claims.reason


def _check(
    scorer: Scorer, judge_items: Sequence[JudgeItem], claims: Mapping[str, Claims], ask: _Ask
) -> tuple[dict[str, list[Reply]], Counter[str]]:
    """Return the reply to every claim, in order, by candidate id, and the counts."""
    prompts = []
    for sample, candidate in judge_items:
        for claim in claims[candidate.id].claims:
            prompts.append(_prompt(scorer, sample, claim))
    asked = ask(scorer, prompts)
    replies = iter(asked.replies)
    checks = {
        candidate.id: list(islice(replies, len(claims[candidate.id].claims)))
        for _, candidate in judge_items
    }
    return checks, asked.counts


def _cover(
    scorer: Scorer, judge_items: Sequence[JudgeItem], ask: _Ask
) -> tuple[dict[str, Reply], Counter[str]]:
    """Return the coverage scorer's reply to every whole answer by candidate id, and the counts."""
    coverage = scorer.coverage
    if coverage is None:
        return {}, Counter()
    prompts = [_prompt(coverage, sample, candidate.text) for sample, candidate in judge_items]
    replies, counts = ask(coverage, prompts)
    candidate_ids = [candidate.id for _, candidate in judge_items]
    return dict(zip(candidate_ids, replies, strict=True)), counts


def _prompt(scorer: Scorer, sample: Sample, answer: str) -> Messages:
    return render(
        scorer,
        caption=sample.caption,
        question=question_of(sample),
        answer=answer,
        reference=sample.answer,
    )


def _weigh(
    settings: JudgeSettings,
    scorer: Scorer,
    split: Claims,
    checks: Sequence[Reply],
    covering: Reply | None,
) -> Judgment:
    """Return the judgment of one answer, its candidate's id and the judge's name still to be filled
    in.
    """
    blank = Judgment(
        candidate_id="",
        scorer=scorer.version,
        judge="",
        score=None,
        status="unscored",
        reason=split.reason,
        reply=split.reply,
    )
    if not split.claims:
        return replace(blank, status=split.status)
    replies = [*checks, covering] if covering is not None else list(checks)
    for reply in replies:
        if reply.status != "answered":
            return replace(blank, status=reply.status, reason=reply.reason)
    rows: list[dict[str, Any]] = []
    contradicted = 0
    for claim, reply in zip(split.claims, checks, strict=True):
        verdict, shares = read_reply(settings, scorer, reply)
        if verdict.score is None:
            return replace(blank, reason=f"{verdict.reason} (claim {claim!r})")
        contradicted += verdict.contradicted_by is not None
        rows.append(
            {"claim": claim, "label": verdict.label, "worth": verdict.score}
            | ({} if shares is None else {"distribution": shares})
        )
    details = {"precision": fmean(row["worth"] for row in rows)}
    if covering is not None:
        assert scorer.coverage is not None, "a coverage reply answers a coverage scorer"
        cover = _coverage(settings, scorer.coverage, covering)
        if cover.score is None:
            return replace(blank, reason=f"{cover.reason} (coverage)", claims=rows)
        details["coverage"] = cover.score
        contradicted += cover.contradicted_by is not None
    return replace(
        blank,
        status="scored",
        score=f1(**details),
        claims=rows,
        details=details | ({"contradicted": contradicted} if contradicted else {}),
        reason=_explain(scorer, rows, details),
    )


def f1(precision: float, coverage: float | None = None) -> float:
    """Return the harmonic mean of precision and coverage, 0 where both are; precision alone without
    coverage.
    """
    if coverage is None:
        return precision
    total = precision + coverage
    return 2 * precision * coverage / total if total else 0.0


def _coverage(settings: JudgeSettings, scorer: Scorer, reply: Reply) -> Verdict:
    """Return what a reply says of coverage, the score put on 0 to 1."""
    verdict, _ = read_reply(settings, scorer, reply)
    if verdict.score is None:
        return verdict
    return replace(verdict, score=(verdict.score - scorer.low) / (scorer.high - scorer.low))


def _explain(
    scorer: Scorer, rows: Sequence[Mapping[str, Any]], details: Mapping[str, float]
) -> str:
    """Return the verdict on every claim in words, one a line, under the numbers they make."""
    lines = [", ".join(f"{name} {value:.2f}" for name, value in details.items())]
    for row in rows:
        meaning = scorer.label_names.get(str(row["label"]), str(row["label"]))
        lines.append(f"- {row['claim']} ({meaning}, {row['worth']:.2f})")
    return "\n".join(lines)
