"""Exporters: what a pair, or a best answer, is in each format, one function a format."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from dpo_video.core.records import Pair
from dpo_video.formats.context import Video
from dpo_video.formats.fields import Dropped, clean


@dataclass(frozen=True, slots=True, kw_only=True)
class BestAnswer:
    """The best-scored answer to a sample: what rejection sampling keeps."""

    sample_id: str
    video: Video
    prompt: str
    answer: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporter:
    """A format: what it is for, what goes into it, and a row of it."""

    meaning: str
    of: Literal["pairs", "best"]
    write: Callable[[Any], dict[str, Any]]


def _facts(pair: Pair) -> dict[str, Any]:
    """Return what readers of these formats pass over, and ours reads again: id and scores, and a
    question that its reader would strip.
    """
    facts = {
        "id": pair.sample_id,
        "chosen_score": pair.chosen_score,
        "rejected_score": pair.rejected_score,
        "rejected_finish": None if pair.rejected_finish == "stop" else pair.rejected_finish,
        "implicit_margin": pair.implicit_margin,
        "exact_prompt": None if clean(pair.prompt) == pair.prompt else pair.prompt,
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


def _trl(pair: Pair) -> dict[str, Any]:
    _same_clip(pair)
    question = [{"type": "video"}, {"type": "text", "text": pair.prompt}]
    return {
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": pair.chosen}]}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": pair.rejected}]}],
        "videos": [pair.video],
        **_facts(pair),
    }


def _llama_factory(pair: Pair) -> dict[str, Any]:
    _same_clip(pair)
    return {
        "conversations": [{"from": "human", "value": f"<video>{pair.prompt}"}],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
        "videos": [pair.video],
        **_facts(pair),
    }


def _ms_swift(pair: Pair) -> dict[str, Any]:
    _uncorrupted(pair)
    row: dict[str, Any] = {
        "messages": [
            {"role": "user", "content": f"<video>{pair.prompt}"},
            {"role": "assistant", "content": pair.chosen},
        ],
        "videos": [pair.video],
        "rejected_response": pair.rejected,
        **_facts(pair),
    }
    return row if pair.rejected_video is None else {**row, "rejected_videos": [pair.rejected_video]}


def _hound(pair: Pair) -> dict[str, Any]:
    _same_clip(pair)
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
        "conversations": [
            {"from": "human", "value": f"<video>\n{best.prompt}"},
            {"from": "gpt", "value": best.answer},
        ],
    }


def _messages(best: BestAnswer) -> dict[str, Any]:
    return {
        "id": best.sample_id,
        "videos": [best.video],
        "score": best.score,
        "messages": [
            {"role": "user", "content": f"<video>{best.prompt}"},
            {"role": "assistant", "content": best.answer},
        ],
    }


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
}
