"""One prompt to every scorer that a recipe will ever use, before anything is made or paid for: a
server that is away, or gives no label probabilities, is met now and not after training.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

from dpo_video.core.errors import UserError
from dpo_video.judge.backends.registry import check_labels, open_judge
from dpo_video.judge.modes.jury import jurors
from dpo_video.judge.prompt import render
from dpo_video.judge.reply_keys import key_maker
from dpo_video.judge.scorer import Scorer, load_scorer
from dpo_video.judge.types import Reply
from dpo_video.judge.verdict import read_reply
from dpo_video.recipe import JudgeSettings, Recipe
from dpo_video.store import RowStore

KIND = "probe"
"""Rows of the store: the reply of a judge to the prompt of a scorer that was probed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeProbe:
    """A judge and a scorer that a run will use together."""

    where: str
    """The setting that names the scorer."""
    settings: JudgeSettings
    scorer: Scorer


def probes_of(recipe: Recipe) -> Iterator[JudgeProbe]:
    """Yield every judge with every scorer that a run of the recipe asks it by."""
    own = [recipe.judge.model_copy(update={"jury": None, "cascade": None})]
    judges = jurors(recipe.judge) or own
    if recipe.judge.cascade is not None:
        judges = [recipe.judge.first_judge(), *own]
    makes_pairs, evaluates = recipe.data.pairs is None, recipe.data.heldout is not None
    used: list[tuple[str, str | None, list[JudgeSettings]]] = []
    if makes_pairs or evaluates:
        used.append(("judge.scorer", recipe.judge.scorer, judges))
    if makes_pairs:
        used.append(("pair.tie_break", recipe.pair.tie_break, own))
    if evaluates:
        evaluate = recipe.evaluate
        used.append(("evaluate.hallucination_scorer", evaluate.hallucination_scorer, judges))
        used.append(("evaluate.pairwise_scorer", evaluate.pairwise_scorer, own))
    if evaluates or recipe.evaluate.sets:
        correctness = recipe.evaluate.correctness_scorer
        used.append(("evaluate.correctness_scorer", correctness, judges))
    for where, name, settings_of_judges in used:
        if name is None:
            continue
        scorer = load_scorer(name)
        for settings in settings_of_judges:
            yield JudgeProbe(where=where, settings=settings, scorer=scorer)


class ProbedJudges(NamedTuple):
    """What came of asking every judge one prompt by each of its scorers."""

    warnings: list[str]
    """A line for each that gives no score."""
    latencies: list[float]
    """Seconds of each reply of a server."""


def probe_judges(recipe: Recipe, store: RowStore | None = None) -> ProbedJudges:
    """Ask each judge one prompt by each of its scorers.

    Of a local judge only the tokens of its labels are looked at, and nothing is asked where the
    workers of a cluster ask. With a `store` no prompt is asked that was answered before.

    Raises UserError where a judge cannot be asked, or not by that scorer.
    """
    warnings, latencies = [], []
    for probe in probes_of(recipe):
        settings, scorer = probe.settings, probe.scorer
        if settings.engine == "ray":
            continue
        try:
            if settings.backend == "local":
                check_labels(settings, scorer)
                continue
            reply = _ask(settings, scorer, store)
        except UserError as error:
            raise UserError(f"{probe.where} {scorer.name!r}: {error}") from error
        if reply.status == "failed":
            raise UserError(
                f"{probe.where} {scorer.name!r}: judge {settings.model!r} does not answer: "
                f"{reply.reason}"
            )
        latencies.append(reply.seconds)
        reason = reply.reason
        if reply.status == "answered":
            verdict, _ = read_reply(settings, scorer, reply)
            reason = verdict.reason if verdict.score is None else ""
        if reason:
            warnings.append(
                f"{probe.where} {scorer.name!r}: judge {settings.model!r} gave the first prompt no "
                f"score: {reason}"
            )
    return ProbedJudges(warnings, latencies)


def _ask(settings: JudgeSettings, scorer: Scorer, store: RowStore | None) -> Reply:
    """Return the judge's reply to the scorer's prompt about a made-up clip."""
    prompt = render(
        scorer,
        caption="A red ball lies on green grass. A dog picks it up.",
        question="What does the dog pick up?",
        answer="A red ball.",
        other="A blue car.",
        reference="A red ball.",
    )
    with open_judge(settings) as judge:
        key = key_maker(settings, scorer, judge)(prompt)
        row = None if store is None else store.get(KIND, [key]).get(key)
        if row is not None:
            return Reply(**row)
        replies: dict[int, Reply] = {}
        judge.ask(scorer, [prompt], replies.__setitem__)
        reply = replies[0]
    if store is not None and reply.status != "failed":
        store.put(KIND, key, asdict(reply))
        store.flush()
    return reply
