"""Text normalisation, similarity of texts, and characters that are neither stored nor shown."""

import re
import unicodedata

TAG = re.compile(r"<(?:video|image|ImageHere|VideoHere)>\s*", re.IGNORECASE)
"""What formats write where the clip goes; ours says that by `video`."""


SHINGLE = 5
"""Characters of a piece: works in scripts that put no spaces between words, too."""
MARK = re.compile(r"[^\w\s]|_")
MEANT = frozenset("%&@#")
"""Punctuation to Unicode that changes what a text says."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
SHOWN = 200
"""Characters of a wrong value that an error shows."""
ADDRESS = re.compile(r"(\w+://)([^\s'\"]+)")
HALF = re.compile(r"[\ud800-\udfff]")
"""Half of a surrogate pair, as of an emoji that a limit of tokens cut."""


def replace_lone_surrogates(text: str) -> str:
    """Return the text with U+FFFD for each half of a surrogate pair: JSON can say one, UTF-8
    cannot.

    No file, tokenizer or database takes such a half, so that it would stop the run wherever it came
    next.
    """
    return text if text.isascii() else HALF.sub("\ufffd", text)


def printable(text: str) -> str:
    """Return the text with every control character spelt out, as `\\x1b`; line ends and tabs stay.

    What a server, a file name or a data set says may hold ESC sequences, which a terminal obeys:
    they set its title, clear it or write over what stands above. Marks that turn the direction of
    writing, and halves of a surrogate pair, are spelt out, too.
    """
    return text if text.isascii() and text.isprintable() else CONTROL.sub(_spelt_out, text)


def _spelt_out(match: re.Match[str]) -> str:
    return (
        match[0].encode("ascii", "backslashreplace").decode()
        if match[0] > "\xff"
        else (f"\\x{ord(match[0]):02x}")
    )


def without_secrets(text: str) -> str:
    """Return a text in which addresses have lost what may be a secret: `user:password@`, a query,
    a fragment.
    """
    return ADDRESS.sub(
        lambda match: match[1] + re.split("[?#]", match[2].rpartition("@")[2], maxsplit=1)[0], text
    )


def shortened(text: str) -> str:
    """Return a text for an error's one line: of a long one the beginning, and how long it is."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}.. ({len(text):,} characters)"


def normalise_space(text: str) -> str:
    """Return the text with every run of whitespace as one space."""
    return " ".join(text.split())


def one_line(text: str) -> str:
    """Return what a server says as one line without control characters."""
    return printable(normalise_space(text))


def normalise(text: str) -> str:
    """Return the text in one case, every run of punctuation and whitespace as one space; signs of
    numbers stay.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().translate(ASCII_SPACED)
    if not folded.isascii() or "-" in folded:  # else no mark is left that means nothing
        folded = MARK.sub(
            lambda match: (
                match[0] if _is_meant(match[0], folded[match.end() : match.end() + 1]) else " "
            ),
            folded,
        )
    return normalise_space(folded)


def normalised_text(text: str) -> str:
    """Return the text normalised, or only its white space where it has no words: equal for two
    texts that say the same.
    """
    return normalise(text) or normalise_space(text)


def _is_meant(mark: str, following: str) -> bool:
    if not unicodedata.category(mark).startswith("P"):
        return True
    return mark in MEANT or (mark == "-" and following.isdigit())


ASCII_SPACED = "".join(
    " " if MARK.match(sign) and sign != "-" and not _is_meant(sign, "") else sign
    for sign in map(chr, range(128))
)
"""What becomes of each ASCII character whatever follows it: one pass for most texts."""


def shingles(text: str) -> frozenset[str]:
    """Return the pieces of 5 characters of the normalised text; a shorter text is one piece, an
    empty one none.
    """
    plain = normalise(text)
    if len(plain) <= SHINGLE:
        return frozenset([plain] if plain else [])
    return frozenset(plain[begin : begin + SHINGLE] for begin in range(len(plain) - SHINGLE + 1))


def similarity(first: frozenset[str], second: frozenset[str]) -> float:
    """Return Jaccard's index of two sets of pieces: shared over all, 1 for equal sets, 0 where one
    is empty.
    """
    if not first or not second:
        return 0.0
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)
