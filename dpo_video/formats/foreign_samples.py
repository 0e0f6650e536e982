"""Importers of questions, answers of a model and judgments, and of tables by their columns. Rows
in, records out, nothing read or written here.

Field lists: LLaVA-Hound and ShareGPTVideo (docs of the repository, files of the dataset),
Video-ChatGPT.
"""

from collections.abc import Iterator

from dpo_video.core.records import Candidate, Judgment, Pair, Sample
from dpo_video.core.text import shortened
from dpo_video.formats.context import ImportContext, asked, make_pair, make_sample, row_id
from dpo_video.formats.fields import (
    BadRow,
    Dropped,
    ReadRow,
    Turn,
    check_unsupported,
    dialogue_of,
    history_of,
    one_video,
    question_text,
    span_of,
    text_of,
    turns_of,
)
from dpo_video.formats.ids import answered, id_of
from dpo_video.formats.rows import ForeignRow
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.verdict import parse_verdict

TABLE_FIELDS = (
    "id",
    "video",
    "prompt",
    "history",
    "caption",
    "answer",
    "start",
    "end",
    "chosen",
    "rejected",
    "chosen_score",
    "rejected_score",
    "implicit_margin",
    "rejected_finish",
)
"""What a column of a table can be."""


def conversation_samples(row: ForeignRow, context: ImportContext) -> Iterator[Sample]:
    """Yield the last question of a conversation as a sample, the turns before it as its history."""
    check_unsupported(row)
    video = one_video(row, "video", "videos")
    turns = turns_of(row, "conversations")
    if turns[-1].role != "assistant":
        raise Dropped("turns do not alternate", " ".join(turn.role for turn in turns))
    yield make_sample(
        row,
        context,
        identity=row_id(row, context),
        video=video,
        **asked(row, dialogue_of(turns[:-1]), video),
        answer=turns[-1].text,
        **span_of(row),
    )


def video_chatgpt(row: ForeignRow, context: ImportContext) -> Iterator[Sample]:
    """Yield a sample for each question of a row, which share one answer."""
    check_unsupported(row)
    questions = {
        name: text_of(row, name) for name in ("Q", "Q1", "Q2", "question", "q") if row.get(name)
    }
    if not questions:
        raise BadRow(f"no `Q` or `question` in it; it has: {shortened(', '.join(row))}")
    identity = row_id(row, context, "question_id")
    for name, question in questions.items():
        yield make_sample(
            row,
            context,
            identity=identity if len(questions) == 1 else f"{identity}.{name}",
            video=text_of(row, "video_name", "video_id", "video").strip(),
            prompt=question_text(question),
            answer=text_of(row, "A", "answer", "a"),
            **span_of(row),
        )


def predictions(row: ForeignRow, context: ImportContext) -> Iterator[Candidate]:
    """Yield the candidate of an inference row."""
    prediction = row.get("model_prediction")
    if not isinstance(prediction, dict):
        raise BadRow("no `model_prediction` with status and message in it")
    if prediction.get("status") != "success":
        raise Dropped("failed prediction", str(prediction.get("message"))[:80])
    clip = row.get("modal_path")
    sample_id, number = _question_and_number(
        row, context, clip=clip if isinstance(clip, str) else None
    )
    yield Candidate(
        id=f"{sample_id}#{number}",
        sample_id=sample_id,
        text=text_of(prediction, "message"),
        settings="imported",
        model=str(row.get("model_name") or "imported"),
        seed=number,
    )


def _question_and_number(
    row: ForeignRow, context: ImportContext, *, clip: str | None
) -> tuple[str, int]:
    identity = id_of(row, "id", "idx", fallback="")
    if not identity:
        raise BadRow(f"no `id` in it; it has: {shortened(', '.join(row))}")
    return answered(identity, clip=clip, is_question=context.is_question)


def judgments(row: ForeignRow, context: ImportContext) -> Iterator[Judgment]:
    """Yield the judgment in a judge's reply, read anew by the strict parser of `hound_quality`."""
    if row.get("error"):
        raise Dropped("failed judgment", str(row["error"])[:80])
    scorer = load_scorer("hound_quality")
    reply = text_of(row, "response")
    verdict = parse_verdict(scorer, reply)
    sample_id, number = _question_and_number(row, context, clip=None)
    yield Judgment(
        candidate_id=f"{sample_id}#{number}",
        scorer=scorer.version,
        judge="imported",
        score=verdict.score,
        status="unscored" if verdict.score is None else "scored",
        reason=verdict.reason,
        reply=reply,
    )


def table(row: ForeignRow, context: ImportContext) -> Iterator[Pair | Sample]:
    """Yield a pair or a sample of a table, by the columns given: a pair where chosen and rejected
    are among them.
    """
    for column in context.columns.values():
        if column not in row:
            raise BadRow(f"no column {column!r}; it has: {shortened(', '.join(row))}")
    by_field = {name: row[column] for name, column in context.columns.items()}
    for name in (*TABLE_FIELDS, "idx"):
        if by_field.get(name) is None and name in row:
            by_field[name] = row[name]
    values = ReadRow(by_field)
    video = one_video(values, "video")
    turns = [*history_of(values), Turn("user", text_of(values, "prompt"))]
    question = asked(row, dialogue_of(turns), video)
    if "chosen" in values or "rejected" in values:
        yield make_pair(
            values,
            identity=row_id(values, context),
            video=video,
            **question,
            chosen=text_of(values, "chosen"),
            rejected=text_of(values, "rejected"),
            source="table",
            **span_of(values),
        )
        return
    yield make_sample(
        values,
        context,
        identity=row_id(values, context, "id"),
        video=video,
        **question,
        answer=text_of(values, "answer") if values.get("answer") else None,
        meta=row["meta"] if isinstance(row.get("meta"), dict) else None,
        **span_of(values),
    )
