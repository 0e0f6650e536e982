"""MVBench, TVBench and MLVU: a file a task, whose rows hold a question, its `candidates` and the
text of the right one.

MVBench: mvbench.ipynb of OpenGVLab/Ask-Anything. TVBench: FunAILab/TVBench, prompt of
lmms_eval/tasks/tvbench. MLVU: videochat2/choice_bench.py of JUNJIE99/MLVU. Where the authors give
instructions as a system text and begin the answer themselves (`Best option:(`), both stand in the
question here: a chat template has its own system text, and the answer is the model's.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dpo_video.benchmarks.published_files import (
    field,
    first_existing,
    gold_letter,
    list_field,
    read_table,
    text_field,
)
from dpo_video.core.errors import UserError
from dpo_video.core.records import Sample
from dpo_video.data.choices import LETTERS

MVBENCH_FOLDERS = {
    "action_sequence": "star/Charades_v1_480",
    "action_prediction": "star/Charades_v1_480",
    "action_antonym": "ssv2_video",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "unexpected_action": "FunQA_test/test",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_v1_480",
    "object_shuffle": "perception/videos",
    "moving_direction": "clevrer/video_validation",
    "action_localization": "sta/sta_video",
    "scene_transition": "scene_qa/video",
    "action_count": "perception/videos",
    "moving_count": "clevrer/video_validation",
    "moving_attribute": "clevrer/video_validation",
    "state_change": "perception/videos",
    "fine_grained_pose": "nturgbd",
    "character_order": "perception/videos",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/frames_fps3_hq",
    "counterfactual_inference": "clevrer/video_validation",
}
"""Where the clips of a task lie below MVBench's folder `video`."""
FRAME_TASK = "episodic_reasoning"
FRAMES_PER_SECOND = 3
"""At which the frames of its clips were taken, as `00001.jpg` and on."""
TVBENCH_TASKS = (
    "action_antonym",
    "action_count",
    "action_localization",
    "action_sequence",
    "egocentric_sequence",
    "moving_direction",
    "object_count",
    "object_shuffle",
    "scene_transition",
    "unexpected_action",
)
MLVU_TASKS = (
    "plotQA",
    "needle",
    "ego",
    "count",
    "order",
    "anomaly_reco",
    "topic_reasoning",
)
"""Those with options; `sub_scene` and `summary` are written answers."""
MVBENCH_SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail "
    "and movement of objects, and the action and pose of persons. Based on your observations, "
    "select the best option that accurately addresses the question.\n"
)
MLVU_SYSTEM = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, "
    "select the best option that accurately addresses the question.\n"
)


def read_mvbench(path: Path, clips: Path | None) -> Iterator[Sample]:
    """Yield the questions of one of the twenty tasks, such as `action_antonym.json`."""
    task = path.stem
    if task not in MVBENCH_FOLDERS:
        raise UserError(f"{path}: no task of MVBench; it has {', '.join(MVBENCH_FOLDERS)}")
    for index, (where, row) in enumerate(read_table(path)):
        options, letter = _options(row, where, "({}) {}")
        video = text_field(row, "video", where)
        folder = MVBENCH_FOLDERS[task]
        name = first_existing(clips, f"{folder}/{video}", f"video/{folder}/{video}")
        yield Sample(
            id=f"{task}-{index}",
            prompt=MVBENCH_SYSTEM
            + _lettered(text_field(row, "question", where), options)
            + "\nOnly give the best option.\nBest option:(",
            options=options,
            answer=letter,
            answer_kind="letter",
            category=task,
            **(_frames(row, name, clips, where) if task == FRAME_TASK else _span(row, name)),
        )


def read_tvbench(path: Path, clips: Path | None) -> Iterator[Sample]:
    """Yield the questions of one of the ten tasks."""
    task = path.stem
    for index, (where, row) in enumerate(read_table(path)):
        options, letter = _options(row, where, "{}. {}")
        video = text_field(row, "video", where)
        folders = (f"video/{task}", "video", f"videos/{task}", "videos", task, ".")
        name = first_existing(clips, *(f"{folder}/{video}" for folder in folders))
        question = text_field(row, "question", where).strip()
        yield Sample(
            id=f"{task}-{index}",
            prompt="\n".join([question, *options, "Answer with the option letter only."]),
            options=options,
            answer=letter,
            answer_kind="letter",
            category=task,
            **_span(row, name.removeprefix("./")),
        )


def read_mlvu(path: Path, clips: Path | None) -> Iterator[Sample]:
    """Yield the questions of one of the seven tasks with options, such as `1_plotQA.json`."""
    task = re.sub(r"^\d+_", "", path.stem)
    for index, (where, row) in enumerate(read_table(path)):
        options, letter = _options(row, where, "({}) {}")
        video = text_field(row, "video", where)
        folders = (f"video/{path.stem}", path.stem, f"video/{task}", task)
        yield Sample(
            id=f"{task}-{index}",
            video=first_existing(clips, *(f"{folder}/{video}" for folder in folders)),
            prompt=MLVU_SYSTEM
            + _lettered(text_field(row, "question", where), options)
            + "\nOnly give the best option.\nBest option: (",
            options=options,
            answer=letter,
            answer_kind="letter",
            category=task,
        )


def _options(row: Mapping[str, Any], where: str, form: str) -> tuple[list[str], str]:
    """Return the candidates with their letters, and the letter of the right one."""
    candidates = [str(candidate) for candidate in list_field(row, "candidates", where)]
    letter = gold_letter(str(field(row, "answer", where)), candidates, where)
    options = [form.format(*pair) for pair in zip(LETTERS, candidates, strict=False)]
    return options, letter


def _lettered(question: str, options: list[str]) -> str:
    return "\n".join([f"Question: {question}", "Options:", *options])


def _span(row: Mapping[str, Any], video: str) -> dict[str, Any]:
    """Return the clip of a row, from `start` to `end` where it has them."""
    start, end = (row.get(name) for name in ("start", "end"))
    if start is None or end is None:
        return {"video": video}
    return {"video": video, "start": float(start), "end": float(end)}


def _frames(row: Mapping[str, Any], folder: str, clips: Path | None, where: str) -> dict[str, Any]:
    """Return the frames of a folder between `start` and `end`, where the folder is at hand."""
    if clips is None:
        raise UserError(
            f"{where}: {FRAME_TASK} asks about frames between two times: give --video-root, the "
            "folder that holds tvqa/frames_fps3_hq"
        )
    if not (clips / folder).is_dir():
        return {"video": folder}
    frames = sorted(file.name for file in (clips / folder).glob("*.jpg"))
    first = max(1, round(float(row["start"]) * FRAMES_PER_SECOND))
    last = min(round(float(row["end"]) * FRAMES_PER_SECOND), len(frames))
    names = [name for name in frames if first <= int(Path(name).stem) <= last]
    if not names:
        raise UserError(f"{where}: no frame between {row['start']} and {row['end']} in {folder!r}")
    return {"video": [f"{folder}/{name}" for name in names]}
