"""Questions that are answered by a letter, or by yes or no: which gold answers they can have."""

import re
from collections.abc import Sequence

from dpo_video.core.errors import UserError
from dpo_video.core.records import AS_IT_STANDS, Sample

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LABEL = re.compile(r"\s*\(?([A-Z])[.):]\s*\S")
YES_NO = ("yes", "no")
SEVERAL = "several_letters"
"""In a sample's `meta`: the question may have several right options."""


def check_choice(sample: Sample, where: str) -> None:
    """Refuse a question to choose from whose gold answer is none of the choices; `where` is
    file:line.

    `letter` needs two options at least and the letter of one of them, `yes_no` an answer that is
    yes or no and no options.
    """
    options = sample.options
    if options is not None and not all(option.strip() for option in options):
        raise UserError(f"{where}: an option of `options` is empty. Fill it in, or take it out")
    if sample.answer_kind == "letter":
        _check_letter(sample, where)
    elif sample.answer_kind == "yes_no":
        if options is not None:
            raise UserError(
                f"{where}: `options` stand beside `answer_kind` yes_no, which offers yes and no. "
                "Leave them out, or set answer_kind to letter"
            )
        if gold_choice(sample) not in YES_NO:
            raise UserError(
                f"{where}: `answer` must be yes or no under `answer_kind` yes_no, got "
                f"{sample.answer!r}"
            )


def _check_letter(sample: Sample, where: str) -> None:
    options = sample.options or []
    if not 2 <= len(options) <= len(LETTERS):
        raise UserError(
            f"{where}: `answer_kind` letter needs 2 to {len(LETTERS)} `options`, got {len(options)}"
        )
    if len(set(options)) < len(options):
        twice = next(option for option in options if options.count(option) > 1)
        raise UserError(f"{where}: the option {twice!r} stands twice: no letter is the right one")
    letters = LETTERS[: len(options)]
    gold = gold_choice(sample)
    if not gold or not set(gold) <= set(letters) or (len(gold) > 1 and not has_several(sample)):
        raise UserError(
            f"{where}: `answer` must be the letter of one of the {len(options)} options, "
            f"{letters[0]} to {letters[-1]}, got {sample.answer!r}"
        )


def has_several(sample: Sample) -> bool:
    """Return whether a question may have several right options, whose letters are its answer."""
    return bool((sample.meta or {}).get(SEVERAL))


def stands_alone(sample: Sample) -> bool:
    """Return whether the prompt is asked as it stands, without the options: an answer in words
    chooses the option that says the same.
    """
    return bool((sample.meta or {}).get(AS_IT_STANDS))


def option_texts(options: Sequence[str]) -> tuple[str, ...]:
    """Return what options say, without their letters."""
    texts = []
    for option in labelled_options(options):
        label = LABEL.match(option)
        assert label is not None, "every option has its letter"
        texts.append(option[label.end() - 1 :])
    return tuple(texts)


def labelled_options(options: Sequence[str]) -> tuple[str, ...]:
    """Return options with their letters, `A. a dog`; those that have them all, in one of the forms
    `A. a dog`, `A) a dog`, `(A) a dog`, `A: a dog`, stay as they are.
    """
    labels = [LABEL.match(option) for option in options]
    if all(
        label is not None and label[1] == letter
        for label, letter in zip(labels, LETTERS, strict=False)
    ):
        return tuple(options)
    return tuple(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def gold_choice(sample: Sample) -> str | None:
    """Return the gold answer of a question to choose from in one form: a capital letter, `yes` or
    `no`; that of a text is None.
    """
    if sample.answer is None or sample.answer_kind == "text":
        return None
    bare = sample.answer.strip().rstrip(".")
    return bare.upper() if sample.answer_kind == "letter" else bare.lower()
