"""A run folder with pairs, clips and texts that try to be markup: what the tests of pages start
from.
"""

import json
from pathlib import Path

from clips import draw_frame, write_clip

from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Candidate, EarlierTurn, Judgment, Sample
from dpo_video.evaluate.answer_rows import EvaluatedAnswer, write_answers
from dpo_video.pipeline import do_stages
from dpo_video.recipe import Recipe
from dpo_video.run import open_run

NUM_QUESTIONS = 12
HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"
"""Stands in captions, answers and questions."""
HISTORY = (
    EarlierTurn(question="Who is there?", answer="A dog."),
    EarlierTurn(question=f"Where? {HOSTILE}", answer=f"On the grass. {HOSTILE}"),
)
"""Turns before the questions 0 and 3."""
SOUNDING_CLIP = "clip0.mp4"
"""Has sound; the others have none."""
BROKEN_CLIP = "clip5.mp4"
"""Is no video."""


def make_shown_run(folder: Path, *, num_questions: int = NUM_QUESTIONS) -> Path:
    """Return a run folder whose pairs are made: two questions a clip, the judge surest of the last
    ones.
    """
    samples, candidates, judgments = [], [], []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range((num_questions + 1) // 2):
        path = folder / f"clip{number}.mp4"
        if path.name == BROKEN_CLIP:
            path.write_text("no video")
        else:
            pixels = (draw_frame(number * 60 + step) for step in range(24))
            write_clip(path, 24, rate=12, pixels=pixels, sound=2.0 * (path.name == SOUNDING_CLIP))
    for number in range(num_questions):
        sample = Sample(
            id=f"s{number}",
            video=f"clip{number // 2}.mp4",
            prompt=f"What happens in clip {number}? {HOSTILE if number == 3 else ''}",
            history=HISTORY if number in (0, 3) else None,
            caption=f"A dog runs over the grass {number}. {HOSTILE}",
            answer="A dog runs.",
            category=("action", "objects")[number % 2],
        )
        samples.append(sample)
        sureness = 0.55 + 0.4 * number / num_questions
        for index, (text, chance) in enumerate(
            (("A dog runs over the grass.", sureness), (f"A cat sleeps. {HOSTILE}", 1 - sureness))
        ):
            name = f"{sample.id}#{index}"
            candidates.append(
                Candidate(
                    id=name, sample_id=sample.id, text=text, model="m", settings="h", seed=index
                )
            )
            judgments.append(
                Judgment(
                    candidate_id=name,
                    scorer="caption_score@1",
                    judge="j",
                    score=1 + 4 * chance,
                    status="scored",
                    reason=f"because {HOSTILE}",
                    reply="",
                    distribution={"1": 1 - chance, "5": chance},
                )
            )
    write_jsonl(folder / "samples.jsonl", samples)
    recipe = Recipe.model_validate(
        {
            "name": "shown",
            "runs_folder": str(folder),
            "model": {"name": "m"},
            "tracking": {"to": "none"},
            "pair": {"min_margin": 0.3},
            "data": {"samples": str(folder / "samples.jsonl")},
            "judge": {"model": "j", "scorer": "caption_score"},
        }
    )
    with open_run(recipe) as run:
        write_jsonl(run.folder / "candidates.jsonl", candidates)
        write_jsonl(run.folder / "judgments.jsonl", judgments)
        do_stages(run, ["pair"])
    return folder / "shown"


def add_evaluation(run_folder: Path) -> None:
    """Write answers.jsonl with one regression, s1, and a training log whose chosen reward falls."""
    rows = []
    for number in range(4):
        for model in ("before", "after"):
            is_right = model == "before" or number != 1
            rows.append(
                EvaluatedAnswer(
                    set="heldout",
                    model=model,  # type: ignore[arg-type]
                    sample_id=f"h{number}",
                    clip=f"clip{number}.mp4",
                    prompt=f"Held-out question {number}?",
                    gold="A dog runs.",
                    text="A dog runs." if is_right else f"A cat. {HOSTILE}",
                    exact_match=is_right,
                    score=5.0 if is_right else 1.0,
                )
            )
    write_answers(run_folder / "answers.jsonl", rows)
    steps = [
        {
            "step": step,
            "loss": 0.7 - step / 100,
            "rewards/chosen": -step / 10,
            "rewards/rejected": -step / 5,
        }
        for step in range(5)
    ]
    (run_folder / "train_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
