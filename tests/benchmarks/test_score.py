"""Answers are scored by both rules, and the expected numbers are counted by hand from the published
rules.
"""

from pathlib import Path

import pytest
from benchmark_rows import (
    CANDIDATE_ROWS,
    CAPTIONS,
    CLIP_CHOICES,
    CLIP_PAIRS,
    EVENTS,
    PAIRS,
    TEXT_SCORE,
    VIDEO_ROWS,
    VIDEO_SCORE,
    YES_NO,
    questions_of,
    written,
)

from dpo_video.benchmarks.answer_files import read_answer_files, read_rating_files
from dpo_video.benchmarks.score import ScoreReport, score_answers
from dpo_video.benchmarks.score_table import print_score
from dpo_video.core.errors import UserError
from dpo_video.core.progress import open_terminal
from dpo_video.core.records import Sample


def answered(questions: list[Sample], texts: list[str]) -> dict[str, str]:
    return {question.id: text for question, text in zip(questions, texts, strict=True)}


def right(report: ScoreReport, rule: str) -> tuple[int, int, int]:
    """Questions right, those that count, and answers unparsed."""
    score = report.rules[rule]  # type: ignore[index]
    share = score.metrics.accuracy.value
    assert share is not None
    return round(share * score.n), score.n, score.unparsed


def test_videohallucer_counts_pairs_and_its_table_is_the_mean_over_sets(tmp_path: Path) -> None:
    """temporal: 1 of 2 pairs; interaction: 0 of 1. Mean 25 %, where 1 of 3 pairs is right."""
    written(tmp_path, "temporal.json", PAIRS)
    written(tmp_path, "interaction.json", PAIRS[:1])
    questions = questions_of("videohallucer", tmp_path)
    texts = ["Yes.", "No.", "yes", "no, yes", "Yes", "Yes"]
    report = score_answers(questions, answered(questions, texts), parser="published")
    score = report.rules["published"]
    assert list(report.rules) == ["published", "strict"]
    assert (score.headline.value, score.headline.n) == (0.5, 2)
    assert score.groups_by_set["temporal"].value == 1.0, "`no, yes` is a no by its rule"
    strict = report.rules["strict"]
    assert (strict.headline.value, strict.groups_by_set["temporal"].value) == (0.25, 0.5)
    assert strict.metrics.group_accuracy is not None
    assert strict.metrics.group_accuracy.value == pytest.approx(1 / 3)
    halves = {name: share.value for name, share in strict.breakdowns["half"].items()}
    assert halves == {"basic": 1.0, "hallucination": pytest.approx(1 / 3)}
    assert strict.metrics.bias is not None and strict.metrics.bias.yes_rate == pytest.approx(4 / 6)
    assert score.published_bias is not None and score.published_bias.false_positive_ratio == 1.0
    assert (report.different, report.different_examples[0].answer) == (1, "no, yes")


def test_eventhallusion_takes_not_sure_for_a_no(tmp_path: Path) -> None:
    questions = questions_of("eventhallusion", written(tmp_path, "entire_questions.json", EVENTS))
    answers = answered(questions, ["Not sure.", "It is."])
    report = score_answers(questions, answers, parser="strict")
    assert right(report, "published") == (1, 2, 1) and right(report, "strict") == (0, 2, 2)
    assert list(report.rules) == ["strict", "published"]


def test_vidhalluc_counts_a_question_where_all_its_clips_are_right(tmp_path: Path) -> None:
    questions = questions_of("vidhalluc_binary", written(tmp_path, "ach_binaryqa.json", CLIP_PAIRS))
    texts = ["Yes.", "No, he", "No", "**Yes**"]
    report = score_answers(questions, answered(questions, texts), parser="published")
    assert report.rules["published"].headline.value == 0.5, "the second has an unreadable answer"
    assert report.rules["strict"].headline.value == 1.0
    path = written(tmp_path, "ach_mcq.json", CLIP_CHOICES)
    questions = questions_of("vidhalluc_multi_choice", path)
    report = score_answers(questions, answered(questions, ["C, A", "AB"]), parser="published")
    assert right(report, "published") == (1, 2, 1) and right(report, "strict") == (1, 2, 0)


def test_mvbench_and_mlvu_are_means_over_tasks_and_say_the_pooled_one_too(tmp_path: Path) -> None:
    """action_count: 2 of 2; scene_transition: 0 of 1. Mean 50 %, pooled 2 of 3."""
    written(tmp_path, "action_count.json", CANDIDATE_ROWS)
    written(tmp_path, "scene_transition.json", CANDIDATE_ROWS[:1])
    questions = questions_of("mvbench", tmp_path)
    by_id = {question.id: question.answer or "" for question in questions}
    answers = {name: f"{gold})" for name, gold in by_id.items()} | {"scene_transition-0": "(C)"}
    report = score_answers(questions, answers, parser="published")
    score = report.rules["published"]
    assert (report.headline, score.headline.value) == ("mean of categories", 0.5)
    assert score.metrics.accuracy.value == pytest.approx(2 / 3)
    written(tmp_path / "mlvu", "4_count.json", CANDIDATE_ROWS)
    written(tmp_path / "mlvu", "2_needle.json", CANDIDATE_ROWS[:1])
    questions = questions_of("mlvu", tmp_path / "mlvu")
    answers = {question.id: f"{question.answer}) it is" for question in questions}
    answers["needle-0"] = "(B)"
    report = score_answers(questions, answers, parser="published")
    assert report.rules["published"].headline.value == 0.5
    assert right(report, "published") == (2, 3, 1)
    assert right(report, "strict") == (3, 3, 0), "(B) is a B"


