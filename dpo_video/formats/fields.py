"""Fields of foreign rows: texts, conversations and videos, with the two ways a row can be unusable.

`BadRow`: it is not of the format. `Dropped`: it is, and cannot be used; counted by reason.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dpo_video.core import strict_json
from dpo_video.core.text import TAG, shortened
from dpo_video.formats.rows import ForeignRow

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
CHANGES_QUESTION = {
    "images": "images beside the video",
    "image": "images beside the video",
    "audios": "sound beside the video",
    "audio": "sound beside the video",
    "system": "system prompt",
    "tools": "tools",
    "objects": "boxes beside the video",
    "history": "several turns",
    "rejected_images": "images beside the video",
    "rejected_audios": "sound beside the video",
    "rejected_system": "system prompt",
    "rejected_tools": "tools",
}
"""Fields of the formats that change what is asked and that our records cannot say, with the reason
for which a row that has them is dropped.
"""
SOUND_FIELDS = ("audios", "audio", "rejected_audios")
SOUND_TAG = re.compile(r"<audio>\s*", re.IGNORECASE)
"""Stands for a sound in a question of LLaMA-Factory's and ms-swift's."""
SPAN_FIELDS = {"start": ("start", "video_start"), "end": ("end", "video_end")}
"""What formats call the seconds at which a clip begins and ends in its file."""


class BadRow(Exception):
    """A row that is not of the format."""


class Dropped(Exception):
    """A row that cannot be used: the reason, and what in it is meant."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


class ReadRow(dict[str, Any]):
    """A foreign row that notes which of its fields are looked at: the others are told of."""

    def __init__(self, row: ForeignRow) -> None:
        super().__init__(row)
        self.fields_read: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field, or the default, and note it as read."""
        self.fields_read.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> Any:
        self.fields_read.add(name)
        return super().__getitem__(name)

    def fields_unread(self) -> list[str]:
        """Return the fields that hold something and were not looked at."""
        return [
            name
            for name, value in self.items()
            if name not in self.fields_read and value not in (None, "", [], {})
        ]


class Turn(NamedTuple):
    """One turn of a conversation; the role is user, assistant or system."""

    role: str
    text: str
    """With the tags that stand for the clip."""
    videos: tuple[Any, ...] = ()
    """Clips that stand among the parts of the turn: paths, or objects that hold one."""

    @property
    def question(self) -> str:
        """The text without tags."""
        return without_tags(self.text)


def check_unsupported(row: ForeignRow, *, reads_history: bool = False) -> None:
    """Raise Dropped where a row says what changes its question and our records cannot say.

    Args:
        reads_history: the format has turns in a field `history`, which is read apart.
    """
    for name, reason in CHANGES_QUESTION.items():
        if name == "history" and reads_history:
            continue
        value = row.get(name)
        if value is None or value in ("", [], {}, "[]", "{}"):
            continue
        if name in SOUND_FIELDS and _is_own_sound(row, value):
            continue
        if name in ("image", "images") and not any(row.get(key) for key in ("video", "videos")):
            reason = "image, no video"
        own = "; a model hears the clip's own file alone" if name in SOUND_FIELDS else ""
        raise Dropped(reason, f"`{name}`: {str(value)[:80]}{own}")


def _is_own_sound(row: ForeignRow, value: Any) -> bool:
    """Return whether a sound of a row is that of its clip's own file, named once more."""
    clips = next((row[name] for name in ("videos", "video") if row.get(name)), None)
    sounds, clips = (_paths_of(field) for field in (value, clips))
    return len(clips) == 1 and sounds == clips


def _paths_of(field: Any) -> list[Any]:
    parts = field if isinstance(field, list) else [field]
    return [part.get("path") if isinstance(part, dict) else part for part in parts]


def text_of(row: ForeignRow, *names: str) -> str:
    """Return the first of several fields that there is, a text as it stands; BadRow without any."""
    for name in names:
        value = row.get(name)
        if value is not None:
            if not isinstance(value, str):
                raise BadRow(f"`{name}` must be a text, {_in_field(value)}")
            return value
    raise BadRow(f"no `{'` or `'.join(names)}` in it; it has: {shortened(', '.join(row))}")


def question_text(text: str, *, num_frames: int = 1) -> str:
    """Return a question without the tag that stands for the clip; Dropped where there are several.

    Args:
        num_frames: of a clip that is a list of frames; so many tags may stand for it, too.
    """
    num_tags = len(TAG.findall(text))
    if num_tags > 1 and num_tags != num_frames:
        raise Dropped("several clips in the question", f"{num_tags} tags: {text[:80]}")
    return without_tags(text)


def _in_field(value: object) -> str:
    """Return what stands in a field, in words of an error."""
    return "and is not there" if value is None else f"got {str(value)[:60]!r}"


def without_tags(text: str) -> str:
    """Return a text without the tags that stand for the clip and its sound, and without space
    around it.
    """
    return SOUND_TAG.sub("", TAG.sub("", text)).strip()


def float_of(row: ForeignRow, name: str) -> float | None:
    """Return a number, also from a text (CSV); None where there is none, or NaN stands for that."""
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadRow(f"`{name}` must be a number, {_in_field(value)}") from None
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise BadRow(f"`{name}` must be a finite number, {_in_field(value)}")
    return None if math.isnan(number) else number


