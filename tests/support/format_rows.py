"""Rows of every format as its project documents them, and importing them."""

import json
from pathlib import Path
from typing import Any

from dpo_video.core.jsonl import read_jsonl
from dpo_video.formats.import_file import ImportOptions, ImportReport, import_file
from dpo_video.formats.importers import KINDS

RECORDS = {name: kind for kind, name in KINDS.items()}
ASKED, GOOD, BAD = "What is she doing?", "She is cooking.", "She is swimming."
TURN = {"role": "user", "content": f"<video>{ASKED}"}
FROM = {"from": "human", "value": f"<video>\n{ASKED}"}

VOTED = "a=v1_0#0|b=v1_0#1"
"""Name of an exported pair: the candidates that stand as A and as B."""
ROWS: dict[str, list[dict[str, Any]]] = {
    "hound_qa": [
        {"id": "v1_0", "video": "clips/v1", "conversations": [FROM, {"from": "gpt", "value": GOOD}]}
    ],
    "hound_pairs": [
        {
            "id": "v1_0",
            "video": "clips/v1",
            "prompt": f"<video>\n{ASKED}",
            "answer": "Cooking.",
            "chosen": GOOD,
            "rejected": BAD,
            "chosen_score": 5.0,
            "rejected_score": 2.0,
        }
    ],
    "hound_predictions": [
        {
            "id": f"v1_0_{k}",
            "modal_path": "clips/v1",
            "query": ASKED,
            "answer": "Cooking.",
            "modal_type": "VIDEO",
            "video_decode_backend": "frames",
            "temperature": 1.0,
            "top_p": 0.95,
            "max_new_tokens": 1024,
            "model_prediction": {"status": "success", "message": text},
        }
        for k, text in enumerate((GOOD, BAD))
    ],
    "hound_judgments": [
        {"id": "v1_0_0", "response": "Explanation: right.\nScore: 5", "parsed_result": 5.0},
        {"id": "v1_0_1", "response": "There are 2 dogs.", "parsed_result": 2.0},
    ],
    "llava_next": [
        {
            "id": "a",
            "video": "clips/v1",
            "prompt": f"<video>\n{ASKED}",
            "chosen": GOOD,
            "rejected": BAD,
        }
    ],
    "tpo": [{"id": "a", "video": "clips/v1.mp4", "prompt": ASKED, "chosen": GOOD, "rejected": BAD}],
    "qwen_vl_finetune": [
        {
            "id": "1",
            "video": "clips/v1.mp4",
            "prompt": f"<video>\n{ASKED}",
            "chosen": GOOD,
            "rejected": BAD,
        }
    ],
    "llama_factory": [
        {
            "conversations": [FROM],
            "chosen": {"from": "gpt", "value": GOOD},
            "rejected": {"from": "gpt", "value": BAD},
            "videos": ["clips/v1.mp4"],
        }
    ],
    "ms_swift": [
        {
            "messages": [TURN, {"role": "assistant", "content": GOOD}],
            "videos": ["clips/v1.mp4"],
            "rejected_response": BAD,
        }
    ],
    "trl": [
        {
            "prompt": [
                {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": ASKED}]}
            ],
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": GOOD}]}],
            "rejected": [{"role": "assistant", "content": BAD}],
            "videos": ["clips/v1.mp4"],
        }
    ],
    "vista_dpo": [
        {
            "id": "star/CSLEP",
            "video": "clips/v1.mp4",
            "prompt": ASKED,
            "chosen": GOOD,
            "rejected": BAD,
            "rejected_2": "She sleeps.",
            "bbox": "'x':1,'y':2,'w':3,'h':4",
            "clip_w": [0, 5],
            "clip_l": [6, 9],
            "frame": ["f1"],
        }
    ],
    "rlaif_v": [
        {
            "image_id": "1",
            "image_path": "clips/a.jpg",
            "ds_question_id": "q1",
            "question": ASKED,
            "chosen": GOOD,
            "rejected": BAD,
            "org_infos": {"scores": {"chosen": 0, "rejected": -2}},
        }
    ],
    "label_studio": [
        {
            "id": 1,
            "data": {"id": VOTED, "question": ASKED, "answer_a": GOOD, "answer_b": BAD},
            "annotations": [
                {
                    "id": 1001,
                    "completed_by": 10,
                    "result": [
                        {
                            "id": "Dx_aB91ISN",
                            "type": "pairwise",
                            "value": {"selected": "left"},
                            "from_name": "vote",
                            "to_name": ["a", "b"],
                        }
                    ],
                    "was_cancelled": False,
                    "ground_truth": False,
                    "created_at": "2026-03-09T22:16:08.728353Z",
                    "updated_at": "2026-03-09T22:17:08.728378Z",
                    "lead_time": 4.288,
                }
            ],
        }
    ],
    "argilla": [
        {
            "id": VOTED,
            "fields": {"clip": "<video>", "question": ASKED, "answer_a": GOOD, "answer_b": BAD},
            "metadata": {},
            "suggestions": {},
            "responses": {"vote": [{"value": "a", "user_id": "59f7bf7b"}]},
            "vectors": {},
            "_server_id": "e0ba74e8",
        }
    ],
    "video_chatgpt": [{"video_name": "clips/v1", "Q": ASKED, "A": GOOD}],
    "table": [{"nr": "7", "file": "clips/v1.mp4", "question": ASKED, "good": GOOD, "bad": BAD}],
}
COLUMNS = {"video": "file", "prompt": "question", "chosen": "good", "rejected": "bad", "id": "nr"}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def imported(name: str, source: str, out: Path, **options: Any) -> tuple[ImportReport, list[Any]]:
    report = import_file(name, source, out, ImportOptions(**options))
    return report, list(read_jsonl(out, RECORDS[report.kind]))


def imported_rows(
    name: str, rows: list[dict[str, Any]], folder: Path, **options: Any
) -> tuple[ImportReport, list[Any]]:
    """Return the report and the records of rows that are written to a file and imported."""
    source = write_rows(folder / "in.jsonl", rows)
    return imported(name, source, folder / "out.jsonl", **options)
