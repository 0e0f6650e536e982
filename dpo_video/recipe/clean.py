"""Section `clean`."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from dpo_video.recipe.affects import Affects
from dpo_video.recipe.section import Section


class CleanSettings(Section):
    """What is left out before it costs anything: training samples before generation, answers before
    judging.

    Every filter is off unless set, but for answers that say the same. Held-out samples are never
    cleaned, so that numbers stay comparable; only a control token of the policy leaves one out, as
    it does everywhere. What is left out is counted and stands in RUN/cleaned.jsonl with its reason.
    """

    caption_min_words: Annotated[NonNegativeInt, Affects.SAMPLES] = 0
    """Drop samples with shorter captions: they are no evidence to judge by."""
    caption_max_words: Annotated[PositiveInt | None, Affects.SAMPLES] = None
    """Drop samples with longer captions."""
    languages: Annotated[list[str], Affects.SAMPLES] = Field(default_factory=list)
    """Languages of captions that stay, as ISO 639-1 codes (`en`, `zh`); empty keeps all. Captions
    of fewer than 20 characters stay: too short to tell."""
    drop_refusals: Annotated[bool, Affects.SAMPLES | Affects.SCORES] = False
    """Drop captions and answers that say, in English, that the video cannot be seen; "I see no dog"
    is an answer.
    """
    sample_similarity: Annotated[float | None, Affects.SAMPLES] = Field(default=None, gt=0, le=1)
    """Drop a sample when question and caption are both at least this similar to an earlier one's:
    the share of their 5-character pieces that both have, case and punctuation aside. 1 drops equal
    ones only.
    """
    heldout_similarity: Annotated[float | None, Affects.SAMPLES] = Field(default=None, gt=0, le=1)
    """Drop a sample that is this similar to a held-out one: the same clip under another name. The
    question alone does not tell, as data sets ask the same question about many clips."""
    max_per_source: Annotated[PositiveInt | None, Affects.SAMPLES] = None
    """Samples that stay of one source, the first ones; the source is the folder that the video lies
    in.
    """
    min_seconds: Annotated[PositiveFloat | None, Affects.SAMPLES] = None
    """Drop shorter clips."""
    max_seconds: Annotated[PositiveFloat | None, Affects.SAMPLES] = None
    """Drop longer clips."""
    min_side: Annotated[PositiveInt | None, Affects.SAMPLES] = None
    """Drop clips whose shorter side has fewer pixels."""
    max_aspect: Annotated[float | None, Affects.SAMPLES] = Field(default=None, ge=1)
    """Drop clips whose longer side is more than this many times the shorter one."""
    min_brightness: Annotated[PositiveFloat | None, Affects.SAMPLES] = None
    """Drop clips none of whose frames looked at is as bright on average, 0 to 255; 16 drops black
    ones.
    """
    min_motion: Annotated[PositiveFloat | None, Affects.SAMPLES] = None
    """Drop clips none of whose frames looked at differs as much, on average over its pixels, from
    the one before, 0 to 255; 1 drops stills."""
    frames: Annotated[PositiveInt, Affects.PIXELS] = 8
    """Frames looked at for `min_brightness` and `min_motion`, spread over the clip."""
    same_answer: Annotated[float, Affects.SCORES] = Field(default=1.0, gt=0, le=1)
    """Answers to a question at least this similar (as under `sample_similarity`) are judged once
    and never paired with each other; 1 joins those equal up to case, punctuation and spaces."""
    drop_cut_answers: Annotated[bool, Affects.SCORES] = False
    """Keep answers that were cut at `generate.max_new_tokens` from the judge; judged, they can only
    be rejected.
    """
    answer_min_length: Annotated[NonNegativeInt, Affects.SCORES] = 0
    """Keep answers with fewer characters from the judge."""
    answer_max_length: Annotated[PositiveInt | None, Affects.SCORES] = None
    """Keep answers with more characters from the judge."""
    max_repetition: Annotated[float | None, Affects.SCORES] = Field(default=None, gt=0, lt=1)
    """Keep answers from the judge of whose runs of 4 words a larger share repeats an earlier one:
    the answer loops.
    """
