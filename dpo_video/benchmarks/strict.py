"""Strict answer parsing: yes or no, a letter, an option; nothing ambiguous counts.

The rules that benchmarks publish take the first letter or word that looks like an answer, whatever
stands around it: `Not sure.` starts with "no", `A dog runs after B` with "A". Here an answer says
one thing in one of the forms below, or is unparsed.

    yes/no   Yes.   no, it is a cat   The answer is yes.   **No**
    letter   B   (b)   B. a cat   Answer: B   Option B is correct   a cat (the text of an option)
"""

import re

from dpo_video.benchmarks.questions import BenchmarkQuestion, Reading

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


def parse_yes_no(text: str) -> str | None:
    """Return `yes` or `no` where the answer begins with it, or None; `Yes and no` is neither."""
    bare = DECLARATION.sub("", MARKUP.sub("", text).strip())
    match = YES_NO.match(bare)
    return None if match is None or CONTRADICTION.match(bare) else match[1].lower()


def parse_letter(text: str, options: tuple[str, ...]) -> str | None:
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


def parse_option(text: str, options: tuple[str, ...]) -> str | None:
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


def read_strictly(question: BenchmarkQuestion, answer: str) -> Reading:
    """Return what an answer says by the strict rule of the question's kind."""
    if question.kind == "yes_no":
        parsed, gold = parse_yes_no(answer), parse_yes_no(question.answer)
    elif question.kind == "letter":
        parsed, gold = (
            parse_letter(answer, question.options),
            parse_letter(question.answer, question.options),
        )
    else:
        parsed, gold = (
            parse_option(answer, question.options),
            parse_option(question.answer, question.options),
        )
    return Reading(parsed=parsed, correct=parsed is not None and parsed == gold)


def _labels(options: tuple[str, ...]) -> list[tuple[str, re.Match[str]]]:
    labelled = []
    for option in options:
        match = LABEL.match(option)
        assert match is not None, f"an option without a letter: {option!r}"
        labelled.append((option, match))
    return labelled


def _plain(text: str) -> str:
    """Return a text in lower case without outer spaces and final marks."""
    return " ".join(text.casefold().split()).rstrip(".!")
