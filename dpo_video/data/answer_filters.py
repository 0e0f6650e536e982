"""What is not worth a judge's call: answers that say what another one says, and answers that
cleaning leaves out.

Pure: the candidates of one question in, what is to be done about each out.
"""

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from dpo_video.core.control_tokens import NO_TOKENS, ControlTokens
from dpo_video.core.records import Candidate
from dpo_video.core.text import normalised_text, shingles, similarity
from dpo_video.recipe import CleanSettings

RUN_WORDS = 4
"""Words of a run whose return counts as repetition."""
SPELLED_OUT = {
    "\u2019": "'",
    "can't": "cannot",
    "can not": "cannot",
    "couldn't": "could not",
    "don't": "do not",
    "i'm": "i am",
    "wasn't": "was not",
}
GIVEN = r"(?:provided|attached|uploaded|shared|given|sent)"
MEDIUM = rf"""
    (?:(?:the|this|that|these|those|any|your)\ (?:(?:actual|{GIVEN})\ )?)?
    (?:video|clip|image|frame|footage)s?
    (?:\ (?:contents?|clips?|files?|links?|frames?|footage))?
    (?=\W*$|[.,;:!?)]
        |\ (?:(?:that\ )?you|(?:that\ was\ )?{GIVEN}|itself|directly
          |and|or|but|so|because|since|as|here)\b)"""
"""The clip itself: "the video", not "the video game" nor "any image on the wall", which a question
may be about.
"""
REFUSAL = re.compile(
    rf"""\W*
        (?:(?:unfortunately|however|i\ apologi[sz]e|(?:i\ am\ )?(?:so\ |very\ )?sorry)
           ,?\ (?:but\ )?)?
        (?:
        i\ (?:cannot|could\ not|am\ (?:unable|not\ able)\ to)\ (?:
            (?:\w+\ ){{0,3}}(?:
                (?:see|view|watch|access|analy[sz]e|process|open|describe)\ {MEDIUM}
                | (?:view|watch|access|analy[sz]e|process|open)\ (?:
                  (?:it|them|this|that|external\ \w+)(?=\W*$|[.,;!?]))
                | (?:see|view|watch|assist|help)(?=\W*$|[.,;!?])
                | (?:assist|help)\ (?:you|with)\b
                | (?:answer|process|fulfill?)\ (?:your|this|that|the)\ request\b)
            | [^.!?]*?\bwithout\ (?:seeing|viewing|watching|(?:having\ )?access\ to)\ {MEDIUM})
        | i\ do\ not\ have\ (?:the\ )?(?:ability|access|capability)\b
        | (?:as\ |i\ am\ )an?\ (?:ai|artificial|(?:large\ )?language\ model)\b
        | (?:there\ (?:is|was)\ )?no\ (?:video|frames?|images?|clip)\ (?:
              (?:was|were|is|are|has\ been|have\ been)\ )?
            (?:provided|given|attached|available)\b
        | the\ (?:video|clip|image|frame)s?\ (?:
            (?:is|was|are|were)\ (?:unavailable|inaccessible|not\ (?:provided|accessible))
            | (?:could\ not|cannot)\ be\ (?:accessed|loaded|opened|played))\b)""",
    re.VERBOSE,
)
"""How a model begins that will not or cannot answer; further on ("the man cannot see the car") it
is no refusal.

Nor is it one to see no dog, or not to tell a colour: questions about what is not there are answered
so.
"""

