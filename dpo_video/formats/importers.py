"""Importers: what each format's rows become, one function a format. Rows in, records out, nothing
read or written here.

Field lists: LLaVA-Hound and ShareGPTVideo (docs of the repository, files of the dataset),
LLaVA-NeXT, VistaDPO, TPO, RLAIF-V, LLaMA-Factory (sharegpt ranking), ms-swift (custom dataset),
Qwen-VL-Series-Finetune, TRL, Video-ChatGPT.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dpo_video.core.records import Candidate, Judgment, Pair, Sample
from dpo_video.formats.fields import (
    BadRow,
    Dropped,
    Turn,
    clean,
    number_of,
    one_video,
    question_of,
    text_of,
    turn_of,
    turns_of,
)
from dpo_video.formats.ids import answered, id_of
from dpo_video.formats.rows import Row
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.verdict import parse_verdict

Record = Sample | Candidate | Judgment | Pair
Kind = Literal["samples", "candidates", "judgments", "pairs"]
KINDS: dict[type, Kind] = {
    Sample: "samples",
    Candidate: "candidates",
    Judgment: "judgments",
    Pair: "pairs",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What an importer has beside a row."""

    fallback_id: str
    """For rows without an id."""
    caption_of: Callable[[str], str | None] = field(default=lambda video: None)
    """A clip's caption by its video, from the file of captions."""
    is_question: Callable[[str], bool] | None = None
    """Whether an id is that of a question, from the file of samples."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our field -> the table's column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """A format: what its rows become, and how."""

    meaning: str
    kind: Kind | None
    """None where the columns decide."""
    read: Callable[[Row, Given], Iterator[Record]]


def _pair(
    row: Row,
    given: Given,
    *,
    video: str | list[str],
    prompt: str,
    chosen: str,
    rejected: str,
    source: str,
    **more: Any,
) -> Pair:
    """Return a pair; equal or empty answers teach nothing and are dropped."""
    if not chosen or not rejected:
        raise Dropped("empty answer", "chosen" if not chosen else "rejected")
    if chosen == rejected and "rejected_video" not in more:
        raise Dropped("chosen equals rejected", chosen[:80])
    if not prompt:
        raise Dropped("empty question")
    identity = id_of(row, "id", "idx", fallback=given.fallback_id)
    return Pair(
        sample_id=identity,
        video=video,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        chosen_score=number_of(row, "chosen_score"),
        rejected_score=number_of(row, "rejected_score"),
        implicit_margin=number_of(row, "implicit_margin"),
        rejected_finish="length" if row.get("rejected_finish") == "length" else "stop",
        source=source,
        chosen_id=f"{identity}#chosen",
        rejected_id=f"{identity}#rejected",
        **more,
    )


def _hound_pairs(row: Row, given: Given) -> Iterator[Pair]:
    yield _pair(
        row,
        given,
        video=one_video(row, "video"),
        prompt=text_of(row, "prompt"),
        chosen=text_of(row, "chosen"),
        rejected=text_of(row, "rejected"),
        source="hound_pairs",
    )


def _conversation_samples(row: Row, given: Given) -> Iterator[Sample]:
    """Yield a sample for each question and answer of a conversation."""
    video = one_video(row, "video", "videos")
    turns = [turn for turn in turns_of(row, "conversations") if turn.role != "system"]
    identity = id_of(row, "id", "idx", fallback=given.fallback_id)
    if [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2) or not turns:
        raise Dropped("turns do not alternate", " ".join(turn.role for turn in turns))
    for number in range(0, len(turns), 2):
        name = identity if len(turns) == 2 else f"{identity}.{number // 2}"
        yield _sample(row, given, name, video, turns[number].text, turns[number + 1].text)


def _sample(
    row: Row,
    given: Given,
    identity: str,
    video: str | list[str],
    prompt: str,
    answer: str | None,
    **more: Any,
) -> Sample:
    own = row.get("caption")
    found = clean(own) if isinstance(own, str) and own.strip() else None
    found = found or given.caption_of(video if isinstance(video, str) else video[0])
    if not found:
        raise Dropped("no caption", str(video)[:80])
    if not prompt:
        raise Dropped("empty question")
    return Sample(
        id=identity, video=video, prompt=prompt, caption=found, answer=answer or None, **more
    )


def _video_chatgpt(row: Row, given: Given) -> Iterator[Sample]:
    video = text_of(row, "video_name", "video_id", "video")
    asked = [
        (name, text_of(row, name)) for name in ("Q", "Q1", "Q2", "question", "q") if row.get(name)
    ]
    if not asked:
        raise BadRow(f"no `Q` or `question` in it; it has: {', '.join(row)}")
    answer = text_of(row, "A", "answer", "a")
    identity = id_of(row, "question_id", fallback=given.fallback_id)
    for name, question in asked:
        yield _sample(
            row,
            given,
            identity if len(asked) == 1 else f"{identity}.{name}",
            video,
            question,
            answer,
        )


def _predictions(row: Row, given: Given) -> Iterator[Candidate]:
    """Yield the candidate of an inference row."""
    made = row.get("model_prediction")
    if not isinstance(made, dict):
        raise BadRow("no `model_prediction` with status and message in it")
    if made.get("status") != "success":
        raise Dropped("failed prediction", str(made.get("message"))[:80])
    clip = row.get("modal_path")
    sample, number = _answered(row, given, clip=clip if isinstance(clip, str) else None)
    yield Candidate(
        id=f"{sample}#{number}",
        sample_id=sample,
        text=text_of(made, "message"),
        settings="imported",
        model=str(row.get("model_name") or "imported"),
        seed=number,
    )


def _answered(row: Row, given: Given, *, clip: str | None) -> tuple[str, int]:
    identity = id_of(row, "id", "idx", fallback="")
    if not identity:
        raise BadRow(f"no `id` in it; it has: {', '.join(row)}")
    return answered(identity, clip=clip, is_question=given.is_question)


def _judgments(row: Row, given: Given) -> Iterator[Judgment]:
    """Yield the judgment in a judge's reply, read anew by the strict parser of `hound_quality`."""
    if row.get("error"):
        raise Dropped("failed judgment", str(row["error"])[:80])
    scorer = load_scorer("hound_quality")
    reply = text_of(row, "response")
    verdict = parse_verdict(scorer, reply)
    sample, number = _answered(row, given, clip=None)
    yield Judgment(
        candidate_id=f"{sample}#{number}",
        scorer=scorer.version,
        judge="imported",
        score=verdict.score,
        status="unscored" if verdict.score is None else "scored",
        reason=verdict.reason,
        reply=reply,
    )


