"""Rows in the layouts in which benchmarks are published, made here: no file of theirs is part of
this project.
"""

import json
from pathlib import Path
from typing import Any

from dpo_video.benchmarks.sets import read_benchmark
from dpo_video.core.records import Sample

PAIRS = [
    {
        "basic": {"video": "1_a.mp4", "question": "Is there a cat?", "answer": "yes"},
        "hallucination": {"video": "1_b.mp4", "question": "Is there a dog?", "answer": "no"},
        "type": "subject",
    },
    {
        "basic": {"video": "2.mp4", "question": "Does it rain?", "answer": "yes"},
        "hallucination": {"video": "2.mp4", "question": "Does it snow?", "answer": "no"},
        "type": "relation",
    },
]
EVENTS = [
    {
        "id": "entire_001",
        "questions": [
            {"type": "hallucination", "question": "Is he eating?", "answer": "No."},
            {"type": "hallucination", "question": "Is he running?", "answer": "Yes."},
        ],
    }
]
CHOICES = {
    "77": {
        "action": [{"question": "What is it?\nA. a cat\nB. a dog", "answer": "A. a cat"}],
        "order": [{"question": "What first?\nA. a cat\nB. a dog", "answer": "B. a dog"}],
    }
}
YES_NO = {"77_reverse": {"direction": [{"question": "Does it fall?", "answer": "no"}]}}
CAPTIONS = {
    "77": {
        "speed": [
            {
                "question": "Which fits?\nOption 1: It is slow.\nOption 2: It is fast.",
                "answer": "Option 2: It is fast.",
            }
        ]
    }
}
CAPTIONING = {
    "77": {
        "action": [
            {"question": "Describe what fits.\nGenerated Caption:", "answer": "B. sits"},
            {"question": "Describe in a sentence.\nGenerated Caption:", "answer": "B. sits"},
        ]
    }
}
CLIP_PAIRS = {
    "0": [
        {"q": "Does he cut?", "a": {"x_clip_1": "Yes", "x_clip_2": "No"}},
        {"q": "Does he stir?", "a": {"x_clip_1": "No", "x_clip_2": "Yes"}},
    ]
}
CLIP_CHOICES = {
    "0": {
        "x_clip_1": {
            "Question": "What happens?",
            "Choices": {"A": "He cuts.", "B": "He bakes.", "C": "He stirs.", "D": "He eats."},
            "Correct Answer": "A, C",
        },
        "x_clip_2": {
            "Question": "What happens?",
            "Choices": {"A": "He cuts.", "B": "He bakes.", "C": "He stirs.", "D": "He eats."},
            "Correct Answer": "B",
        },
    }
}
CANDIDATE_ROWS = [
    {
        "video": "a.mp4",
        "question": "What happens?",
        "candidates": ["He sits.", "He runs.", "He eats."],
        "answer": "He runs.",
        "start": 1.5,
        "end": 4,
    },
    {"video": "b.mp4", "question": "And here?", "candidates": ["3", "4"], "answer": "3"},
]
VIDEO_ROWS = [
    {
        "video_id": "001",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
        "videoID": "abc",
        "question_id": "001-1",
        "task_type": "Counting Problem",
        "question": "How many?",
        "options": ["A. 1.", "B. 2.", "C. 3.", "D. 4."],
        "answer": "C",
    },
    {
        "video_id": "002",
        "duration": "long",
        "domain": "Knowledge",
        "sub_category": "Geography",
        "videoID": "def",
        "question_id": "002-1",
        "task_type": "OCR Problems",
        "question": "What is written?",
        "options": ["A. a.", "B. b.", "C. c.", "D. d."],
        "answer": "A",
    },
]
LONG_ROWS = [
    {
        "video_id": "q",
        "video_path": "q.mp4",
        "subtitle_path": "q_en.json",
        "duration": 20.0,
        "duration_group": 60,
        "starting_timestamp_for_subtitles": 0,
        "question": "Which?",
        "candidates": ["one", "two", "three"],
        "correct_choice": 2,
        "question_category": "TOS",
        "id": "q_0",
    }
]
LONG_COLUMNS = [
    {key: value for key, value in LONG_ROWS[0].items() if key != "candidates"}
    | {"option0": "one", "option1": "two", "option2": "three", "option3": "N/A", "option4": "N/A"}
]
OPEN_QUESTIONS = [{"video_name": "xyz", "question": "what is he doing", "question_id": "v_xyz_1"}]
OPEN_ANSWERS = [{"answer": "cooking", "type": 3, "question_id": "v_xyz_1"}]
WRITTEN = [{"Q": "What happens?", "A": "A man cooks.", "video_name": "v_p1"}]
CONSISTENT = [{"Q1": "Who is it?", "Q2": "Which man?", "A": "A cook.", "video_name": "v_p1"}]
TEXT_SCORE = [
    {
        "idx": f"{pair}_{side}",
        "video_name": f"vinoground_videos/{pair}_{side}.mp4",
        "question": "Which caption?\nA. a before b\nB. b before a",
        "GT": "A" if side == "pos" else "B",
    }
    for pair in (0, 1)
    for side in ("pos", "neg")
]
VIDEO_SCORE = [
    {**row, "video_name": row["video_name"].replace("videos", "videos_concated")}
    for row in TEXT_SCORE
]


def written(folder: Path, name: str, rows: Any) -> Path:
    """Write rows as JSON, or JSON lines where the name says so."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path


def questions_of(name: str, path: Path, clips: Path | None = None) -> list[Sample]:
    """The questions of a benchmark's file or folder."""
    return list(read_benchmark(name, path, clips))


def with_answers(rows: Any, answers: list[str | None], key: str = "prediction") -> Any:
    """The rows of TempCompass with a prediction each, in their order."""
    texts = iter(answers)
    return {
        video: {
            aspect: [{**row, key: next(texts)} for row in questions]
            for aspect, questions in aspects.items()
        }
        for video, aspects in rows.items()
    }