SHOWN = r"(?:captions?|descriptions?|(?:reference|gold|ground[ -]truth|given|provided)\ answers?)"
"""What a sampler may be shown beside the clip, as an answer would name it."""
CITED = re.compile(
    rf"""
    \b(?:according\ to|based\ (?:up)?on|going\ by|judging\ (?:by|from)|as\ per|per
        |(?:as\ )?(?:described|stated|mentioned|noted|written|given|shown|indicated|specified
          |provided|said|reported|detailed|explained|outlined)\ (?:in|by)
        |(?:matches|matching|follows|following|from|in|with))
      \ (?:(?:the|this|that|your|its|an?)\ )?(?:[\w'-]+\ ){{0,2}}?{SHOWN}\b
    | \b(?:the|this|that|your)\ (?:[\w'-]+\ ){{0,2}}?{SHOWN}\ (?:also\ |only\ |clearly\ )?
      (?:says?|states?|tells?|describes?|mentions?|notes?|indicates?|specif(?:ies|y)|reports?
        |explains?|confirms?|suggests?|gives?|does\ not|do\ not|doesn't|is\ (?:clear|about))\b
    | \b(?:provided|given|supplied|above|reference)\ (?:[\w'-]+\ )?{SHOWN}\b
    | \b(?:reference|gold|ground[ -]truth)\ answers?\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""How an answer cites what its sampler was shown; a caption on the screen ("a caption reads 'Day
1'") is no source.
"""


def filter_answers(
    question: Sequence[Candidate], settings: CleanSettings, tokens: ControlTokens
) -> tuple[dict[str, str], dict[str, str]]:
    """Return by id which candidate's judgment one takes, and why cleaning leaves one out (`reason:
    detail`).

    Most are in neither. Of answers that say the same one that was not truncated is judged, else the
    first.
    """
    dropped: dict[str, str] = {}
    for candidate in question:
        reason = (
            why_dropped(candidate, settings)
            or _citation(candidate)
            or _control_token(candidate, tokens)
        )
        if reason is not None:
            dropped[candidate.id] = reason
    judged = (
        [candidate for candidate in question if candidate.id not in dropped]
        if dropped
        else question
    )
    return same_answers(judged, min_similarity=settings.same_answer), dropped


def same_answers(candidates: Sequence[Candidate], *, min_similarity: float) -> dict[str, str]:
    """Return for each answer to a question that says what another does that one's id, by candidate
    id.

    An answer joins the first kept one that it is equal to (case, punctuation and spaces aside) or
    `min_similarity` similar to.
    """
    id_by_text: dict[str, str] = {}
    id_by_shingles: list[tuple[frozenset[str], str]] = []
    judged_as: dict[str, str] = {}
    for candidate in sorted(candidates, key=lambda candidate: candidate.finish == "length"):
        text = normalised_text(candidate.text)
        if not text:
            continue  # an empty answer is judged as one, or refused by the stage that pairs
        twin = id_by_text.get(text)
        if twin is None and min_similarity < 1:
            pieces = shingles(text)
            twin = _nearest(pieces, id_by_shingles, min_similarity)
            if twin is None:
                id_by_shingles.append((pieces, candidate.id))
        if twin is None:
            id_by_text[text] = candidate.id
        else:
            judged_as[candidate.id] = twin
    return judged_as


def _nearest(
    pieces: frozenset[str],
    id_by_shingles: Sequence[tuple[frozenset[str], str]],
    min_similarity: float,
) -> str | None:
    """Return the id of the first answer whose pieces are similar enough, or None."""
    for answer_pieces, candidate_id in id_by_shingles:
        if similarity(pieces, answer_pieces) >= min_similarity:
            return candidate_id
    return None


def why_dropped(candidate: Candidate, settings: CleanSettings) -> str | None:
    """Return why cleaning keeps an answer from the judge, or None."""
    text = candidate.text.strip()
    if settings.drop_cut_answers and candidate.finish == "length":
        return "cut"
    if len(text) < settings.answer_min_length:
        return f"too short: {len(text)} characters"
    if settings.answer_max_length is not None and len(text) > settings.answer_max_length:
        return f"too long: {len(text)} characters"
    if settings.drop_refusals and is_refusal(text):
        return f"refusal: {text[:80]}"
    if settings.max_repetition is not None and repetition(text) > settings.max_repetition:
        return f"repetition: {repetition(text):.2f} of its runs of {RUN_WORDS} words"
    return None


def _citation(candidate: Candidate) -> str | None:
    """Return why the answer of a sampler that was shown the caption or the gold answer cannot be
    trained on: it cites what the policy will not have.
    """
    match = CITED.search(candidate.text) if candidate.privileged else None
    return None if match is None else f"cites its source: {' '.join(match[0].split())}"


def _control_token(candidate: Candidate, tokens: ControlTokens) -> str | None:
    """Return why an answer cannot be trained on that holds a control token of the policy; an end
    token that closes it is none of its words.
    """
    token = tokens.first_in(tokens.without_end(candidate.text))
    return None if token is None else f"control token: {token}"


def is_refusal(text: str) -> bool:
    """Return whether a text begins as a model does that will not or cannot answer, in English."""
    plain = " ".join(text[:300].lower().split())
    for short, full in SPELLED_OUT.items():
        plain = plain.replace(short, full)
    return REFUSAL.match(plain) is not None


def repetition(text: str) -> float:
    """Return the share of the text's runs of 4 words that repeat an earlier one; 0 for fewer than 5
    words.
    """
    words = normalised_text(text).split()
    runs = [tuple(words[begin : begin + RUN_WORDS]) for begin in range(len(words) - RUN_WORDS + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPlan:
    """What is done about each candidate of a file, by its number; 4 bytes each."""

    judged_as: "array[int]" = field(default_factory=lambda: array("i"))
    """Number of the candidate whose judgment each one shares; its own where it is judged."""
    dropped: dict[int, str] = field(default_factory=dict)
    """Why cleaning leaves a candidate out."""

    def add(
        self,
        question: Sequence[Candidate],
        settings: CleanSettings,
        tokens: ControlTokens = NO_TOKENS,
    ) -> None:
        """Screen the next candidates of the file: all those of one question that stand side by
        side.
        """
        begin = len(self.judged_as)
        self.judged_as.extend(range(begin, begin + len(question)))
        judged_as, dropped = filter_answers(question, settings, tokens)
        if judged_as or dropped:
            number_of = {
                candidate.id: number for number, candidate in enumerate(question, start=begin)
            }
            for candidate_id, judged_id in judged_as.items():
                self.judged_as[number_of[candidate_id]] = number_of[judged_id]
            for candidate_id, reason in dropped.items():
                self.dropped[number_of[candidate_id]] = reason

    @property
    def num_shared(self) -> int:
        """Candidates that share another one's judgment."""
        return sum(number != judged for number, judged in enumerate(self.judged_as))

    @property
    def num_judged(self) -> int:
        """Candidates that the judge is asked about."""
        return len(self.judged_as) - self.num_shared - len(self.dropped)

    def is_judged(self, number: int) -> bool:
        """Return whether the judge is asked about a candidate."""
        return self.judged_as[number] == number and number not in self.dropped
