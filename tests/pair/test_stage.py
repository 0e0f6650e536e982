"""The pair stage: its files, and what it says where no pair is left."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from preferences import Row, records

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import Pair
from dpo_video.pair.stage import pair
from dpo_video.recipe import Recipe
from dpo_video.run import Run, open_run


@contextmanager
def opened(
    folder: Path, questions: dict[str, Sequence[Row]], rule: str = "best_worst"
) -> Iterator[Run]:
    """A run whose candidates are generated and judged."""
    samples, candidates, judgments = records(questions)
    write_jsonl(folder / "samples.jsonl", samples)
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "runs_folder": str(folder),
            "model": {"name": "m"},
            "pair": {"rule": rule},
            "data": {"samples": str(folder / "samples.jsonl")},
            "tracking": {"to": "none"},
            "judge": {"model": "j", "scorer": "caption_score"},
        }
    )
    with open_run(recipe) as run:
        write_jsonl(run.folder / "candidates.jsonl", candidates)
        write_jsonl(run.folder / "judgments.jsonl", judgments)
        yield run


def test_the_stage_writes_the_same_bytes_for_the_same_inputs(tmp_path: Path) -> None:
    rows = {
        f"q{n}": [("yes", 5.0), ("no", 1.0 + n % 2), ("d\u00e9j\u00e0", 3.0), ("", 1.0)]
        for n in range(20)
    }
    written = []
    for name in ("one", "two"):
        with opened(tmp_path / name, rows, "hound") as run:
            summary = pair(run).counts
            written.append(
                [(run.folder / file).read_bytes() for file in ("pairs.jsonl", "drops.jsonl")]
            )
    assert written[0] == written[1]
    assert len(list(read_jsonl(run.folder / "pairs.jsonl", Pair))) == summary["pairs"] == 20
    drops = [json.loads(line) for line in written[0][1].splitlines()]
    assert [(row["sample_id"], row["unit"], row["reason"]) for row in drops] == [
        (f"q{n}", "answer", "empty") for n in range(20)
    ]


def test_no_pair_at_all_is_an_error_that_counts_the_reasons(tmp_path: Path) -> None:
    with opened(
        tmp_path, {"a": [("x", 4.0), ("y", 4.0)], "b": [("x", 4.0), ("y", 4.0)], "c": []}
    ) as run:
        with pytest.raises(
            UserError, match=r"no pairs: all 3 questions were dropped \(tie 2, no answers 1\)"
        ):
            pair(run)
        drops = [json.loads(line) for line in (run.folder / "drops.jsonl").read_text().splitlines()]
    assert Counter(row["unit"] for row in drops) == {"pair": 2, "question": 3}
