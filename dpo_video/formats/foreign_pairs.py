"""Importers of pairs: what each format's rows become, one function a format. Rows in, records out,
nothing read or written here.

Field lists: LLaVA-Hound and ShareGPTVideo (docs of the repository, files of the dataset),
LLaVA-NeXT, VistaDPO, TPO, RLAIF-V, LLaMA-Factory (sharegpt ranking), ms-swift (custom dataset, and
its older query and response), Qwen-VL-Series-Finetune, TRL.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from dpo_video.core import strict_json
from dpo_video.core.records import Pair
from dpo_video.formats.context import ImportContext, asked, make_pair, row_id
from dpo_video.formats.fields import (
    BadRow,
    Dropped,
    Turn,
    check_unsupported,
    dialogue_of,
    history_of,
    one_video,
    question_text,
    span_of,
    text_of,
    turn_of,
    turns_of,
)
from dpo_video.formats.rows import ForeignRow


def plain_pairs(row: ForeignRow, context: ImportContext) -> Iterator[Pair]:
    """Yield the pair of a row with `video`, `prompt`, `chosen` and `rejected`."""
    check_unsupported(row, reads_history=True)
    video = one_video(row, "video", "videos")
    dialogue = dialogue_of([*history_of(row), Turn("user", text_of(row, "prompt"))])
    yield make_pair(
        row,
        identity=row_id(row, context),
        video=video,
        **asked(row, dialogue, video),
        chosen=text_of(row, "chosen"),
        rejected=text_of(row, "rejected"),
        source="hound_pairs",
        **span_of(row),
    )


def llama_factory(row: ForeignRow, context: ImportContext) -> Iterator[Pair]:
    """Yield the pair of a row of the sharegpt form with `chosen` and `rejected` turns."""
    check_unsupported(row)
    turns = turns_of(row, "conversations" if "conversations" in row else "messages")
    video = one_video(row, "videos", "video")
    yield make_pair(
        row,
        identity=row_id(row, context),
        video=video,
        **asked(row, dialogue_of(turns), video),
        chosen=turn_of(row.get("chosen"), "chosen").text,
        rejected=turn_of(row.get("rejected"), "rejected").text,
        source="llama_factory",
        **span_of(row),
    )


def ms_swift(row: ForeignRow, context: ImportContext) -> Iterator[Pair]:
    """Yield a pair of a row with `rejected_response`, `rejected_messages` or `rejected_videos`."""
    turns = _swift_turns(row)
    chosen = _last_answer(turns, "messages")
    video = one_video(row, "videos", "video")
    dialogue = dialogue_of(turns[:-1])
    optional: dict[str, Any] = {}
    if row.get("rejected_messages"):
        rejected_turns = turns_of(row, "rejected_messages")
        rejected = _last_answer(rejected_turns, "rejected_messages")
        if _said(dialogue_of(rejected_turns[:-1])) != _said(dialogue):
            raise Dropped("another question for the rejected answer")
    elif row.get("rejected_response") is not None:
        rejected = text_of(row, "rejected_response")
    elif row.get("rejected_videos"):
        rejected = chosen
    else:
        raise Dropped("no rejected answer")
    if row.get("rejected_videos"):
        rejected_video = one_video(row, "rejected_videos")
        if rejected_video != video:
            optional["rejected_video"] = rejected_video
    yield make_pair(
        row,
        identity=row_id(row, context),
        video=video,
        **asked(row, dialogue, video),
        chosen=chosen,
        rejected=rejected,
        source="ms_swift",
        **span_of(row),
        **optional,
    )


def _swift_turns(row: ForeignRow) -> list[Turn]:
    """Return a row's conversation; older rows have `history`, `query` and `response` for
    `messages`.
    """
    is_older = "messages" not in row and "query" in row
    check_unsupported(row, reads_history=is_older)
    if not is_older:
        return turns_of(row, "messages")
    query, response = text_of(row, "query"), text_of(row, "response")
    return [*history_of(row), Turn("user", query), Turn("assistant", response)]


def _said(dialogue: Sequence[Turn]) -> list[str]:
    return [turn.question for turn in dialogue]


def _last_answer(turns: Sequence[Turn], name: str) -> str:
    if turns[-1].role != "assistant":
        raise BadRow(f"`{name}` must end with the assistant's answer")
    return turns[-1].text


def trl(row: ForeignRow, context: ImportContext) -> Iterator[Pair]:
    """Yield a pair of TRL's preference format: prompt and answers as texts or as messages, with a
    prompt or with it in both answers.
    """
    check_unsupported(row)
    chosen, chosen_context = _trl_answer(row, "chosen")
    rejected, rejected_context = _trl_answer(row, "rejected")
    if "prompt" not in row and chosen_context != rejected_context:
        raise Dropped("another question for the rejected answer")
    if isinstance(row.get("prompt"), str):
        dialogue = [Turn("user", text_of(row, "prompt"))]
    elif "prompt" in row:
        dialogue = dialogue_of(turns_of(row, "prompt"))
    else:
        dialogue = dialogue_of(chosen_context)
    has_clip = row.get("videos") or row.get("video")
    clips = row if has_clip else {"videos": list(dialogue[0].videos)}
    video = one_video(clips, "videos", "video")
    yield make_pair(
        row,
        identity=row_id(row, context),
        video=video,
        **asked(row, dialogue, video),
        chosen=chosen,
        rejected=rejected,
        source="trl",
        **span_of(clips),
    )


def _trl_answer(row: ForeignRow, name: str) -> tuple[str, list[Turn]]:
    """Return an answer, and the turns that stand before it."""
    if not isinstance(row.get(name), list):
        return text_of(row, name), []
    turns = turns_of(row, name)
    return _last_answer(turns, name), turns[:-1]


def vista_dpo(row: ForeignRow, context: ImportContext) -> Iterator[Pair]:
    """Yield a pair for each of the two rejected answers; box, clip and frames are kept as they
    are.
    """
    check_unsupported(row)
    extra: dict[str, Any] = {}
    for name in ("bbox", "clip_w", "clip_l", "frame"):
        if row.get(name) is not None:
            extra[name] = row[name]
    try:
        strict_json.dumps(extra)
    except (TypeError, ValueError) as error:
        raise BadRow(f"`{'`, `'.join(extra)}` must be what JSON can hold: {error}") from error
    identity = row_id(row, context, "id")
    video = one_video(row, "video")
    for name, pair_id in (("rejected", identity), ("rejected_2", f"{identity}.2")):
        if row.get(name):
            yield make_pair(
                row,
                identity=pair_id,
                video=video,
                **asked(row, [Turn("user", text_of(row, "prompt"))], video),
                chosen=text_of(row, "chosen"),
                rejected=text_of(row, name),
                source="vista_dpo",
                extra=extra or None,
                **span_of(row),
            )


def rlaif_v(row: ForeignRow, context: ImportContext) -> Iterator[Pair]:
    """Yield a pair about a picture, as a clip of one frame."""
    if not isinstance(row.get("image_path"), str):
        raise Dropped("picture inside the row", "save the pictures as files and give image_path")
    yield make_pair(
        row,
        identity=row_id(row, context, "id", "ds_question_id", "idx"),
        video=[text_of(row, "image_path")],
        prompt=question_text(text_of(row, "question")),
        chosen=text_of(row, "chosen"),
        rejected=text_of(row, "rejected"),
        source="rlaif_v",
    )
