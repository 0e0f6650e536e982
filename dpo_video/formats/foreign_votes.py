"""Votes between the two answers of a pair, as Label Studio and Argilla write what was annotated.

Label Studio: a task of its JSON export, with `annotations` (labelstud.io/guide/task_format).
Argilla 2: a record of `to_json`, responses by question, or one of `to_list(flatten=True)`, which
says of each response whether it was submitted (argilla-io/argilla, records/_io/_generic.py).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dpo_video.core.records import Vote
from dpo_video.data.votes import VoteChoice, texts_hash
from dpo_video.formats.context import ImportContext
from dpo_video.formats.fields import BadRow, Dropped, float_of, text_of
from dpo_video.formats.rows import ForeignRow

SELECTED: dict[str, VoteChoice] = {"left": "A", "right": "B"}
"""What a Pairwise of Label Studio says of answer_a and answer_b."""
NEITHER: dict[str, VoteChoice] = {"tie": "tie", "both_bad": "both_bad", "skip": "skip"}
LABELS: dict[str, VoteChoice] = {"a": "A", "b": "B", **NEITHER}
QUESTION = "vote"
"""What a question of Argilla is called where there are several."""
NEITHER_NAME = "neither"
"""What Choices of Label Studio are called that say that no answer is better."""


class _ShownPair(NamedTuple):
    """The two answers of a row and what a vote on them says of them."""

    left_id: str
    right_id: str
    texts: str

    def vote(self, identity: str, choice: VoteChoice, annotator: str, **facts: Any) -> Vote:
        return Vote(
            id=identity,
            sample_id=self.left_id.rpartition("#")[0] or self.left_id,
            left_id=self.left_id,
            right_id=self.right_id,
            texts=self.texts,
            choice=choice,
            annotator=annotator,
            **facts,
        )


def pair_name(first_id: str, second_id: str) -> str:
    """Return what an exported pair is called: which candidates stand as A and as B."""
    return f"a={first_id}|b={second_id}"


def label_studio(row: ForeignRow, context: ImportContext) -> Iterator[Vote | Dropped]:
    """Yield the vote of each annotation of a task, and why one is none."""
    data = row.get("data")
    if not isinstance(data, dict):
        raise BadRow("no `data` in it: export the project as JSON, not as JSON-MIN or CSV")
    pair = _shown_pair(data.get("id"), data)
    annotations = row.get("annotations")
    if not annotations:
        raise Dropped("not annotated", pair_name(pair.left_id, pair.right_id))
    for annotation in _objects(annotations, "annotations"):
        if annotation.get("id") is None:
            raise BadRow("an annotation without `id`")
        identity = f"label_studio/{annotation['id']}"
        try:
            choice = _annotated(annotation)
        except Dropped as dropped:
            yield Dropped(dropped.reason, f"{identity}: {dropped.detail}")
            continue
        yield pair.vote(
            identity,
            choice,
            _annotator(annotation.get("completed_by")),
            at=_moment(annotation, "updated_at", "created_at"),
            seconds=float_of(annotation, "lead_time") or 0.0,
        )


def _annotated(annotation: Mapping[str, Any]) -> VoteChoice:
    """Return what an annotation chooses; a skipped task is one."""
    if annotation.get("was_cancelled"):
        return "skip"
    choices: list[VoteChoice] = []
    for result in _objects(annotation.get("result") or [], "result"):
        value = result.get("value")
        value = value if isinstance(value, dict) else {}
        if result.get("type") == "pairwise" and value.get("selected") != "none":
            choices.append(_known(SELECTED, value.get("selected"), "a Pairwise"))
        elif result.get("type") == "choices" and result.get("from_name") == NEITHER_NAME:
            names = value.get("choices")
            for name in names if isinstance(names, list) else [names]:
                choices.append(_known(NEITHER, name, f"Choices `{NEITHER_NAME}`"))
    return _single(choices)


def argilla(row: ForeignRow, context: ImportContext) -> Iterator[Vote | Dropped]:
    """Yield the vote of each response to a record, and why one is none."""
    fields = row.get("fields")
    nested = isinstance(fields, dict)
    pair = _shown_pair(row.get("id"), fields if isinstance(fields, dict) else row)
    responses = list(_nested_responses(row) if nested else _flat_responses(row))
    if not responses:
        raise Dropped("not annotated", pair_name(pair.left_id, pair.right_id))
    for value, user, status in responses:
        if status not in ("submitted", "discarded"):
            yield Dropped(f"response is a {status}", f"{row['id']}, of {user}")
            continue
        try:
            choice = "skip" if status == "discarded" else _label(value)
        except Dropped as dropped:
            yield Dropped(dropped.reason, f"{row['id']}, of {user}: {dropped.detail}")
            continue
        yield pair.vote(
            f"argilla/{row['id']}/{user}",
            choice,
            user,
            at=_moment(row, "updated_at", "inserted_at"),
        )


def _nested_responses(row: ForeignRow) -> Iterator[tuple[Any, str, str]]:
    """Yield value, user and status of each response; what says no status was submitted."""
    by_question = row.get("responses") or {}
    if not isinstance(by_question, dict):
        raise BadRow("`responses` must hold lists of responses by question")
    for response in _objects(by_question.get(_question(by_question)) or [], "responses"):
        status = response.get("status") or "submitted"
        yield response.get("value"), _annotator(response.get("user_id")), str(status)


def _flat_responses(row: ForeignRow) -> Iterator[tuple[Any, str, str]]:
    """Yield the same of the columns `QUESTION.responses`, `.users` and `.status`."""
    names = [name.removesuffix(".responses") for name in row if name.endswith(".responses")]
    column = f"{_question(dict.fromkeys(names))}.responses"
    values, users, states = (
        row.get(name) or [] for name in (column, f"{column}.users", f"{column}.status")
    )
    if not all(isinstance(part, list) for part in (values, users, states)):
        raise BadRow(f"`{column}`, its users and its status must be lists")
    if not len(values) == len(users) == len(states):
        raise BadRow(f"`{column}`, its users and its status are of different lengths")
    for value, user, status in zip(values, users, states, strict=True):
        yield value, _annotator(user), str(status)


def _question(questions: Mapping[str, Any]) -> str:
    if QUESTION in questions or not questions:
        return QUESTION
    if len(questions) > 1:
        names = ", ".join(questions)
        raise BadRow(f"several questions, {names}, and none is called `{QUESTION}`")
    return next(iter(questions))


def _label(value: Any) -> VoteChoice:
    """Return what a label says, or a ranking: names in order, or objects with `rank`."""
    if not isinstance(value, list):
        return _known(LABELS, value, "a response")
    if all(isinstance(item, str) for item in value):
        return _known(LABELS, value[0] if value else None, "a ranking")
    ranks = {item.get("value"): item.get("rank") for item in _objects(value, "a ranking")}
    rank_a, rank_b = ranks.get("a"), ranks.get("b")
    if not isinstance(rank_a, int) or not isinstance(rank_b, int):
        raise BadRow(f"a ranking must hold ranks of `a` and `b`, got {str(value)[:80]!r}")
    if rank_a == rank_b:
        return "tie"
    return "A" if rank_a < rank_b else "B"


def _shown_pair(name: Any, texts: ForeignRow) -> _ShownPair:
    """Return the pair of an exported row, by the name it was exported with."""
    match = re.fullmatch(r"a=(.+)\|b=(.+)", name, re.DOTALL) if isinstance(name, str) else None
    if match is None:
        found = "there is none" if name is None else f"got {str(name)[:80]!r}"
        raise BadRow(
            f"the id must be `a=CANDIDATE|b=CANDIDATE`, {found}: have the rows annotated that "
            "`dpo-video export` writes, of this version"
        )
    answers = (text_of(texts, "answer_a"), text_of(texts, "answer_b"))
    return _ShownPair(match[1], match[2], texts_hash(*answers))


def _objects(values: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise BadRow(f"`{name}` must be a list of objects, got {str(values)[:60]!r}")
    return values


def _known(choices: Mapping[str, VoteChoice], name: Any, what: str) -> VoteChoice:
    choice = choices.get(name) if isinstance(name, str) else None
    if choice is None:
        raise BadRow(f"{what} says {str(name)[:40]!r}; it can say {', '.join(choices)}")
    return choice


def _single(choices: list[VoteChoice]) -> VoteChoice:
    if not choices:
        raise Dropped("no choice in it")
    if len(choices) > 1:
        raise Dropped("several choices in it", ", ".join(choices))
    return choices[0]


def _annotator(user: Any) -> str:
    """Return who voted: a name, a number, or the first of a user's email, username and id."""
    if isinstance(user, dict):
        names = (user.get(key) for key in ("email", "username", "id"))
        user = next((name for name in names if name not in (None, "")), None)
    if isinstance(user, bool) or not isinstance(user, str | int) or user == "":
        raise BadRow(f"no annotator: {str(user)[:40]!r}")
    return str(user)


def _moment(row: ForeignRow, *names: str) -> str:
    """Return when, as the row has it; an empty text where it does not say."""
    return next((str(row.get(name)) for name in names if row.get(name)), "")
