"""English words that probes swap: every word of a group excludes the others, so a swap makes a true
sentence false.

The lists are short on purpose. A word is in them only where a swap is safe: `orange`, `gold` and
`silver` are also things, `one` is as often a pronoun, a `person` may be a man, a `child` a girl,
and a `girl` a young woman; the first five are not swapped, the last two not for each other.
"""

import itertools
import random
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

COLOURS = (
    "red",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
    "gray",
    "turquoise",
)
NUMBERS = (
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)

ACTORS: tuple[dict[str, str], ...] = (
    {"man": "men", "woman": "women"},
    {"boy": "boys", "girl": "girls"},
    {
        "dog": "dogs",
        "cat": "cats",
        "horse": "horses",
        "cow": "cows",
        "sheep": "sheep",
        "bird": "birds",
        "monkey": "monkeys",
        "elephant": "elephants",
        "rabbit": "rabbits",
        "bear": "bears",
        "lion": "lions",
    },
    {
        "car": "cars",
        "bus": "buses",
        "truck": "trucks",
        "motorcycle": "motorcycles",
        "bicycle": "bicycles",
        "train": "trains",
        "boat": "boats",
        "airplane": "airplanes",
        "helicopter": "helicopters",
    },
    {
        "circle": "circles",
        "square": "squares",
        "triangle": "triangles",
        "cross": "crosses",
        "star": "stars",
    },
)
"""Who or what acts: groups of singular and plural; a swap stays in its group."""

DETERMINERS = ("a", "an", "the", "another", "this", "that", "each", "his", "her", "their")
"""A singular actor is swapped behind one of these, with at most two words between: `cross` is also
a verb.
"""
LINKS = ("and", "at", "by", "from", "in", "into", "of", "on", "or", "the", "to", "who", "with")
"""What those words are not, as the determiner then belongs to another noun."""

DIRECTIONS: tuple[tuple[str, str], ...] = (
    (r"(?<=\bthe )left\b(?! of the video)", r"(?<=\bthe )right\b(?! of the video)"),
    (r"\bleft(?= (?:hand|side|arm|leg|foot))", r"\bright(?= (?:hand|side|arm|leg|foot))"),
    (r"(?<=\bmoves )up\b", r"(?<=\bmoves )down\b"),
    (r"(?<=\bmoving )up\b", r"(?<=\bmoving )down\b"),
    (r"(?<=\bgoes )up\b", r"(?<=\bgoes )down\b"),
    (r"(?<=\blooks )up\b", r"(?<=\blooks )down\b"),
    (r"(?<=\bwalks )up\b", r"(?<=\bwalks )down\b"),
    (r"(?<=\bruns )up\b", r"(?<=\bruns )down\b"),
    (r"\bupwards?\b", r"\bdownwards?\b"),
    (r"\bforwards?\b", r"\bbackwards?\b"),
    (r"\babove\b", r"\bbelow\b"),
    (r"\bclockwise\b", r"\bcounterclockwise\b"),
    (r"\bin front of\b", r"\bbehind\b"),
    (r"\binside\b", r"\boutside\b"),
    (r"\binto\b", r"\bout of\b"),
    (r"\bopens\b", r"\bcloses\b"),
    (r"\bopening the\b", r"\bclosing the\b"),
    (r"\bpicks up\b", r"\bputs down\b"),
    (r"(?<=\bthe )top\b", r"(?<=\bthe )bottom\b"),
)
"""Where to, in pairs of patterns; what one matches is replaced by the plain words of the other."""

ORDER: tuple[tuple[str, str], ...] = (
    (
        r"(?<!the day )(?<!standing )(?<!stands )\bbefore\b(?! the (?:camera|mirror|audience))",
        r"(?<!look )(?<!looks )(?<!looking )(?<!named )(?<!one )\bafter\b(?! "
        r"(?:all|that|this|another))",
    ),
    (r"\bat the (?:beginning|start)\b", r"\bat the end\b"),
    (r"\bin the beginning\b", r"\bin the end\b"),
    (r"\b(?:starts|begins) (?=by|with)", r"\bends (?=by|with)"),
    (r"\bappears first\b", r"\bappears last\b"),
    (r"\bat first\b", r"\bat last\b"),
    (r"\bthe first to\b", r"\bthe last to\b"),
)
"""When, in pairs of patterns, for one sentence; two sentences in a row change places where a SEQUEL
joins them.
"""

