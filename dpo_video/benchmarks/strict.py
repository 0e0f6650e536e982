"""Strict answer parsing: yes or no, a letter, an option; nothing ambiguous counts.

The rules that benchmarks publish take the first letter or word that looks like an answer, whatever
stands around it: `Not sure.` starts with "no", `A dog runs after B` with "A". Here an answer says
one thing in one of the forms below, or is unparsed.

    yes/no   Yes.   no, it is a cat   The answer is yes.   **No**
    letter   B   (b)   B. a cat   Answer: B   Option B is correct   a cat (the text of an option)
    letters  AC  A, C  A and C   (A)(C)   (where a question may have several right options)
"""

import re
from collections.abc import Sequence

from dpo_video.benchmarks.readings import Reading
from dpo_video.core.records import Sample
from dpo_video.data.choices import LETTERS, gold_choice, has_several, labelled_options

MARKUP = re.compile(r"[*_`\"“”]+")
"""Emphasis and quotation marks around an answer."""
DECLARATION = re.compile(
    r"^(?:(?:the|my)\s+)?(?:(?:correct|best|final)\s+)?(?:answer|option|choice)\b"
    r"(?:\s+is\b)?\s*[:\uff1a]?\s*",
    re.IGNORECASE,
)
YES_NO = re.compile(r"^(yes|no)\b", re.IGNORECASE)
CONTRADICTION = re.compile(
    r"^(?:yes\W+(?:(?:and|or|but)\W+)?no|no\W+(?:(?:and|or|but)\W+)?yes)\b", re.IGNORECASE
)
LETTER = re.compile(
    r"^(?:option\s+)?(?:\(\s*(?P<bracketed>[A-Za-z])\s*\)|\[\s*(?P<squared>[A-Za-z])\s*\]"
    r"|(?P<plain>[A-Za-z]))(?P<tail>.*)$",
    re.IGNORECASE | re.DOTALL,
)
AFTER_LETTER = re.compile(
    r"^\s*(?:$|[.:)](?:\s|$)|,\s|\n|because\b|is\s+(?:the\s+)?(?:correct|right|best)\b)",
    re.IGNORECASE,
)
"""What may follow a letter: nothing, a mark, or why it is chosen; else the letter is a word."""
SECOND_LETTER = re.compile(r"^\s*(?:[.,/&+]|or\b|and\b)?\s*[(\[]?[A-Z][)\]]?\s*(?:$|[.,)\]/&+])")
"""Another letter beside the first one: `A or B`, `A, B`, `(A)(B)`, `A. B. C.`."""
LABEL = re.compile(r"^\s*\(?([A-Za-z])[.):]\s*")
"""Of an option: `A. a cat`, `(A) a cat`."""
NAMED_OPTION = re.compile(r"^\S+ \S+: .")
"""An option with a label of two words: `Caption A: a cat sleeps`, `Option 1: a cat runs`."""
SEVERAL_LETTERS = re.compile(
    r"^(?:options?\s+)?[(\[]?[A-Z][)\].]?(?:\s*(?:,|;|/|&|\band\b)?\s*[(\[]?[A-Z][)\].]?)*\s*\.?$"
)


def parse_yes_no(text: str) -> str | None:
    """Return `yes` or `no` where the answer begins with it, or None; `Yes and no` is neither."""
    bare = DECLARATION.sub("", MARKUP.sub("", text).strip())
    match = YES_NO.match(bare)
    return None if match is None or CONTRADICTION.match(bare) else match[1].lower()


def parse_choice(text: str, options: Sequence[str]) -> str | None:
    """Return the letter of the one option that an answer names, or None.

    Args:
        options: as shown, with the labels `A. ` or `(A) ` in their order, with labels of two words
            (`Caption A: a cat sleeps`), or without labels: the first is A then, too.
    """
    labelled = labelled_options(options)
    if labelled != tuple(options) and all(NAMED_OPTION.match(option) for option in options):
        named = parse_option(text, options)
        return None if named is None else LETTERS[options.index(named)]
    return parse_letter(text, labelled)


def parse_letters(text: str, options: Sequence[str]) -> str | None:
    """Return the letters of all options that an answer names, in order: `AC` of `A and C`; None
    where it names none of them.
    """
    bare = DECLARATION.sub("", MARKUP.sub("", text).strip())
    if not SEVERAL_LETTERS.match(bare):
        by_line = [parse_choice(line, options) for line in text.strip().splitlines()]
        letters = {letter for letter in by_line if letter is not None}
        return "".join(sorted(letters)) if letters and None not in by_line else None
    letters = set(re.findall("[A-Z]", re.sub("options?", "", bare)))
    return "".join(sorted(letters)) if letters <= set(LETTERS[: len(options)]) else None


def parse_letter(text: str, options: Sequence[str]) -> str | None:
    """Return the letter of the one option that an answer names by letter or by text, or None.

    Args:
        options: with their letters, as shown: `A. a cat`.
    """
    text_of = {
        match[1].upper(): _plain(option[match.end() :]) for option, match in _labels(options)
    }
    bare = MARKUP.sub("", text).strip()
    by_text = [letter for letter, option in text_of.items() if option == _plain(bare)]
    if by_text:
        return by_text[0] if len(by_text) == 1 else None
    match = LETTER.match(DECLARATION.sub("", bare))
    if match is None:
        return None
    letter = (match["bracketed"] or match["squared"] or match["plain"]).upper()
    tail = match["tail"]
    if letter not in text_of:
        return None
    content = _plain(tail.lstrip(" .:),"))
    if content in text_of.values():
        return letter if text_of[letter] == content else None
    if SECOND_LETTER.match(tail):
        return None
    return letter if match["plain"] is None or AFTER_LETTER.match(tail) else None


def parse_option(text: str, options: Sequence[str]) -> str | None:
    """Return the one option that an answer names whole, by its label, the label's last word or its
    text, or None.

    Args:
        options: `Caption A: a cat sleeps.`; the label stands before the first colon.
    """
    answer = _plain(MARKUP.sub("", text))
    named = []
    for option in options:
        label, _, content = option.partition(":")
        if answer in map(_plain, (option, label, label.split()[-1], content)):
            named.append(option)
    return named[0] if len(named) == 1 else None


def read_strictly(question: Sample, answer: str) -> Reading:
    """Return what an answer says by the strict rule of the question's kind, letter or yes/no."""
    assert question.answer_kind != "text", "a rule reads a letter, or yes or no"
    if question.answer_kind == "yes_no":
        parsed = parse_yes_no(answer)
    else:
        parse = parse_letters if has_several(question) else parse_choice
        parsed = parse(answer, question.options or ())
    return Reading(parsed=parsed, correct=parsed is not None and parsed == gold_choice(question))


def _labels(options: Sequence[str]) -> list[tuple[str, re.Match[str]]]:
    labelled = []
    for option in options:
        match = LABEL.match(option)
        assert match is not None, f"an option without a letter: {option!r}"
        labelled.append((option, match))
    return labelled


def _plain(text: str) -> str:
    """Return a text in lower case without outer spaces and final marks."""
    return " ".join(text.casefold().split()).rstrip(".!")
