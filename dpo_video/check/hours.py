"""Hours of a run by stage: from a short measured sample, else from what a GPU's maker states."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from dpo_video.check.devices import LAYER_SECONDS, READ_SHARE, WRITE_SHARE, Gpu
from dpo_video.check.plan import Calls, StageTime
from dpo_video.check.work import (
    ModelSize,
    Work,
    encoding,
    reading,
    referring,
    training,
    writing,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkLoad:
    """Counts that the operations of the policy's stages follow from; tokens are means."""

    questions: int
    """Asked when candidates are written; 0 where they are given, or a server writes them."""
    clips: int
    """They are about."""
    candidates: int
    """Answers to each of them."""
    pairs: int
    """Trained on."""
    passes: float
    """How often training sees each of them."""
    evaluated: int
    """Questions that both models answer."""
    evaluated_clips: int
    drawn: int
    """Answers drawn for held-out pairs."""
    patches: float
    video_tokens: float
    question_tokens: float
    answer_tokens: float
    """Of a candidate."""
    evaluated_tokens: float
    """Of an answer in the evaluation."""
    pair_tokens: tuple[float, float]
    """Of a chosen and of a rejected answer."""
    at_once: int
    """Answers written together."""
    shared: bool
    """Whether answers about a clip share its keys and values."""
    computes_again: bool
    """Whether the backward pass computes the forward again."""
    trains_tower: bool
    keeps_features: bool
    """Whether a clip is encoded once for all stages."""

    @property
    def prompt_tokens(self) -> float:
        """Tokens of a clip and a question about it."""
        return self.video_tokens + self.question_tokens


def answer_work(
    model: ModelSize, load: WorkLoad, *, questions: int, clips: int, each: int, tokens: float
) -> Work:
    """Return the reading of clips and questions, and the writing of `each` answers of `tokens`
    tokens to every question.
    """
    answers = questions * each
    if not answers:
        return Work()
    work = encoding(model, load.patches) * clips
    if load.shared:
        per_clip = reading(model, load.video_tokens) * clips
        question = reading(model, load.question_tokens, before=load.video_tokens)
        work += per_clip + question * questions
    else:
        work += reading(model, load.prompt_tokens) * answers
    return work + writing(
        model,
        answers=answers,
        tokens=tokens,
        prompt=load.prompt_tokens,
        at_once=load.at_once,
        sharing=answers / clips if load.shared else 1,
    )


def generate_work(model: ModelSize, load: WorkLoad) -> Work:
    """Return what stage generate does."""
    return answer_work(
        model,
        load,
        questions=load.questions,
        clips=load.clips,
        each=load.candidates,
        tokens=load.answer_tokens,
    )


def evaluate_work(model: ModelSize, load: WorkLoad) -> Work:
    """Return the answers of both models, and those drawn for held-out pairs; judging aside. The
    first of these encodes the clips for all, where their features are kept.
    """
    later = replace(load, patches=0) if load.keeps_features else load
    answers, again = (
        answer_work(
            model,
            asked,
            questions=load.evaluated,
            clips=load.evaluated_clips,
            each=1,
            tokens=load.evaluated_tokens,
        )
        for asked in (load, later)
    )
    drawn = answer_work(
        model,
        later,
        questions=load.drawn,
        clips=min(load.drawn, load.evaluated_clips),
        each=1,
        tokens=load.evaluated_tokens,
    )
    return answers + again + drawn


def train_work(model: ModelSize, load: WorkLoad, *, with_reference: bool = True) -> Work:
    """Return the steps over all pairs and, once, the reference's forwards; each pass encodes the
    clips, unless their features are kept.
    """
    prompt, answers, shared = load.prompt_tokens, load.pair_tokens, load.shared
    step = training(model, prompt=prompt, answers=answers, shared=shared, again=load.computes_again)
    clips = min(load.clips, load.pairs)
    encoded = clips * (1 + load.passes)
    if load.keeps_features:  # by the stage that wrote answers here, or for the reference
        encoded = 0 if load.questions else clips
    if load.trains_tower:
        encoded = load.pairs * (1 + (3 if load.computes_again else 2) * load.passes)
    work = step * (load.pairs * load.passes) + encoding(model, load.patches) * encoded
    if not with_reference:
        return work
    return work + referring(model, prompt=prompt, answers=answers, shared=shared) * load.pairs


def judge_work(model: ModelSize, calls: Calls, *, at_once: int) -> Work:
    """Return what a local judge does: every prompt read for itself, every reply written."""
    if not calls.calls:
        return Work()
    prompt, reply = calls.tokens_in / calls.calls, calls.tokens_out / calls.calls
    work = reading(model, prompt, scored=1) * calls.calls
    if reply <= 1:  # the probabilities of labels: nothing is written
        return work
    return work + writing(
        model, answers=calls.calls, tokens=reply, prompt=prompt, at_once=at_once, sharing=1
    )


class TimedWork(NamedTuple):
    """What a measured sample did, and how long it took."""

    seconds: float
    work: Work
    what: str
    """In words."""

    def scaled(self, work: Work) -> float:
        """Return the seconds of other work of the same kind."""
        return self.seconds * work.operations / self.work.operations


def measured(stage: str, sample: TimedWork, work: Work, *, device: str) -> StageTime:
    """Return a stage's time by a measured sample."""
    return StageTime(
        stage=stage,
        seconds=sample.scaled(work),
        device=device,
        basis="measured",
        note=sample.what,
    )


def estimated(stage: str, work: Work, gpu: Gpu) -> StageTime:
    """Return a stage's time by what a GPU's maker states."""
    return StageTime(
        stage=stage, seconds=gpu.seconds(work), device=f"one {gpu.title}", basis="estimate"
    )


def unknown(stage: str, why: str) -> StageTime:
    """Return a stage whose time cannot be told, with the reason."""
    return StageTime(stage=stage, seconds=None, device="", basis="unknown", note=why)


def served(stage: str, calls: Calls, *, latencies: Sequence[float], in_flight: int) -> StageTime:
    """Return the time of calls to a server that answered one prompt of each scorer in these
    seconds.
    """
    latency = sum(latencies) / len(latencies)
    return StageTime(
        stage=stage,
        seconds=calls.calls * latency / in_flight,
        device="the judge's server",
        basis="measured",
        note=f"a first prompt took {latency:.2g} s; if {in_flight:,} at a time are as fast",
    )


def basis_of_estimates(gpu: Gpu, *, is_here: bool) -> str:
    """Return what estimates take for granted, in words."""
    here = "" if is_here else ", which is not here (--gpu names another)"
    return (
        f"estimated times are those of one {gpu.title}{here}, at {READ_SHARE:.0%} of its stated "
        f"{gpu.tflops:,g} TFLOPS (dense bfloat16) when reading and training, and {WRITE_SHARE:.0%} "
        f"of its {gpu.terabytes:g} TB/s, but no less than {LAYER_SECONDS * 1000:g} ms a layer and "
        "token, when writing; answers as long as they may be. They may be off by a factor of two; "
        "loading, decoding of clips and checkpoints come on top"
    )