SEQUELS = (
    "Then",
    "Later",
    "After that",
    "Afterwards",
    "Afterward",
    "Next",
    "Finally",
    "Eventually",
    "Subsequently",
    "Shortly after",
    "Moments later",
    "A moment later",
)
"""What a sentence begins with that tells what happens next."""

NOT_EVENTS = (
    r"(?i)(?:(?:the|this) (?:clip|video|scene|footage|camera|image|frame)\b|we "
    r"see\b|overall\b|throughout\b)"
)
"""How sentences begin that tell of the whole clip: to move them changes nothing."""

NEGATIONS: tuple[tuple[str, str], ...] = (
    (r"\b(is|are|was|were|can|could|does|do|did) not (?!only\b)", r"\1 "),
    (r"\b([Tt]here (?:is|are)) no ", r"\1 a "),
    (r"\b([Tt]here (?:is|was)) (?:a|an|another|one) ", r"\1 no "),
    (r"\b([Tt]here (?:are|were)) (?:two|three|four|five|some|several|many) ", r"\1 no "),
    (r"\b(has|have|had|holds|wears|carries) (?:a|an) ", r"\1 no "),
    (r"\b(is|are|was|were|can|could) (?!not\b|no\b|also\b|then\b|now\b)", r"\1 not "),
)
"""Patterns and what they become, the first that matches; a sentence without a form of these verbs
offers none.
"""

NEGATIVES = r"(?i)\b(?:nothing|nobody|never|none|neither|nor|without|hardly)\b"
"""Sentences that are negative in another way are left alone."""


WORD = re.compile(r"[a-z]+|\d+")
SENTENCE = re.compile(r"(?<=[.!?])\s+")
DIGITS = re.compile(r"(?<![\d:.,/#$-])\b([2-9]|1\d)\b(?![\d:/%]|[.,]\d|st|nd|rd|th|-)")
NO_NAMES = {
    *DETERMINERS,
    "he",
    "she",
    "it",
    "they",
    "there",
    "one",
    "two",
    "three",
    "in",
    "on",
    "at",
    "some",
}
"""First words that lose their capital inside a sentence."""
PLAIN = re.compile(r"\(\?[:=!<][^()]*(?:\([^()]*\)[^()]*)*\)|\\b|\?")
"""What is no plain word in the patterns of DIRECTIONS and ORDER."""