def test_the_three_scores_of_vinoground(tmp_path: Path) -> None:
    """Pair 0: both texts right, one video wrong. Pair 1: all right. Text 2 of 2, video and group 1
    of 2.
    """
    written(tmp_path, "vinoground_textscore.json", TEXT_SCORE)
    written(tmp_path, "vinoground_videoscore.json", VIDEO_SCORE)
    questions = questions_of("vinoground", tmp_path)
    answers = {question.id: question.answer or "" for question in questions}
    answers["0_neg-video"] = "A"
    report = score_answers(questions, answers, parser="published")
    score = report.rules["published"]
    values = {name: share.value for name, share in score.metrics.groups_by_category.items()}
    assert values == {"text": 1.0, "video": 0.5} and score.headline.value == 0.5


def test_videomme_is_told_by_duration_domain_and_task(tmp_path: Path) -> None:
    questions = questions_of("videomme", written(tmp_path, "videomme.json", VIDEO_ROWS))
    report = score_answers(questions, answered(questions, ["C", "B"]), parser="published")
    score = report.rules["published"]
    assert {name: share.value for name, share in score.metrics.by_category.items()} == {
        "short": 1.0,
        "long": 0.0,
    }
    assert score.breakdowns["domain"]["Knowledge"].value == 0.5
    assert report.different == 0


def test_a_missing_answer_is_wrong_but_where_the_script_leaves_it_out(tmp_path: Path) -> None:
    """EventHallusion's script walks over the answers, Video-MME's over the questions; VidHalluc's
    leaves out a question of which no clip is answered, and counts one of which some are.
    """
    questions = questions_of("eventhallusion", written(tmp_path, "entire_questions.json", EVENTS))
    report = score_answers(questions, {questions[0].id: "No."}, parser="published")
    assert (report.answered, report.missing) == (1, 1)
    assert right(report, "published") == (1, 1, 0) and right(report, "strict") == (1, 2, 0)
    assert report.rules["published"].left_out == 1
    questions = questions_of("videomme", written(tmp_path, "videomme.json", VIDEO_ROWS))
    report = score_answers(questions, {"001-1": "C"}, parser="published")
    assert right(report, "published") == (1, 2, 0)
    questions = questions_of("vidhalluc_binary", written(tmp_path, "ach_binaryqa.json", CLIP_PAIRS))
    report = score_answers(questions, {questions[0].id: "Yes"}, parser="published")
    group_accuracy = report.rules["published"].metrics.group_accuracy
    assert group_accuracy is not None and (group_accuracy.value, group_accuracy.n) == (0.0, 1)


def test_questions_of_no_benchmark_have_the_strict_rule_alone() -> None:
    questions = [Sample(id="a", video="a.mp4", prompt="?", answer="yes", answer_kind="yes_no")]
    report = score_answers(questions, {"a": "Yes."}, parser="strict")
    assert list(report.rules) == ["strict"] and report.benchmark is None
    with pytest.raises(UserError, match="--parser published: the questions have no"):
        score_answers(questions, {"a": "Yes."}, parser="published")
    with pytest.raises(UserError, match="there are no questions to score"):
        score_answers([], {}, parser="strict")


def test_a_report_shows_both_rules_and_the_answers_on_which_they_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = questions_of("eventhallusion", written(tmp_path, "entire_questions.json", EVENTS))
    answers = answered(questions, ["Not sure.", "Yes."])
    print_score(score_answers(questions, answers, parser="strict"), open_terminal(width=110))
    text = capsys.readouterr().out
    assert "50.0 % 1 of 2" in text and "100.0 % 2 of 2" in text
    assert "unparsed by the strict rule: 1, wrong and counted, such as" in text
    assert "entire_001-0: 'Not sure.', gold no: strict unparsed, published no" in text
    report = score_answers(questions, {questions[0].id: "no"}, parser="published")
    print_score(report, open_terminal(width=110))
    text = capsys.readouterr().out
    assert "1 without an answer are wrong, and counted" in text
    assert "but for 1 that the published script does not count" in text


def test_both_rules_of_tempcompass_read_plain_answers_alike(tmp_path: Path) -> None:
    path = written(tmp_path, "caption_matching.json", CAPTIONS)
    questions = questions_of("tempcompass_caption_matching", path)
    report = score_answers(questions, {questions[0].id: "Option 2."}, parser="strict")
    assert report.different == 0 and right(report, "strict") == (1, 1, 0)
    questions = questions_of("tempcompass_yes_no", written(tmp_path, "yes_no.json", YES_NO))
    report = score_answers(questions, {questions[0].id: "No"}, parser="strict")
    assert report.different == 0 and right(report, "published") == (1, 1, 0)


def test_ratings_of_the_authors_judge_count_where_their_rule_reads_nothing(tmp_path: Path) -> None:
    """Of three answers the rule reads one, which is right; the judge rated one of the others so."""
    rows = {"77": {"speed": CAPTIONS["77"]["speed"] * 3}}
    path = written(tmp_path, "caption_matching.json", rows)
    questions = questions_of("tempcompass_caption_matching", path)
    results = [
        {**row, "video-llm-prediction": text, "match_success": text == "2", "rating": rating}
        for row, text, rating in zip(
            rows["77"]["speed"], ["2", "It is fast", "slow"], [1, 1, 0], strict=True
        )
    ]
    path = written(tmp_path, "results.json", {"77": {"speed": results}})
    answers = read_answer_files([path], questions)
    ratings = read_rating_files([path], questions)
    report = score_answers(questions, answers, parser="published", ratings=ratings)
    assert right(report, "published") == (2, 3, 0) and report.rules["published"].rated == 2
    assert right(report, "strict") == (2, 3, 1), "the strict rule takes nobody's word for it"
    report = score_answers(questions, answers, parser="published")
    assert right(report, "published") == (1, 3, 2)
