"""Score published predictions by our rules: `python scripts/check_benchmarks.py FOLDER`.

FOLDER holds what the authors publish: `eventhallusion/*_questions.json` and `*_predictions.json`,
`tempcompass/questions/TASK.json`, `predictions/TASK.json` and their ratings in
`auto_eval_results/TASK.json`, `videohallucer/SET.json`. Prints the accuracies by the published and
by the strict rules; exit code 1 where a published rating that a rule decided is not ours.
"""

import json
import sys
from pathlib import Path

from dpo_video.benchmarks.questions import BenchmarkQuestion, GradedQuestion
from dpo_video.benchmarks.sets import SETS, TASK_KINDS, Answers, grade
from dpo_video.benchmarks.strict import read_strictly


def line(name: str, graded: list[GradedQuestion]) -> str:
    """Return one row of the table."""
    right = sum(row.reading.correct for row in graded)
    unparsed = sum(row.reading.parsed is None for row in graded)
    share = 100 * right / len(graded)
    return f"{name:44} {share:6.2f} %  {right:5} of {len(graded):5}, unparsed {unparsed}"


def show(
    name: str, key: str, questions: list[BenchmarkQuestion], answers: Answers
) -> list[GradedQuestion]:
    """Print a set by both rules; return it by the published one."""
    graded = grade(questions, answers, SETS[key].rule, where=name)
    print(line(name, graded))
    print(line(f"{name}, strict", grade(questions, answers, read_strictly, where=name)))
    return graded


def other_ratings(graded: list[GradedQuestion], path: Path) -> list[str]:
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
        questions = SETS["videohallucer"].read_questions(path)
        print(f"{'VideoHallucer ' + path.stem:44} {len(questions) // 2} pairs")
    for path in sorted((folder / "eventhallusion").glob("*_predictions.json")):
        questions = []
        for split in ("entire", "interleave", "misleading"):
            file = path.with_name(f"{split}_questions.json")
            questions += SETS["eventhallusion"].read_questions(file)
        answers = SETS["eventhallusion"].read_answers(path, questions)
        show(f"EventHallusion, {path.stem}", "eventhallusion", questions, answers)
    different = 0
    for task in TASK_KINDS:
        key = f"tempcompass_{task.replace('-', '_')}"
        root = folder / "tempcompass"
        questions = SETS[key].read_questions(root / "questions" / f"{task}.json")
        answers = SETS[key].read_answers(root / "predictions" / f"{task}.json", questions)
        graded = show(f"TempCompass {task}", key, questions, answers)
        ids = other_ratings(graded, root / "auto_eval_results" / f"{task}.json")
        different += len(ids)
        print(f"    published ratings that are not ours: {len(ids)} {ids[:3] or ''}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
