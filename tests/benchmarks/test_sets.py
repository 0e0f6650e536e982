"""Questions are read from files in the published layout, with the published prompt; what does not
fit is told by file and field.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmark_rows import (
    CANDIDATE_ROWS,
    CAPTIONING,
    CAPTIONS,
    CHOICES,
    CLIP_CHOICES,
    CLIP_PAIRS,
    CONSISTENT,
    EVENTS,
    LONG_COLUMNS,
    LONG_ROWS,
    OPEN_ANSWERS,
    OPEN_QUESTIONS,
    PAIRS,
    TEXT_SCORE,
    VIDEO_ROWS,
    VIDEO_SCORE,
    WRITTEN,
    YES_NO,
    questions_of,
    written,
)

from dpo_video.benchmarks.sets import BENCHMARKS, published_rule
from dpo_video.core.errors import UserError
from dpo_video.data.choices import check_choice


def test_videohallucer_is_pairs_of_which_each_half_has_its_clip(tmp_path: Path) -> None:
    questions = questions_of("videohallucer", written(tmp_path, "object_relation.json", PAIRS))
    assert [(row.id, row.video, row.group, row.category) for row in questions[:3]] == [
        (
            "object_relation-0-basic",
            "object_relation/videos/1_a.mp4",
            "object_relation-0",
            "subject",
        ),
        (
            "object_relation-0-hallucination",
            "object_relation/videos/1_b.mp4",
            "object_relation-0",
            "subject",
        ),
        (
            "object_relation-1-basic",
            "object_relation/videos/2.mp4",
            "object_relation-1",
            "relation",
        ),
    ]
    assert questions[0].prompt == "Is there a cat?\nAnswer the question using 'yes' or 'no'."
    assert questions[1].answer == "no" and questions[1].answer_kind == "yes_no"
    assert questions[1].meta == {
        "benchmark": "videohallucer",
        "set": "object_relation",
        "half": "hallucination",
    }


def test_a_folder_gives_all_files_of_a_benchmark_in_their_order(tmp_path: Path) -> None:
    """Also below folders of their own, as the authors give them; other files are left alone."""
    written(tmp_path, "temporal/temporal.json", PAIRS[:1])
    written(tmp_path, "object_relation/object_relation.json", PAIRS)
    written(tmp_path, "object_relation/other.json", {"not": "read"})
    sets = [(row.meta or {})["set"] for row in questions_of("videohallucer", tmp_path)]
    assert sets == ["object_relation"] * 4 + ["temporal"] * 2


def test_eventhallusion_asks_one_or_several_questions_a_clip(tmp_path: Path) -> None:
    questions = questions_of("eventhallusion", written(tmp_path, "entire_questions.json", EVENTS))
    assert [(row.id, row.video, row.answer) for row in questions] == [
        ("entire_001-0", "entire/entire_001.mp4", "no"),
        ("entire_001-1", "entire/entire_001.mp4", "yes"),
    ]
    assert questions[0].prompt == "Is he eating?\nPlease answer yes or no:"
    assert questions[0].category == "entire"


def test_tempcompass_has_options_in_lines_and_their_letters(tmp_path: Path) -> None:
    path = written(tmp_path, "multi-choice.json", CHOICES)
    first, second = questions_of("tempcompass_multi_choice", path)
    assert (first.id, first.video, first.category) == ("77-action-0", "77.mp4", "action")
    assert (first.options, first.answer) == (["A. a cat", "B. a dog"], "A")
    assert second.answer == "B"
    assert first.prompt == (
        "What is it?\nA. a cat\nB. a dog\nPlease directly give the best option:"
    )
    path = written(tmp_path, "caption_matching.json", CAPTIONS)
    (caption,) = questions_of("tempcompass_caption_matching", path)
    assert caption.options == ["Option 1: It is slow.", "Option 2: It is fast."]
    assert (caption.answer, caption.answer_kind) == ("B", "letter")
    (yes_no,) = questions_of("tempcompass_yes_no", written(tmp_path, "yes_no.json", YES_NO))
    assert (yes_no.id, yes_no.video) == ("77_reverse-direction-0", "77_reverse.mp4")
    assert yes_no.prompt == "Does it fall?\nPlease answer yes or no:"


def test_the_table_of_tempcompass_on_the_hub_gives_the_same_questions(tmp_path: Path) -> None:
    rows = [
        {"video_id": video, "dim": aspect, **row}
        for video, aspects in CHOICES.items()
        for aspect, questions in aspects.items()
        for row in questions
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    table = questions_of("tempcompass_multi_choice", tmp_path / "test.parquet")
    path = written(tmp_path, "multi-choice.json", CHOICES)
    assert table == questions_of("tempcompass_multi_choice", path)


def test_a_caption_is_judged_by_the_first_choice_question_about_its_aspect(tmp_path: Path) -> None:
    choices = {"77": {"action": [{"question": "What?\nA. runs\nB. sits", "answer": "B. sits"}]}}
    written(tmp_path, "multi-choice.json", choices)
    path = written(tmp_path, "captioning.json", CAPTIONING)
    first, second = questions_of("tempcompass_captioning", path)
    assert first.prompt == "Describe what fits.\nGenerated Caption:"
    assert (first.answer, first.answer_kind, first.options) == ("sits", "text", None)
    expected = {
        "benchmark": "tempcompass_captioning",
        "judge_question": "What?\nA. runs\nB. sits",
        "judge_answer": "B",
    }
    assert first.meta == second.meta == expected
    flat = [
        {
            "video_id": "77",
            "dim": "action",
            **row,
            "mc_question": "What?\nA. runs\nB. sits",
            "mc_answer": "B. sits",
        }
        for row in CAPTIONING["77"]["action"]
    ]
    written(tmp_path, "multi-choice.json", {"78": choices["77"]})
    with pytest.raises(UserError, match=r"multi-choice\.json asks nothing about 77 and action"):
        questions_of("tempcompass_captioning", path)
    (tmp_path / "multi-choice.json").unlink()
    table = questions_of("tempcompass_captioning", written(tmp_path, "test.json", flat))
    assert table == [first, second]
    with pytest.raises(UserError, match=r"needs 'multi-choice.json' in the same folder: the judge"):
        questions_of("tempcompass_captioning", path)


def test_vidhalluc_asks_each_clip_and_counts_the_clips_of_a_question_together(
    tmp_path: Path,
) -> None:
    path = written(tmp_path, "ach_binaryqa.json", CLIP_PAIRS)
    questions = questions_of("vidhalluc_binary", path)
    assert [(row.id, row.group, row.answer) for row in questions] == [
        ("0-0-x_clip_1", "0-0", "yes"),
        ("0-0-x_clip_2", "0-0", "no"),
        ("0-1-x_clip_1", "0-1", "no"),
        ("0-1-x_clip_2", "0-1", "yes"),
    ]
    assert questions[0].prompt == "Does he cut? Only answer with a single word 'Yes' or 'No'."
    assert questions[0].video == "data/ACH/x_clip_1.mp4"
    (tmp_path / "ACH").mkdir()
    (tmp_path / "ACH/x_clip_1.mp4").touch()
    assert questions_of("vidhalluc_binary", path, tmp_path)[0].video == "ACH/x_clip_1.mp4"


def test_vidhalluc_may_have_several_right_options(tmp_path: Path) -> None:
    path = written(tmp_path, "ach_mcq.json", CLIP_CHOICES)
    first, second = questions_of("vidhalluc_multi_choice", path)
    assert (first.id, first.answer, second.answer) == ("0-x_clip_1", "AC", "B")
    assert first.prompt == (
        "What happens? Please select the correct answer (one or more options), only return your "
        "answer(s). (e.g., ABCD)\nChoices:\nA. He cuts.\nB. He bakes.\nC. He stirs.\nD. He eats.\n"
    )
    assert (first.meta or {})["several_letters"] is True


def test_mvbench_asks_with_its_instructions_and_keeps_the_part_of_the_clip(tmp_path: Path) -> None:
    path = written(tmp_path, "action_sequence.json", CANDIDATE_ROWS)
    first, second = questions_of("mvbench", path)
    assert first.prompt == (
        "Carefully watch the video and pay attention to the cause and sequence of events, the "
        "detail and movement of objects, and the action and pose of persons. Based on your "
        "observations, select the best option that accurately addresses the question.\n"
        "Question: What happens?\nOptions:\n(A) He sits.\n(B) He runs.\n(C) He eats.\n"
        "Only give the best option.\nBest option:("
    )
    assert (first.answer, first.options) == ("B", ["(A) He sits.", "(B) He runs.", "(C) He eats."])
    assert (first.video, first.start, first.end) == ("star/Charades_v1_480/a.mp4", 1.5, 4.0)
    assert (second.start, second.end, second.category) == (None, None, "action_sequence")
    with pytest.raises(UserError, match=r"no task of MVBench; it has action_sequence"):
        questions_of("mvbench", written(tmp_path, "other.json", CANDIDATE_ROWS))


def test_episodes_of_mvbench_are_frames_between_two_times(tmp_path: Path) -> None:
    """At 3 frames a second, 1.5 to 4 s is frame round(4.5) = 4 to 12 of those that are there."""
    frames = tmp_path / "clips/tvqa/frames_fps3_hq/a.mp4"
    frames.mkdir(parents=True)
    for number in range(1, 11):
        (frames / f"{number:05d}.jpg").touch()
    path = written(tmp_path, "episodic_reasoning.json", CANDIDATE_ROWS[:1])
    (question,) = questions_of("mvbench", path, tmp_path / "clips")
    assert question.video == [
        f"tvqa/frames_fps3_hq/a.mp4/{number:05d}.jpg" for number in range(4, 11)
    ]
    assert question.start is None
    with pytest.raises(UserError, match="frames between two times: give --video-root"):
        questions_of("mvbench", path)


def test_tvbench_asks_for_the_letter_only(tmp_path: Path) -> None:
    first, _ = questions_of("tvbench", written(tmp_path, "action_count.json", CANDIDATE_ROWS))
    assert first.prompt == (
        "What happens?\nA. He sits.\nB. He runs.\nC. He eats.\nAnswer with the option letter only."
    )
    assert (first.answer, first.video) == ("B", "video/action_count/a.mp4")


def test_mlvu_begins_the_answer_in_the_question(tmp_path: Path) -> None:
    first, _ = questions_of("mlvu", written(tmp_path, "1_plotQA.json", CANDIDATE_ROWS))
    assert first.prompt == (
        "Carefully watch this video and pay attention to every detail. Based on your observations, "
        "select the best option that accurately addresses the question.\n"
        "Question: What happens?\nOptions:\n(A) He sits.\n(B) He runs.\n(C) He eats.\n"
        "Only give the best option.\nBest option: ("
    )
    assert (first.category, first.id) == ("plotQA", "plotQA-0")
    assert first.video == "video/1_plotQA/a.mp4"


def test_videomme_asks_with_and_without_subtitles(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(VIDEO_ROWS), tmp_path / "test-00000-of-00001.parquet")
    first, second = questions_of("videomme", tmp_path)
    assert first.prompt == (
        "Select the best answer to the following multiple-choice question based on the video. "
        "Respond with only the letter (A, B, C, or D) of the correct option.\n"
        "How many?\nA. 1.\nB. 2.\nC. 3.\nD. 4.\nThe best answer is:"
    )
    assert (first.id, first.video, first.category) == ("001-1", "data/abc.mp4", "short")
    assert (first.meta or {})["task_type"] == "Counting Problem"
    with pytest.raises(UserError, match=r"unpack subtitle\.zip of lmms-lab/Video-MME"):
        questions_of("videomme_subtitles", tmp_path)
    (tmp_path / "subtitle").mkdir()
    (tmp_path / "subtitle/abc.srt").write_text(
        '1\n00:00:01,000 --> 00:00:02,000\n<font color="white" size=".72c">One two.</font>\n\n'
        "2\n00:00:02,000 --> 00:00:03,000\nThree\nfour.\n"
    )
    first, second = questions_of("videomme_subtitles", tmp_path)
    assert first.prompt.startswith(
        "This video's subtitles are listed below: \nOne two.\nThree\nfour.\nSelect the best answer "
        "to the following multiple-choice question based on the video and the subtitles. Respond"
    )
    assert second.prompt.startswith(
        "This video's subtitles are listed below: \nNo subtitles available\nSelect the best"
    )


def test_the_authors_file_of_videomme_gives_the_same_questions(tmp_path: Path) -> None:
    flat = questions_of("videomme", written(tmp_path, "videomme.json", VIDEO_ROWS))
    nested = [
        {
            **{key: row[key] for key in ("video_id", "duration", "domain", "sub_category")},
            "url": f"https://www.youtube.com/watch?v={row['videoID']}",
            "questions": [
                {
                    key: row[key]
                    for key in ("question_id", "task_type", "question", "options", "answer")
                }
            ],
        }
        for row in VIDEO_ROWS
    ]
    assert questions_of("videomme", written(tmp_path, "videomme_nested.json", nested)) == flat


def test_longvideobench_has_its_options_in_a_list_or_in_columns(tmp_path: Path) -> None:
    (question,) = questions_of("longvideobench", written(tmp_path, "lvb_val.json", LONG_ROWS))
    assert question.prompt == (
        "Which?\nA. one\nB. two\nC. three\n"
        "Answer with the option's letter from the given choices directly.\n"
    )
    assert (question.answer, question.category, question.video) == ("C", "60", "videos/q.mp4")
    pq.write_table(pa.Table.from_pylist(LONG_COLUMNS), tmp_path / "validation-0.parquet")
    assert questions_of("longvideobench", tmp_path / "validation-0.parquet") == [question]
    test_rows = [{**LONG_ROWS[0], "correct_choice": -1}]
    with pytest.raises(UserError, match="The test split has no answers"):
        questions_of("longvideobench", written(tmp_path, "lvb_test.json", test_rows))


def test_activitynet_qa_takes_its_answers_from_the_file_beside(tmp_path: Path) -> None:
    path = written(tmp_path, "test_q.json", OPEN_QUESTIONS)
    with pytest.raises(UserError, match=r"needs 'test_a.json' in the same folder: the gold"):
        questions_of("activitynet_qa", path)
    written(tmp_path, "test_a.json", OPEN_ANSWERS)
    (question,) = questions_of("activitynet_qa", path)
    assert question.prompt == (
        "What is he doing? Answer the question using a single word or phrase."
    )
    assert (question.id, question.video, question.answer) == ("v_xyz_1", "v_xyz.mp4", "cooking")
    assert question.category == "3" and question.answer_kind == "text"


def test_vcgbench_has_three_files_and_two_questions_to_hold_against_each_other(
    tmp_path: Path,
) -> None:
    written(tmp_path, "generic_qa.json", WRITTEN)
    written(tmp_path, "temporal_qa.json", WRITTEN)
    written(tmp_path, "consistency_qa.json", CONSISTENT)
    questions = questions_of("vcgbench", tmp_path)
    assert [(row.id, row.category, row.group, row.prompt) for row in questions] == [
        ("generic-0", "generic", None, "What happens?"),
        ("temporal-0", "temporal", None, "What happens?"),
        ("consistency-0-Q1", "consistency", "consistency-0", "Who is it?"),
        ("consistency-0-Q2", "consistency", "consistency-0", "Which man?"),
    ]
    assert {row.answer for row in questions} == {"A man cooks.", "A cook."}


def test_the_four_questions_of_a_vinoground_pair_count_together(tmp_path: Path) -> None:
    written(tmp_path, "vinoground_textscore.json", TEXT_SCORE)
    written(tmp_path, "vinoground_videoscore.json", VIDEO_SCORE)
    (tmp_path / "vinoground.csv").write_text("index,major,minor\n0,action,\n1,object,a;b\n")
    questions = questions_of("vinoground", tmp_path)
    of_first = [row for row in questions if row.group == "0"]
    assert [(row.id, row.category, row.answer) for row in of_first] == [
        ("0_pos-text", "text", "A"),
        ("0_neg-text", "text", "B"),
        ("0_pos-video", "video", "A"),
        ("0_neg-video", "video", "B"),
    ]
    assert of_first[0].prompt.endswith("B. b before a\nPlease only output one English character.")
    assert [(row.meta or {})["major"] for row in questions[::2]] == ["action", "object"] * 2


FILES: dict[str, tuple[str, Any]] = {
    "videohallucer": ("temporal.json", PAIRS),
    "eventhallusion": ("entire_questions.json", EVENTS),
    "vidhalluc_binary": ("ach_binaryqa.json", CLIP_PAIRS),
    "vidhalluc_multi_choice": ("ach_mcq.json", CLIP_CHOICES),
    "tempcompass_multi_choice": ("multi-choice.json", CHOICES),
    "tempcompass_yes_no": ("yes_no.json", YES_NO),
    "tempcompass_caption_matching": ("caption_matching.json", CAPTIONS),
    "mvbench": ("action_count.json", CANDIDATE_ROWS),
    "tvbench": ("action_count.json", CANDIDATE_ROWS),
    "videomme": ("videomme.json", VIDEO_ROWS),
    "mlvu": ("4_count.json", CANDIDATE_ROWS),
    "longvideobench": ("lvb_val.json", LONG_ROWS),
    "vinoground": ("vinoground_textscore.json", TEXT_SCORE),
}


@pytest.mark.parametrize("name", FILES)
def test_questions_that_a_rule_decides_have_a_right_choice_and_the_rule(
    tmp_path: Path, name: str
) -> None:
    file_name, rows = FILES[name]
    questions = questions_of(name, written(tmp_path, file_name, rows))
    assert questions and len({row.id for row in questions}) == len(questions)
    for question in questions:
        check_choice(question, "here")
        assert published_rule(question) is BENCHMARKS[name].rule is not None


def test_a_clip_is_found_in_other_folders_and_with_other_suffixes(tmp_path: Path) -> None:
    path = written(tmp_path, "videomme.json", VIDEO_ROWS)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/abc.mkv").touch()
    (tmp_path / "def.mp4").touch()
    videos = [question.video for question in questions_of("videomme", path, tmp_path)]
    assert videos == ["data/abc.mkv", "def.mp4"]
    path = written(tmp_path, "generic_qa.json", [{**WRITTEN[0], "video_name": "v_1.5-x"}])
    (tmp_path / "Test_Videos").mkdir()
    (tmp_path / "Test_Videos/v_1.5-x.mkv").touch()
    (question,) = questions_of("vcgbench", path, tmp_path)
    assert question.video == "Test_Videos/v_1.5-x.mkv"
