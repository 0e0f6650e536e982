"""The rows that the report's gallery shows: pairs, answers before and after, and drops, each with
why it is worth a look.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from dpo_video.core import strict_json
from dpo_video.core.records import Candidate, Pair, Sample
from dpo_video.core.turns import turn_rows
from dpo_video.evaluate.answer_rows import EvaluatedAnswer, answered_by_both, answers_by_set
from dpo_video.pages.answer_rows import answer_row, claim_rows
from dpo_video.pages.clips import clip_name, request_of
from dpo_video.pages.doubt import judge_doubt, score_doubt
from dpo_video.pages.run_files import RunFiles, Split
from dpo_video.video import ClipRequest, clip_key

FEATURED = 10
"""Rows under each heading of the gallery."""
GalleryRow = dict[str, Any]


class Questions:
    """The questions that rows are about, each noted once, with the clips that they show."""

    def __init__(self) -> None:
        self.rows: dict[str, GalleryRow] = {}
        """By split and sample id."""
        self.requests: dict[str, ClipRequest] = {}
        """By `clip_name`: the clips that have a file."""
        self.unreadable: dict[str, str] = {}
        """By what stands for the clip's name: why it has no file."""

    def note(self, sample: Sample | Pair, split: str, split_files: Split) -> str:
        """Note a question, and return the key that rows name it by."""
        sample_id = sample.sample_id if isinstance(sample, Pair) else sample.id
        key = f"{split}:{sample_id}"
        if key not in self.rows:
            row: GalleryRow = {"id": sample_id, "prompt": sample.prompt, "file": clip_key(sample)}
            if sample.history:
                row["before"] = turn_rows(sample.history)
            known = split_files.samples.get(sample_id)
            facts = {} if known is None else _known_facts(known)
            clip = self._note_clip(request_of(sample, split_files.root), clip_key(sample))
            self.rows[key] = row | facts | {"clip": clip}
        return key

    def _note_clip(self, request: ClipRequest | str, file: str) -> str:
        """Note a clip, or why it has no file, and return its name."""
        if isinstance(request, str):
            self.unreadable[file] = request
            return file
        name = clip_name(request)
        self.requests.setdefault(name, request)
        return name

    def note_evaluated(self, answer: EvaluatedAnswer, split: Split | None) -> str:
        """Note the question of an answer; one whose samples are not here has no clip."""
        sample = None if split is None else split.samples.get(answer.sample_id)
        if sample is not None and split is not None:
            key = self.note(sample, answer.set, split)
        else:
            key = f"{answer.set}:{answer.sample_id}"
            clip = self._note_clip("its samples file was not read", f"{answer.set}:{answer.clip}")
            self.rows[key] = {"id": answer.sample_id, "file": answer.clip, "clip": clip}
        facts = {
            "prompt": answer.prompt,
            "before": turn_rows(answer.history),
            "gold": answer.gold,
            "category": answer.category,
        }
        self.rows[key] |= {name: value for name, value in facts.items() if value}
        return key


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """What the page's script is given; clips are made afterwards."""

    questions: Questions
    pairs: Sequence[GalleryRow]
    answers: Sequence[GalleryRow]
    drops: Sequence[GalleryRow]

    def featured_first(self) -> list[ClipRequest]:
        """Return the clips to make, those of featured rows first."""
        keys: dict[str, None] = {}
        for is_featured in (True, False):
            for row in (*self.answers, *self.pairs):
                if bool(row["tags"]) == is_featured:
                    keys[self.questions.rows[row["question"]]["clip"]] = None
        requests = self.questions.requests
        return [requests[key] for key in keys if key in requests]


def gallery_of(run: RunFiles) -> Gallery:
    """Return the rows of a run."""
    questions = Questions()
    answers = answer_changes(run, questions)
    pairs = gallery_pairs(run, questions)
    return Gallery(questions=questions, answers=answers, pairs=pairs, drops=drop_rows(run))


def _known_facts(sample: Sample) -> GalleryRow:
    """Return what a page shows of a sample beside its prompt, as far as it has it."""
    facts = {"caption": sample.caption, "gold": sample.answer, "category": sample.category}
    return {name: value for name, value in facts.items() if value}


