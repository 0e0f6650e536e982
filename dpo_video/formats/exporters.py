"""Exporters: what a pair, or a best answer, is in each format, one function a format."""

import hashlib
import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dpo_video.core.records import History, Pair
from dpo_video.core.turns import chat_messages, texts_before, whole_question
from dpo_video.formats.context import Video
from dpo_video.formats.fields import Dropped, without_tags
from dpo_video.formats.foreign_votes import pair_name

SHAREGPT = ("from", "value", "human", "gpt")
MESSAGES = ("role", "content", "user", "assistant")
"""Keys of a turn's role and text, and what the user and the assistant are called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestAnswer:
    """The best-scored answer to a sample: what rejection sampling keeps."""

    sample_id: str
    video: Video
    prompt: str
    history: History = None
    answer: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporter:
    """A format: what it is for, what goes into it, and a row of it."""

    meaning: str
    of: Literal["pairs", "best", "votes"]
    """Pairs to train on, best answers, or pairs to be voted on, whose votes are imported."""
    write: Callable[[Any], dict[str, Any]]


def _facts(pair: Pair) -> dict[str, Any]:
    """Return what readers of these formats pass over, and ours reads again: id and scores, and a
    question that its reader would strip.
    """
    earlier = [turn.question for turn in pair.history or ()]
    facts = {
        "id": pair.sample_id,
        "chosen_score": pair.chosen_score,
        "rejected_score": pair.rejected_score,
        "rejected_finish": None if pair.rejected_finish == "stop" else pair.rejected_finish,
        "implicit_margin": pair.implicit_margin,
        "exact_prompt": None if without_tags(pair.prompt) == pair.prompt else pair.prompt,
        "exact_history": None if earlier == list(map(without_tags, earlier)) else earlier,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _one_file(video: Video) -> str:
    if not isinstance(video, str):
        raise Dropped("list of frames", "the format takes one path a clip")
    return video


def _same_clip(pair: Pair) -> None:
    if pair.rejected_video is not None:
        raise Dropped("another video for the rejected answer", "the format has one video a row")
    _uncorrupted(pair)


def _uncorrupted(pair: Pair) -> None:
    if pair.rejected_corruption is not None:
        raise Dropped("corrupted clip for the rejected answer", "the format has files only")


def _turns(
    record: Pair | BestAnswer, tag: str, *further: str, names: Sequence[str]
) -> list[dict[str, str]]:
    """Return a conversation in turn: earlier turns, the question, and what follows it; the clip's
    tag stands in the first of them.

    Args:
        names: keys of a turn's role and text, then what the user and the assistant are called.
    """
    role, text, user, assistant = names
    texts = [*texts_before(record.history).values(), record.prompt, *further]
    texts[0] = f"{tag}{texts[0]}"
    return [{role: (user, assistant)[index % 2], text: said} for index, said in enumerate(texts)]


def _trl(pair: Pair) -> dict[str, Any]:
    _same_clip(pair)
    return {
        "prompt": chat_messages(pair.history, pair.prompt, [{"type": "video"}]),
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": pair.chosen}]}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": pair.rejected}]}],
        "videos": [pair.video],
        **_facts(pair),
    }


def _llama_factory(pair: Pair) -> dict[str, Any]:
    _same_clip(pair)
    return {
        "conversations": _turns(pair, "<video>", names=SHAREGPT),
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
        "videos": [pair.video],
        **_facts(pair),
    }


def _ms_swift(pair: Pair) -> dict[str, Any]:
    _uncorrupted(pair)
    row: dict[str, Any] = {
        "messages": _turns(pair, "<video>", pair.chosen, names=MESSAGES),
        "videos": [pair.video],
        "rejected_response": pair.rejected,
        **_facts(pair),
    }
    return row if pair.rejected_video is None else {**row, "rejected_videos": [pair.rejected_video]}


def _hound(pair: Pair) -> dict[str, Any]:
    _same_clip(pair)
    if pair.history:
        raise Dropped("earlier turns", "the format has one question a row")
    return {
        "video": _one_file(pair.video),
        "prompt": f"<video>\n{pair.prompt}",
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        **_facts(pair),
    }


def _sharegpt(best: BestAnswer) -> dict[str, Any]:
    return {
        "id": best.sample_id,
        "video": _one_file(best.video),
        "score": best.score,
        "conversations": _turns(best, "<video>\n", best.answer, names=SHAREGPT),
    }


def _messages(best: BestAnswer) -> dict[str, Any]:
    return {
        "id": best.sample_id,
        "videos": [best.video],
        "score": best.score,
        "messages": _turns(best, "<video>", best.answer, names=MESSAGES),
    }


def shown_answers(pair: Pair) -> dict[str, Any]:
    """Return a pair to be voted on: its name, its answers as A and B, and which of them is the
    chosen one. Half of the pairs have it first, drawn by the sample's id, so that its place tells
    nothing, nor does its place in the name.
    """
    is_first = hashlib.sha256(pair.sample_id.encode()).digest()[0] % 2 == 0
    answers = (pair.chosen_id, pair.chosen), (pair.rejected_id, pair.rejected)
    (first_id, first), (second_id, second) = answers if is_first else answers[::-1]
    return {
        "id": pair_name(first_id, second_id),
        "question": whole_question(pair),
        "answer_a": first,
        "answer_b": second,
        "judge_prefers": "a" if is_first else "b",
    }


def _argilla(pair: Pair) -> dict[str, Any]:
    _same_clip(pair)
    video = _one_file(pair.video)
    return {
        "clip": f'<video controls width="480" src="{html.escape(video)}"></video>',
        **shown_answers(pair),
        "chosen_score": pair.chosen_score,
        "rejected_score": pair.rejected_score,
    }


def _label_studio(pair: Pair) -> dict[str, Any]:
    _same_clip(pair)
    return {"data": {"video": _one_file(pair.video), **shown_answers(pair)}}


EXPORTERS: dict[str, Exporter] = {
    "trl": Exporter(
        meaning="TRL conversational preference rows with `videos`", of="pairs", write=_trl
    ),
    "llama_factory": Exporter(
        meaning="LLaMA-Factory sharegpt ranking", of="pairs", write=_llama_factory
    ),
    "ms_swift": Exporter(
        meaning="ms-swift rows with rejected_response", of="pairs", write=_ms_swift
    ),
    "hound_pairs": Exporter(
        meaning="sft_dpo_17k rows, as LLaVA-Hound and LLaVA-NeXT read them",
        of="pairs",
        write=_hound,
    ),
    "sharegpt": Exporter(
        meaning="SFT conversations of the best answers (rejection sampling), as LLaVA reads them",
        of="best",
        write=_sharegpt,
    ),
    "messages": Exporter(
        meaning="SFT messages of the best answers (rejection sampling), as ms-swift reads them",
        of="best",
        write=_messages,
    ),
    "argilla": Exporter(
        meaning="records for Argilla: clip, question, two answers in drawn order, to be voted on",
        of="votes",
        write=_argilla,
    ),
    "label_studio": Exporter(
        meaning="tasks for Label Studio's Pairwise: the same",
        of="votes",
        write=_label_studio,
    ),
}
