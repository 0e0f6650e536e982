"""What an importer has beside a row, and the pairs and samples that rows become."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dpo_video.core.records import EarlierTurn, History, Pair, Sample
from dpo_video.formats.fields import Dropped, Turn, float_of, question_text, without_tags
from dpo_video.formats.ids import id_of
from dpo_video.formats.rows import ForeignRow

Video = str | list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportContext:
    """What an importer has beside a row."""

    fallback_id: str
    """For rows without an id."""
    caption_of: Callable[[str], str | None] = field(default=lambda video: None)
    """A clip's caption by its video, from the file of captions."""
    is_question: Callable[[str], bool] | None = None
    """Whether an id is that of a question, from the file of samples."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our field -> the table's column."""


def make_pair(
    row: ForeignRow,
    *,
    identity: str,
    video: Video,
    prompt: str,
    chosen: str,
    rejected: str,
    source: str,
    **optional: Any,
) -> Pair:
    """Return a pair, its answers as they stand; equal or empty ones teach nothing and are dropped.

    Args:
        identity: id of the row.
        optional: further fields of the pair, such as start and end.
    """
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not without_tags(answer):
            raise Dropped("empty answer", name)
    if chosen == rejected and "rejected_video" not in optional:
        raise Dropped("chosen equals rejected", chosen[:80])
    if not prompt.strip():
        raise Dropped("empty question")
    return Pair(
        sample_id=identity,
        video=video,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        chosen_score=float_of(row, "chosen_score"),
        rejected_score=float_of(row, "rejected_score"),
        implicit_margin=float_of(row, "implicit_margin"),
        rejected_finish="length" if row.get("rejected_finish") == "length" else "stop",
        source=source,
        chosen_id=f"{identity}#chosen",
        rejected_id=f"{identity}#rejected",
        **optional,
    )


def asked(row: ForeignRow, dialogue: Sequence[Turn], video: Video) -> dict[str, Any]:
    """Return `prompt`, the last question of a dialogue, and `history`, the turns before it: as
    arguments of `make_pair` and `make_sample`.

    Questions have no tags for the clip, and the space around them only where an export of ours
    keeps it beside them; answers stand as they are.
    """
    num_frames = 1 if isinstance(video, str) else len(video)
    first, *later = dialogue[::2]
    questions = [question_text(first.text, num_frames=num_frames)]
    questions += [question_text(turn.text) for turn in later]
    *earlier, prompt = questions
    exact = row.get("exact_history")
    if isinstance(exact, list) and [without_tags(str(text)) for text in exact] == earlier:
        earlier = [str(text) for text in exact]
    history: History = tuple(
        EarlierTurn(question=question, answer=turn.text)
        for question, turn in zip(earlier, dialogue[1::2], strict=True)
    )
    return {"prompt": _exact_prompt(row, prompt), "history": history or None}


def _exact_prompt(row: ForeignRow, prompt: str) -> str:
    """Return a question with the space around it that an export of ours keeps beside it."""
    exact = row.get("exact_prompt")
    return exact if isinstance(exact, str) and without_tags(exact) == prompt else prompt


def make_sample(
    row: ForeignRow,
    context: ImportContext,
    *,
    identity: str,
    video: Video,
    prompt: str,
    answer: str | None,
    **optional: Any,
) -> Sample:
    """Return a sample with the row's own caption, or that of its clip; one without is dropped."""
    caption = row.get("caption")
    caption = without_tags(caption) if isinstance(caption, str) else None
    caption = caption or context.caption_of(video if isinstance(video, str) else video[0])
    if not caption:
        raise Dropped("no caption", str(video)[:80])
    if not prompt:
        raise Dropped("empty question")
    return Sample(
        id=identity,
        video=video,
        prompt=prompt,
        caption=caption,
        answer=without_tags(answer or "") or None,
        **optional,
    )


def row_id(row: ForeignRow, context: ImportContext, *names: str) -> str:
    """Return what a row calls itself, by the first of these fields that says something, else its
    number.
    """
    return id_of(row, *(names or ("id", "idx")), fallback=context.fallback_id)