def _llama_factory(row: Row, given: Given) -> Iterator[Pair]:
    turns = turns_of(row, "conversations" if "conversations" in row else "messages")
    answers = {name: turn_of(row.get(name), name).text for name in ("chosen", "rejected")}
    yield _pair(
        row,
        given,
        video=one_video(row, "videos", "video"),
        prompt=question_of(turns),
        **answers,
        source="llama_factory",
    )


def _ms_swift(row: Row, given: Given) -> Iterator[Pair]:
    """Yield a pair of a row with `rejected_response`, `rejected_messages` or `rejected_videos`."""
    turns = turns_of(row, "messages")
    chosen = _last_answer(turns)
    asked = question_of(turns[:-1])
    more: dict[str, Any] = {}
    if row.get("rejected_messages"):
        other = turns_of(row, "rejected_messages")
        if question_of(other[:-1]) != asked:
            raise Dropped("another question for the rejected answer")
        rejected = _last_answer(other)
    elif row.get("rejected_response") is not None:
        rejected = text_of(row, "rejected_response")
    elif row.get("rejected_videos"):
        rejected = chosen
    else:
        raise Dropped("no rejected answer")
    video = one_video(row, "videos")
    if row.get("rejected_videos"):
        other_video = one_video(row, "rejected_videos")
        if other_video != video:
            more["rejected_video"] = other_video
    yield _pair(
        row,
        given,
        video=video,
        prompt=asked,
        chosen=chosen,
        rejected=rejected,
        source="ms_swift",
        **more,
    )


def _last_answer(turns: list[Turn]) -> str:
    if turns[-1].role != "assistant":
        raise BadRow("`messages` must end with the assistant's answer")
    return turns[-1].text


def _trl(row: Row, given: Given) -> Iterator[Pair]:
    """Yield a pair of TRL's preference format: conversational or plain, with a prompt or with it in
    both answers.
    """
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if isinstance(chosen, str):
        asked, good, bad = text_of(row, "prompt"), text_of(row, "chosen"), text_of(row, "rejected")
    else:
        sides = [turns_of(row, "chosen"), turns_of(row, "rejected")]
        good, bad = (_last_answer(side) for side in sides)
        before = turns_of(row, "prompt") if isinstance(row.get("prompt"), list) else sides[0][:-1]
        if "prompt" not in row and sides[0][:-1] != sides[1][:-1]:
            raise Dropped("another question for the rejected answer")
        asked = question_of(before)
    del rejected
    yield _pair(
        row,
        given,
        video=one_video(row, "videos", "video"),
        prompt=asked,
        chosen=good,
        rejected=bad,
        source="trl",
    )


