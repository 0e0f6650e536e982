"""Score published predictions by our rules: `python scripts/check_benchmarks.py FOLDER`.

FOLDER holds what the authors publish: `eventhallusion/*_questions.json` and `*_predictions.json`,
`tempcompass/questions/TASK.json`, `predictions/TASK.json` and their ratings in
`auto_eval_results/TASK.json`, `videohallucer/SET.json`. Prints the accuracies by the published and
by the strict rule, as `dpo-video import` and `dpo-video score` come to them; exit code 1 where a
published rating that a rule decided is not ours.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from dpo_video.benchmarks.answer_files import read_answer_files, read_rating_files
from dpo_video.benchmarks.readings import GradedQuestion
from dpo_video.benchmarks.score import grade_answers, score_answers
from dpo_video.benchmarks.sets import read_benchmark
from dpo_video.core.records import Sample

TASKS = ("multi-choice", "yes_no", "caption_matching")


def show(name: str, questions: Sequence[Sample], predictions: Path) -> list[GradedQuestion]:
    """Print what the predictions come to by both rules; return them by the published one."""
    answers = read_answer_files([predictions], questions)
    ratings = read_rating_files([predictions], questions)
    report = score_answers(questions, answers, parser="published", ratings=ratings)
    for rule, score in report.rules.items():
        share = score.metrics.accuracy.value or 0.0
        right = round(share * score.n)
        print(
            f"{f'{name}, {rule}':56} {100 * share:6.2f} %  {right:5} of {score.n:5}, "
            f"unparsed {score.unparsed}"
        )
    return grade_answers(questions, answers, "published")


def other_ratings(graded: Sequence[GradedQuestion], path: Path) -> list[str]:
    """Return the ids of questions whose published rating, where a rule decided it, is not ours."""
    ratings = {}
    for video, aspects in json.loads(path.read_text(encoding="utf-8")).items():
        for aspect, rows in aspects.items():
            for number, row in enumerate(rows):
                rating = bool(row["rating"]) if row["match_success"] else None
                ratings[f"{video}-{aspect}-{number}"] = rating
    return [
        row.question.id
        for row in graded
        if ratings[row.question.id] != (row.reading.correct if row.reading.parsed else None)
    ]


def main(folder: Path) -> int:
    """Print the table; return the exit code."""
    for path in sorted((folder / "videohallucer").glob("*.json")):
        questions = list(read_benchmark("videohallucer", path, None))
        print(f"{'VideoHallucer ' + path.stem:56} {len(questions) // 2} pairs")
    events = folder / "eventhallusion"
    for path in sorted(events.glob("*_predictions.json")):
        questions = list(read_benchmark("eventhallusion", events, None))
        show(f"EventHallusion, {path.stem}", questions, path)
    different = 0
    root = folder / "tempcompass"
    for task in TASKS:
        name = f"tempcompass_{task.replace('-', '_')}"
        questions = list(read_benchmark(name, root / "questions" / f"{task}.json", None))
        graded = show(f"TempCompass {task}", questions, root / "predictions" / f"{task}.json")
        ratings = root / "auto_eval_results" / f"{task}.json"
        if read_rating_files([ratings], questions):
            show(f"TempCompass {task}, with their judge", questions, ratings)
        ids = other_ratings(graded, ratings)
        different += len(ids)
        print(f"    published ratings that are not ours: {len(ids)} {ids[:3] or ''}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
