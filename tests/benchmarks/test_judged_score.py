"""Answers in words are rated by a judge on a real server, with what each benchmark has it asked."""

from collections.abc import Callable
from pathlib import Path

import pytest
from benchmark_rows import (
    CAPTIONING,
    CONSISTENT,
    OPEN_ANSWERS,
    OPEN_QUESTIONS,
    WRITTEN,
    questions_of,
    written,
)
from judge_server import Answer, completion, judge_server

from dpo_video.benchmarks.judged_score import JudgedReport, judge_answers, judge_settings
from dpo_video.benchmarks.score import score_answers
from dpo_video.benchmarks.score_table import print_judged
from dpo_video.core.errors import UserError
from dpo_video.core.progress import open_terminal
from dpo_video.core.records import Sample
from dpo_video.store import RunStore


def rated(
    folder: Path,
    questions: list[Sample],
    answers: dict[str, str],
    reply: Callable[[str, int], Answer],
) -> tuple[JudgedReport, list[str]]:
    """What the judge makes of the answers, and the prompts that it was sent."""
    with judge_server(reply) as server, RunStore(folder / "replies") as store:
        settings = judge_settings(f"judge.model=m,judge.base_url={server.url},judge.concurrency=1")
        report = judge_answers(questions, answers, settings=settings, store=store)
        return report, list(server.prompts)


def test_activitynet_qa_is_the_share_of_yes_and_the_mean_score(tmp_path: Path) -> None:
    rows = [
        {**OPEN_QUESTIONS[0], "question_id": name, "video_name": name} for name in ("a", "b", "c")
    ]
    gold = [{**OPEN_ANSWERS[0], "question_id": name} for name in ("a", "b", "c")]
    written(tmp_path, "test_a.json", gold)
    questions = questions_of("activitynet_qa", written(tmp_path, "test_q.json", rows))
    verdicts = {"> boils": "Verdict: yes, Score: 4", "> sits": "Verdict: no, Score: 1"}

    def reply(prompt: str, attempt: int) -> Answer:
        return completion(next((said for text, said in verdicts.items() if text in prompt), "?"))

    answers = {"a": "boils", "b": "sits", "c": "unclear"}
    report, prompts = rated(tmp_path, questions, answers, reply)
    (score,) = report.scorers
    assert score.accuracy is not None
    assert (score.accuracy.value, score.accuracy.n, score.accuracy.unscored) == (0.5, 2, 1)
    assert score.mean_score.value == 2.5 and list(score.unscored) == ["c"]
    assert all("Correct answer: cooking" in prompt for prompt in prompts)


def test_a_caption_is_right_where_the_judge_finds_the_right_option_in_it(tmp_path: Path) -> None:
    """Two captions: from one the judge reads the right option, from the other none."""
    choices = {"77": {"action": [{"question": "What?\nA. runs\nB. sits", "answer": "B. sits"}]}}
    written(tmp_path, "multi-choice.json", choices)
    path = written(tmp_path, "captioning.json", CAPTIONING)
    questions = questions_of("tempcompass_captioning", path)
    answers = {"77-action-0": "He sits down.", "77-action-1": "A man."}

    def reply(prompt: str, attempt: int) -> Answer:
        return completion("Reason: so.\nAnswer: " + ("B" if "> He sits" in prompt else "none"))

    report, prompts = rated(tmp_path, questions, answers, reply)
    (score,) = report.scorers
    assert score.accuracy is not None and (score.accuracy.value, score.accuracy.n) == (0.5, 2)
    assert "Question:\nWhat?\nA. runs\nB. sits\n" in prompts[0]
    assert "Describe what fits" not in prompts[0], "the judge sees no more than the caption"


def test_vcgbench_is_rated_in_five_ways_and_a_pair_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, "generic_qa.json", WRITTEN)
    written(tmp_path, "temporal_qa.json", WRITTEN)
    written(tmp_path, "consistency_qa.json", CONSISTENT)
    questions = questions_of("vcgbench", tmp_path)
    answers = {question.id: f"answer {question.id}" for question in questions}
    report, prompts = rated(
        tmp_path, questions, answers, lambda prompt, attempt: completion("Score: 3")
    )
    names = [score.scorer.partition("@")[0] for score in report.scorers]
    assert names == [
        "vcg_correctness",
        "vcg_detail",
        "vcg_context",
        "vcg_temporal",
        "vcg_consistency",
    ]
    assert [score.mean_score.value for score in report.scorers] == [3.0] * 5
    assert all(score.accuracy is None for score in report.scorers)
    assert "Question 1: Who is it?\nQuestion 2: Which man?" in prompts[-1]
    assert "> Answer 1: answer consistency-0-Q1\n> Answer 2: answer consistency-0-Q2" in prompts[-1]
    print_judged(report, open_terminal(width=110))
    text = capsys.readouterr().out
    assert "VCGBench, rated by m" in text and "vcg_consistency@" in text and "3.00" in text
    del answers["generic-0"], answers["consistency-0-Q2"]
    with pytest.raises(UserError, match="none of the questions has an answer to rate"):
        rated(tmp_path, questions[:1], answers, lambda prompt, attempt: completion("Score: 3"))
    report, _ = rated(tmp_path, questions, answers, lambda prompt, attempt: completion("Score: 3"))
    assert [score.mean_score.n for score in report.scorers] == [1, 0]
    assert report.missing == 2


def test_rules_need_no_judge_and_words_need_one(tmp_path: Path) -> None:
    questions = questions_of("vcgbench", written(tmp_path, "generic_qa.json", WRITTEN))
    with pytest.raises(UserError, match=r"1 questions, first 'generic-0', are answered in words"):
        score_answers(questions, {"generic-0": "A cook."}, parser="strict")
    letters = [Sample(id="a", video="a.mp4", prompt="?", answer="yes", answer_kind="yes_no")]
    with pytest.raises(UserError, match=r"--judge is for one benchmark .*: tempcompass_captioning"):
        rated(tmp_path, letters, {"a": "yes"}, lambda prompt, attempt: completion("Score: 3"))
    with pytest.raises(UserError, match=r"without a recipe only `judge\.` settings"):
        judge_settings("judge.model=m,train.epochs=2")