def _vista_dpo(row: Row, given: Given) -> Iterator[Pair]:
    """Yield a pair for each of the two rejected answers; box, clip and frames are kept as they
    are.
    """
    kept = {
        name: row[name]
        for name in ("bbox", "clip_w", "clip_l", "frame")
        if row.get(name) is not None
    }
    try:
        json.dumps(kept, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadRow(f"`{'`, `'.join(kept)}` must be what JSON can hold: {error}") from error
    identity = id_of(row, "id", fallback=given.fallback_id)
    for number, name in enumerate(("rejected", "rejected_2")):
        if row.get(name):
            own = {**row, "id": identity if number == 0 else f"{identity}.2"}
            yield _pair(
                own,
                given,
                video=one_video(row, "video"),
                prompt=text_of(row, "prompt"),
                chosen=text_of(row, "chosen"),
                rejected=text_of(row, name),
                source="vista_dpo",
                extra=kept or None,
            )


def _rlaif_v(row: Row, given: Given) -> Iterator[Pair]:
    """Yield a pair about a picture, as a clip of one frame."""
    path = text_of(row, "image_path") if isinstance(row.get("image_path"), str) else None
    if path is None:
        raise Dropped("picture inside the row", "save the pictures as files and give image_path")
    identity = id_of(row, "id", "ds_question_id", "idx", fallback=given.fallback_id)
    yield _pair(
        {**row, "id": identity},
        given,
        video=[path],
        prompt=text_of(row, "question"),
        chosen=text_of(row, "chosen"),
        rejected=text_of(row, "rejected"),
        source="rlaif_v",
    )


def _table(row: Row, given: Given) -> Iterator[Record]:
    """Yield a pair or a sample of a table, by the columns given: a pair where chosen and rejected
    are among them.
    """
    named = {ours: row.get(theirs) for ours, theirs in given.columns.items()}
    unknown = [theirs for theirs in given.columns.values() if theirs not in row]
    if unknown:
        raise BadRow(f"no column {unknown[0]!r}; it has: {', '.join(row)}")
    values: Row = {**row, **{name: value for name, value in named.items() if value is not None}}
    video = one_video(values, "video")
    cut = {name: number_of(values, name) for name in ("start", "end")}
    if cut["end"] is not None and cut["end"] <= (cut["start"] or 0.0):
        raise Dropped("clip ends before it starts", f"start {cut['start']}, end {cut['end']}")
    if "chosen" in values or "rejected" in values:
        yield _pair(
            values,
            given,
            video=video,
            prompt=text_of(values, "prompt"),
            chosen=text_of(values, "chosen"),
            rejected=text_of(values, "rejected"),
            source="table",
            **cut,
        )
        return
    answer = text_of(values, "answer") if values.get("answer") else None
    yield _sample(
        values,
        given,
        id_of(values, "id", fallback=given.fallback_id),
        video,
        text_of(values, "prompt"),
        answer,
        **cut,
    )


TABLE_FIELDS = (
    "id",
    "video",
    "prompt",
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


IMPORTERS: dict[str, Importer] = {
    "hound_qa": Importer(
        meaning="LLaVA-Hound / ShareGPTVideo questions (conversations); captions by --captions",
        kind="samples",
        read=_conversation_samples,
    ),
    "hound_pairs": Importer(
        meaning="LLaVA-Hound sft_dpo_17k: prompt, chosen, rejected, scores",
        kind="pairs",
        read=_hound_pairs,
    ),
    "hound_predictions": Importer(
        meaning="LLaVA-Hound inference rows: answers of a model",
        kind="candidates",
        read=_predictions,
    ),
    "hound_judgments": Importer(
        meaning="LLaVA-Hound judge replies, read anew by the strict parser",
        kind="judgments",
        read=_judgments,
    ),
    "llava_next": Importer(
        meaning="LLaVA-NeXT DPO rows (image rows are dropped)", kind="pairs", read=_hound_pairs
    ),
    "tpo": Importer(
        meaning="TPO (LongVA-TPO-10k, LLaVA-Video-TPO)", kind="pairs", read=_hound_pairs
    ),
    "qwen_vl_finetune": Importer(
        meaning="Qwen-VL-Series-Finetune (2U1) DPO list", kind="pairs", read=_hound_pairs
    ),
    "llama_factory": Importer(
        meaning="LLaMA-Factory sharegpt ranking", kind="pairs", read=_llama_factory
    ),
    "ms_swift": Importer(
        meaning="ms-swift: rejected_response, rejected_messages or rejected_videos",
        kind="pairs",
        read=_ms_swift,
    ),
    "trl": Importer(
        meaning="TRL preference rows with a `video` or `videos` column", kind="pairs", read=_trl
    ),
    "vista_dpo": Importer(
        meaning="VistaDPO: two rejected answers, box and clip fields kept",
        kind="pairs",
        read=_vista_dpo,
    ),
    "rlaif_v": Importer(
        meaning="RLAIF-V pictures as clips of one frame", kind="pairs", read=_rlaif_v
    ),
    "video_chatgpt": Importer(
        meaning="Video-ChatGPT questions and answers; captions by --captions",
        kind="samples",
        read=_video_chatgpt,
    ),
    "table": Importer(
        meaning="CSV, Parquet or any dataset with a column map (--map prompt=question,...)",
        kind=None,
        read=_table,
    ),
}