FactEdit = tuple[str, str]
"""A sentence (or two) that the caption supports, and the same made false."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapContext:
    """What a swap may choose from."""

    words: frozenset[str]
    """The words of this caption: none of them is put in, as it might then be true."""
    vocabulary: Collection[str]
    """The words of all captions: preferred, so that a false sentence looks like the others."""
    rng: random.Random


def caption_sentences(caption: str) -> list[str]:
    """Return the sentences of a caption."""
    stripped = (sentence.strip() for sentence in SENTENCE.split(caption.strip()))
    return [sentence for sentence in stripped if sentence]


def words(text: str) -> frozenset[str]:
    """Return the lower-case words and numbers of a text."""
    return frozenset(WORD.findall(text.casefold()))


def swap(
    kind: str, text: str, *, caption: str, vocabulary: Collection[str], seed: int
) -> FactEdit | None:
    """Return a sentence of the text and its false twin, drawn among all that offer a swap of this
    kind, or None.

    The text is the caption itself, or a gold answer that the caption supports.
    """
    context = SwapContext(
        words=words(f"{caption} {text}"),
        vocabulary=vocabulary,
        rng=random.Random(f"{seed} {kind} {caption} {text}"),
    )
    edits = [
        edit for edit in SWAPS[kind](caption_sentences(text), context) if edit[1] not in caption
    ]
    return context.rng.choice(edits) if edits else None


def _colour(text_sentences: Sequence[str], context: SwapContext) -> Iterator[FactEdit]:
    yield from _words(text_sentences, context, COLOURS)


def _number(text_sentences: Sequence[str], context: SwapContext) -> Iterator[FactEdit]:
    yield from _words(text_sentences, context, NUMBERS)
    for sentence in text_sentences:
        for match in DIGITS.finditer(sentence):
            value = int(match[1])
            near = [str(number) for number in (value - 1, value + 1, value + 2) if number > 1]
            free = [number for number in near if number not in context.words]
            if new := _choose(free, context):
                yield sentence, sentence[: match.start(1)] + new + sentence[match.end(1) :]


def _actor(text_sentences: Sequence[str], context: SwapContext) -> Iterator[FactEdit]:
    behind = rf"\b(?:{'|'.join(DETERMINERS)})\s+(?:(?!(?:{'|'.join(LINKS)})\s)[\w-]+\s+){{0,2}}?"
    for group in ACTORS:
        plurals = [plural for singular, plural in group.items() if plural != singular]
        # a plural in the caption excludes its singular too, and the other way round
        free = [
            singular for singular, plural in group.items() if not {singular, plural} & context.words
        ]
        new = _choose(free, context)
        for sentence in text_sentences if new else ():
            for match in re.finditer(rf"(?i){behind}({'|'.join(group)})\b", sentence):
                yield sentence, _put(sentence, match, new)
            for match in re.finditer(rf"(?i)\b({'|'.join(plurals)})\b", sentence):
                yield sentence, _put(sentence, match, group[new])


def _direction(text_sentences: Sequence[str], context: SwapContext) -> Iterator[FactEdit]:
    yield from _patterns(text_sentences, DIRECTIONS)


def _order(text_sentences: Sequence[str], context: SwapContext) -> Iterator[FactEdit]:
    yield from _patterns(text_sentences, ORDER)
    opening = re.compile(rf"({'|'.join(SEQUELS)}),? ")
    for first, second in itertools.pairwise(text_sentences):
        joined = opening.match(second)
        if (
            joined
            and not opening.match(first)
            and not re.match(NOT_EVENTS, first)
            and first[-1] == "."
        ):
            event = second[joined.end() :]
            yield f"{first} {second}", f"{_upper(event)} {joined[0]}{_lower(first)}"
    for sentence in text_sentences:
        if match := re.fullmatch(r"First,? (.+?),? (?:and )?then (.+)\.", sentence):
            yield sentence, f"First {match[2]}, then {match[1]}."


def _negation(text_sentences: Sequence[str], context: SwapContext) -> Iterator[FactEdit]:
    for sentence in text_sentences:
        for pattern, new in NEGATIONS if not re.search(NEGATIVES, sentence) else ():
            if re.search(pattern, sentence):
                yield sentence, re.sub(pattern, new, sentence, count=1)
                break


def _words(
    text_sentences: Sequence[str], context: SwapContext, group: Sequence[str]
) -> Iterator[FactEdit]:
    free = [word for word in group if word not in context.words]
    for sentence in text_sentences:
        for match in re.finditer(rf"(?i)\b({'|'.join(group)})\b", sentence):
            if new := _choose(free, context):
                yield sentence, _put(sentence, match, new)


def _patterns(
    text_sentences: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> Iterator[FactEdit]:
    for sentence in text_sentences:
        for pair in pairs:
            for old, new in (pair, pair[::-1]):
                if match := re.search(f"(?i)({old})", sentence):
                    plain = PLAIN.sub("", new).strip() + (" " if match[1].endswith(" ") else "")
                    yield sentence, _put(sentence, match, plain)


def _choose(free: Sequence[str], context: SwapContext) -> str:
    """Return one of the free words, of all captions' vocabulary where it holds any; "" for none."""
    familiar = [word for word in free if word in context.vocabulary]
    return context.rng.choice(familiar or free) if free else ""


def _put(text: str, match: "re.Match[str]", new: str) -> str:
    """Return the text with the match's first group replaced; a capital stays, `a` and `an` follow
    the new word.
    """
    before = text[: match.start(1)]
    if article := re.search(r"\b([Aa])n? $", before):
        before = before[: article.start()] + article[1] + ("n " if new[0] in "aeiou" else " ")
    return before + (_upper(new) if match[1][0].isupper() else new) + text[match.end(1) :]


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower(text: str) -> str:
    """Return the text with a small first letter where its first word is no name."""
    return text[:1].lower() + text[1:] if text.split()[0].casefold() in NO_NAMES else text


SWAPS: dict[str, Callable[[Sequence[str], SwapContext], Iterator[FactEdit]]] = {
    "colour": _colour,
    "number": _number,
    "actor": _actor,
    "direction": _direction,
    "order": _order,
    "negation": _negation,
}
