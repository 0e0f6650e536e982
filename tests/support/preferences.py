"""Samples with candidates and judgments, written down as texts and scores."""

from collections.abc import Mapping, Sequence

from dpo_video.core.records import Candidate, Judgment, Sample
from dpo_video.pair.build import Paired, build_pairs
from dpo_video.recipe import PairSettings

Row = tuple[str, float | None] | tuple[str, float | None, str]
"""An answer's text, its score (None: unscored) and how it finished."""


def sample(name: str = "q") -> Sample:
    return Sample(
        id=name,
        video=f"{name}.mp4",
        prompt=f"What of {name}?",
        caption="A dog runs.",
        start=1.0,
        end=4.5,
    )


def records(
    questions: Mapping[str, Sequence[Row]],
) -> tuple[list[Sample], list[Candidate], list[Judgment]]:
    candidates, judgments = [], []
    for name, rows in questions.items():
        for number, (text, score, *finish) in enumerate(rows):
            candidates.append(
                Candidate(
                    id=f"{name}#{number}",
                    sample_id=name,
                    text=text,
                    model="m",
                    settings="s",
                    seed=number,
                    finish=finish[0] if finish else "stop",
                )
            )
            judgments.append(
                Judgment(
                    candidate_id=f"{name}#{number}",
                    scorer="caption_score@1",
                    judge="j",
                    score=score,
                    reply="r",
                    status="unscored" if score is None else "scored",
                    reason="no verdict line" if score is None else "ok",
                )
            )
    return [sample(name) for name in questions], candidates, judgments


BEST_WORST = PairSettings(rule="best_worst", min_margin=0.5)


def build(
    questions: dict[str, Sequence[Row]],
    rule: PairSettings,
    *,
    threshold: float = 3.0,
    seed: int = 0,
) -> Paired:
    return build_pairs(*records(questions), settings=rule, threshold=threshold, seed=seed)