def gallery_pairs(run: RunFiles, questions: Questions) -> list[GalleryRow]:
    """Return the pairs of a run: those of largest doubt, least margin and random ones are tagged.

    The doubt is P(wrong order) of `judge_doubt`.
    """
    sigma = run.agreement.get("noise_sigma")
    rows: list[GalleryRow] = []
    for number, pair in enumerate(run.pairs):
        judged = [run.judgments.get(name) for name in (pair.chosen_id, pair.rejected_id)]
        doubt = judge_doubt(judged[0], judged[1], run.scorer, noise_sigma=sigma)
        margin = None
        if pair.chosen_score is not None and pair.rejected_score is not None:
            margin = pair.chosen_score - pair.rejected_score
        rows.append(
            {
                "number": number + 1,
                "question": questions.note(pair, "train", run.train),
                "tags": [],
                "margin": _rounded(margin),
                "doubt": _rounded(doubt),
                "source": _source(pair, run.candidates),
                "first": _answer(pair.chosen, pair.chosen_id, pair.chosen_score, run),
                "second": _answer(pair.rejected, pair.rejected_id, pair.rejected_score, run),
                **({"implicit": pair.implicit_margin} if pair.implicit_margin is not None else {}),
                **({"other_clip": True} if _is_other_clip(pair) else {}),
            }
        )
    own = [row for row in rows if "other_clip" not in row]
    _tag(own, "least margin", lambda row: row["margin"])
    _tag(own, "judge least sure", lambda row: _negative(row["doubt"]))
    _tag_random(rows, run.recipe.seed)
    return rows


def answer_changes(run: RunFiles, questions: Questions) -> list[GalleryRow]:
    """Return the answers before and after: the largest losses and gains, those that the judge is
    least sure of, unscored and random ones are tagged.

    The doubt is that of two scores, `score_doubt`: label probabilities of evaluated answers are not
    kept. Equal answers have none.
    """
    sigma = run.agreement.get("noise_sigma")
    rows: list[GalleryRow] = []
    for name, (before, after) in answers_by_set(run.answers).items():
        split = run.sets.get(name)
        for first, second in answered_by_both(before, after):
            rows.append(
                {
                    "number": len(rows) + 1,
                    "set": name,
                    "question": questions.note_evaluated(first, split),
                    "tags": [],
                    "first": _evaluated(first, run),
                    "second": _evaluated(second, run),
                    **_change(first, second),
                    "doubt": _rounded(_doubt(first, second, run, noise_sigma=sigma)),
                }
            )
    worse = [row for row in rows if row["gain"] is not None and row["gain"] < 0]
    better = [row for row in rows if row["gain"] is not None and row["gain"] > 0]
    _tag(worse, "regression", lambda row: row["gain"])
    _tag(better, "gain", lambda row: -row["gain"])
    _tag(rows, "judge least sure", lambda row: _negative(row["doubt"]))
    _tag([row for row in rows if row["unscored"]], "unscored", lambda row: row["number"])
    _tag_random(rows, run.recipe.seed)
    return rows


def _doubt(
    first: EvaluatedAnswer, second: EvaluatedAnswer, run: RunFiles, *, noise_sigma: float | None
) -> float | None:
    if first.score is None or second.score is None or first.text == second.text:
        return None
    return score_doubt(first.score, second.score, run.scorer, noise_sigma=noise_sigma)


def _evaluated(answer: EvaluatedAnswer, run: RunFiles) -> GalleryRow:
    """Return an evaluated answer with what was made of it."""
    row: GalleryRow = {"text": answer.text, "correct": _is_correct(answer)}
    if answer.score is not None or (answer.unscored and run.scorer is not None):
        row["score"] = _rounded(answer.score)
    reasons = [answer.reason or "", *(f"{name}: {why}" for name, why in _unscored(answer))]
    row["reason"] = "\n".join(filter(None, reasons))
    if answer.finish == "length":
        row["cut"] = True
    if answer.supported is not None:
        row["support"] = "supported" if answer.supported else "not supported by the caption"
    if answer.claims:
        row["claims"] = claim_rows(answer.claims, run.claims_scorer)
    return row