def span_of(row: ForeignRow) -> dict[str, Any]:
    """Return where in its file a clip starts and ends, in seconds: from the row, the arguments of
    its chat template (ms-swift), or the object that names the clip.
    """
    arguments = row.get("chat_template_kwargs")
    clip = next((row[name] for name in ("video", "videos") if row.get(name)), None)
    if isinstance(clip, list) and len(clip) == 1:
        clip = clip[0]
    sources = [row, *(source for source in (arguments, clip) if isinstance(source, dict))]
    span: dict[str, float | None] = {}
    for ours, names in SPAN_FIELDS.items():
        seconds = [float_of(source, name) for source in sources for name in names]
        span[ours] = next((second for second in seconds if second is not None), None)
    if (span["start"] or 0.0) < 0:
        raise Dropped("clip starts before its file", f"start {span['start']}")
    if span["end"] is not None and span["end"] <= (span["start"] or 0.0):
        raise Dropped("clip ends before it starts", f"start {span['start']}, end {span['end']}")
    return span


def turns_of(row: ForeignRow, name: str) -> list[Turn]:
    """Return a conversation of `from`/`value` or `role`/`content`; texts in parts (`type: text`)
    are joined.
    """
    value = row.get(name)
    if not isinstance(value, list) or not value:
        raise BadRow(f"`{name}` must be a list of turns, {_in_field(value)}")
    return [turn_of(turn, name) for turn in value]


def turn_of(turn: Any, name: str) -> Turn:
    """Return one turn of either form."""
    if not isinstance(turn, dict):
        raise BadRow(
            f"`{name}` must hold turns (role and content, or from and value), got "
            f"{str(turn)[:60]!r}"
        )
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if not isinstance(role, str) or role not in ROLES:
        raise BadRow(f"`{name}`: unknown role {role!r}; known: {', '.join(ROLES)}")
    if isinstance(content, list):
        return _turn_of_parts(ROLES[role], content, name)
    if not isinstance(content, str):
        raise BadRow(f"`{name}`: a turn's text must be a text, got {str(content)[:60]!r}")
    return Turn(ROLES[role], content)


def _turn_of_parts(role: str, parts: Sequence[Any], name: str) -> Turn:
    texts: list[str] = []
    videos: list[Any] = []
    for part in parts:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str | None):
            raise BadRow(
                f"`{name}`: the parts of a turn must be objects with type and text, "
                f"{_in_field(parts)}"
            )
        kind = str(part.get("type"))
        if kind == "text":
            texts.append(part.get("text") or "")
        elif kind.startswith("video"):
            clip = next((part[key] for key in ("video", "path", "url") if part.get(key)), None)
            videos += [] if clip is None else [{**part, "path": clip}]
        elif part.get(kind) is not None or kind in ("image", "image_url", "audio"):
            raise Dropped(f"{kind.removesuffix('_url')} in a turn", str(part)[:80])
    return Turn(role, " ".join(texts), tuple(videos))


def dialogue_of(turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns of a conversation up to its last question: user and assistant in turn. One
    with instructions, or in another order, is dropped, and one that shows its clip later than in
    the first question.
    """
    if any(turn.role == "system" and turn.question for turn in turns):
        raise Dropped("system prompt", "the chat template of the model tuned writes its own")
    dialogue = [turn for turn in turns if turn.role != "system"]
    expected = [("user", "assistant")[index % 2] for index in range(len(dialogue))]
    if len(dialogue) % 2 == 0 or [turn.role for turn in dialogue] != expected:
        raise Dropped("turns do not alternate", " ".join(turn.role for turn in dialogue))
    for turn in dialogue[2::2]:
        if turn.videos or TAG.search(turn.text):
            raise Dropped("clip in a later turn", turn.text[:80])
    if any(not turn.question for turn in dialogue[:-1]):
        raise Dropped("empty turn")
    return dialogue


def history_of(row: ForeignRow) -> list[Turn]:
    """Return the turns of a field `history`: pairs of question and answer, in lists or in objects,
    or JSON of these (CSV); none where there is none.
    """
    value = row.get("history")
    if isinstance(value, str) and value.strip():
        try:
            value = strict_json.loads_foreign(value)
        except (json.JSONDecodeError, strict_json.TooDeep) as error:
            raise BadRow(f"`history` is a text, and no JSON of turns: {error}") from error
    turns: list[Turn] = []
    for turn in value if isinstance(value, list) else []:
        texts = [turn.get("question"), turn.get("answer")] if isinstance(turn, dict) else turn
        is_pair = isinstance(texts, list) and len(texts) == 2
        if not is_pair or not all(isinstance(text, str) for text in texts):
            raise BadRow(f"`history` must hold a question and an answer a turn, got {turn!r:.60}")
        turns += [Turn("user", str(texts[0])), Turn("assistant", str(texts[1]))]
    if not turns and value not in (None, "", []):
        raise BadRow(f"`history` must be a list of turns, {_in_field(value)}")
    return turns


def one_video(row: ForeignRow, *names: str) -> str | list[str]:
    """Return the one clip of a row: a path, or a list of frames; rows of images only or of several
    clips are dropped.

    A list of one path is that clip; a list in a list is a clip of frames; an object names the clip
    by `path` or `video`.
    """
    value = next((row[name] for name in names if row.get(name)), None)
    if value is None:
        raise Dropped("no video")
    if isinstance(value, list):
        if len(value) > 1:
            raise Dropped("several videos", f"{len(value)} of them")
        value = value[0]
        if isinstance(value, list) and value and all(isinstance(frame, str) for frame in value):
            return list(value)
    if isinstance(value, dict):
        value = _path_in(value)
    if isinstance(value, str):
        return value
    raise BadRow(f"`{names[0]}` must be a path or a list of frames, {_in_field(row[names[0]])}")


def _path_in(clip: Mapping[str, Any]) -> Any:
    """Return the path of a clip that is an object: one of Hugging Face's `Video` columns, or a part
    of a turn.
    """
    path = clip.get("path") or clip.get("video")
    if path is None and clip.get("bytes") is not None:
        raise Dropped("video inside the row", "save the clips as files and give their paths")
    return path
