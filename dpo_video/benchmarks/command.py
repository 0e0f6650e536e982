"""`dpo-video score SAMPLES ANSWERS`: answers that were made elsewhere, by rules or by a judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from dpo_video.benchmarks.answer_files import (
    check_none_missing,
    read_answer_files,
    read_questions,
    read_rating_files,
)
from dpo_video.benchmarks.judged_score import judge_answers, judge_settings
from dpo_video.benchmarks.score import PARSERS, ParserName, score_answers
from dpo_video.benchmarks.score_table import print_judged, print_score
from dpo_video.core import strict_json
from dpo_video.core.names import choose
from dpo_video.core.progress import print_line
from dpo_video.core.report import json_form
from dpo_video.store import RunStore


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOptions:
    """How answers are scored, and how that is shown."""

    parser: str = "strict"
    """The rule whose numbers come first."""
    as_json: bool = False
    refuse_missing: bool = False
    """Whether a question without an answer is an error."""
    judge: str = ""
    """Who rates answers in words, see `judge_settings`; empty for rules."""
    replies: Path | None = None
    """Folder of the judge's replies; beside the first file of answers when None."""


def score_command(samples: Path, answer_files: Sequence[Path], options: ScoreOptions) -> None:
    """Score answers to a file of samples and print what they come to."""
    choose(PARSERS, options.parser, "parser")
    questions = read_questions(samples)
    answers = read_answer_files(answer_files, questions)
    if options.refuse_missing:
        check_none_missing(questions, answers)
    if options.judge:
        settings = judge_settings(options.judge)
        first_file = answer_files[0]
        folder = options.replies or first_file.with_name(f"{first_file.name}.replies")
        with RunStore(folder) as store:
            judged = judge_answers(questions, answers, settings=settings, store=store)
        show, report = partial(print_judged, judged), json_form(judged)
    else:
        ratings = read_rating_files(answer_files, questions)
        rule = cast(ParserName, options.parser)
        scored = score_answers(questions, answers, parser=rule, ratings=ratings)
        show, report = partial(print_score, scored), json_form(scored)
    if options.as_json:
        print_line(strict_json.dumps(report, indent=2))
    else:
        show()