def _unscored(answer: EvaluatedAnswer) -> list[tuple[str, str]]:
    return list((answer.unscored or {}).items())


def _is_correct(answer: EvaluatedAnswer) -> bool | None:
    """Return whether an answer is right, by the first rule that says so."""
    rules = (answer.correct, answer.judged, answer.exact_match)
    return next((verdict for verdict in rules if verdict is not None), None)


def _change(first: EvaluatedAnswer, second: EvaluatedAnswer) -> GalleryRow:
    """Return what changed: the score, the outcome in words, and the gain that answers are ranked
    by: right and wrong first, then the score.
    """
    change = None
    if first.score is not None and second.score is not None:
        change = second.score - first.score
    was, is_now = _is_correct(first), _is_correct(second)
    outcome = ""
    gain = change
    if was is not None and is_now is not None:
        words = {True: "right", False: "wrong"}
        outcome = f"{words[was]} before, {words[is_now]} after"
        gain = 1000.0 * (is_now - was) + (change or 0.0)
    unscored = bool(first.unscored or second.unscored)
    return {
        "change": _rounded(change),
        "gain": _rounded(gain),
        "outcome": outcome,
        "unscored": unscored,
    }


def drop_rows(run: RunFiles) -> list[GalleryRow]:
    """Return what cleaning and pairing left out, with the question where it is known."""
    rows = []
    for row in run.cleaned:
        rows.append(_drop(run, str(row.get("id", "")), row, stage="clean"))
    for row in run.drops:
        rows.append(_drop(run, str(row.get("sample_id", "")), row, stage="pair"))
    return rows


def _drop(run: RunFiles, sample_id: str, row: Mapping[str, Any], *, stage: str) -> GalleryRow:
    sample = run.train.samples.get(sample_id)
    return {
        "sample": sample_id,
        "stage": stage,
        "unit": str(row.get("unit", "")),
        "reason": str(row.get("reason", "")),
        "count": row.get("count", 1),
        "detail": str(row.get("detail", "")),
        **({} if sample is None else {"prompt": sample.prompt}),
    }


def _answer(text: str, candidate_id: str, score: float | None, run: RunFiles) -> GalleryRow:
    candidate = run.candidates.get(candidate_id)
    is_cut = candidate is not None and candidate.finish == "length"
    row = answer_row(text, run.judgments.get(candidate_id), run.scorer, is_cut=is_cut)
    row.setdefault("score", score)
    row["score"] = _rounded(row["score"])
    return row


def _source(pair: Pair, candidates: Mapping[str, Candidate]) -> str:
    samplers = []
    for name in (pair.chosen_id, pair.rejected_id):
        candidate = candidates.get(name)
        if candidate is not None and candidate.sampler:
            samplers.append(candidate.sampler)
    return f"{pair.source} ({' over '.join(samplers)})" if len(samplers) == 2 else pair.source


def _is_other_clip(pair: Pair) -> bool:
    fields = (pair.rejected_video, pair.rejected_start, pair.rejected_corruption)
    return any(value is not None for value in fields)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _tag(rows: Sequence[GalleryRow], tag: str, key: Callable[[GalleryRow], float | None]) -> None:
    """Tag the rows with the lowest keys; those without a key are left out."""
    ranked = sorted((row for row in rows if key(row) is not None), key=key)  # type: ignore[arg-type]
    for row in ranked[:FEATURED]:
        row["tags"].append(tag)


def _tag_random(rows: Sequence[GalleryRow], seed: int) -> None:
    for row in random.Random(seed).sample(list(rows), min(FEATURED, len(rows))):
        row["tags"].append("random")


def script_data(gallery: Gallery, clips: Mapping[str, GalleryRow]) -> Markup:
    """Return the rows as JSON that may stand in a page: nothing in it can end the script."""
    error_rows = {key: {"error": reason} for key, reason in gallery.questions.unreadable.items()}
    text = strict_json.dumps(
        {
            "questions": gallery.questions.rows,
            "pairs": gallery.pairs,
            "answers": gallery.answers,
            "drops": gallery.drops,
            "clips": {**error_rows, **clips},
        },
    )
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
