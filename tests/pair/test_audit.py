"""The audit of a run's pairs: each number recomputed the slow way, the page whole and without a
network.
"""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preferences import Row, records
from typer.testing import CliRunner

from dpo_video.cli.app import app
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import Pair
from dpo_video.core.statistics import weighted_correlation, weighted_slope
from dpo_video.pair.audit import audit, audit_row
from dpo_video.pair.audit_measures import histogram
from dpo_video.pipeline import do_stages
from dpo_video.recipe import Recipe
from dpo_video.run import open_run


def make_run(folder: Path, questions: dict[str, Sequence[Row]], **change: Any) -> Path:
    """Write a run whose pairs are made: two questions a clip, and what `change` makes of candidates
    by their id.
    """
    samples, candidates, judgments = records(questions)
    samples = [
        replace(sample, video=f"clip{number // 2}.mp4", prompt="What is it?")
        for number, sample in enumerate(samples)
    ]
    write_jsonl(folder / "samples.jsonl", samples)
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "runs_folder": str(folder),
            "model": {"name": "m"},
            "tracking": {"to": "none"},
            "pair": {"min_margin": 0.5},
            "data": {"samples": str(folder / "samples.jsonl")},
            "judge": {"model": "j", "scorer": "caption_score"},
        }
    )
    with open_run(recipe) as run:
        write_jsonl(
            run.folder / "candidates.jsonl",
            [replace(row, **change.get(row.id.rpartition("#")[2], {})) for row in candidates],
        )
        write_jsonl(run.folder / "judgments.jsonl", judgments)
        do_stages(run, ["pair"])
    return folder / "r"


def audited(folder: Path) -> dict[str, Any]:
    """The audit of a run as audit.json holds it."""
    return audit_row(audit(folder))


def random_questions(count: int, *, seed: int = 0) -> dict[str, Sequence[Row]]:
    """Questions with 5 answers of random length whose scores follow length and chance."""
    chance = random.Random(seed)
    out: dict[str, Sequence[Row]] = {}
    for number in range(count):
        sizes = [chance.randint(5, 80) for _ in range(5)]
        out[f"q{number}"] = [
            (f"{place}{'x' * size}", 1 + size / 40 + chance.random() * 2)
            for place, size in enumerate(sizes)
        ]
    return out


def test_every_number_is_the_one_recomputed_from_the_files(tmp_path: Path) -> None:
    questions = random_questions(40)
    folder = make_run(tmp_path, questions)
    numbers = audited(folder)
    pairs = list(read_jsonl(folder / "pairs.jsonl", Pair))
    extra = np.array([len(row.chosen) - len(row.rejected) for row in pairs])
    margin = np.array([row.chosen_score - row.rejected_score for row in pairs])
    lengths, scores, deviations = [], [], []
    for rows in questions.values():
        size, score = np.array([len(row[0]) for row in rows]), np.array([row[1] for row in rows])
        lengths += list(size)
        scores += list(score)
        deviations += list(zip(size - size.mean(), score - score.mean(), strict=True))
    x, y = np.array(deviations).T
    slope = np.linalg.lstsq(x[:, None], y, rcond=None)[0][0]
    length = numbers["length"]
    assert length["extra"]["value"] == pytest.approx(extra.mean())
    assert length["chosen_longer"]["value"] == pytest.approx(
        ((extra > 0) + 0.5 * (extra == 0)).mean()
    )
    assert length["score_correlation"]["value"] == pytest.approx(np.corrcoef(lengths, scores)[0, 1])
    assert length["score_correlation_within_questions"]["value"] == pytest.approx(
        np.corrcoef(x, y)[0, 1]
    )
    assert length["score_per_100_characters"]["value"] == pytest.approx(100 * slope)
    assert length["residual_margin"]["value"] == pytest.approx((margin - slope * extra).mean())
    assert length["explained_by_length"] == pytest.approx((margin - slope * extra <= 0).mean())
    assert (length["answers"], length["fitted_on"]) == (200, "scored answers")
    place = np.array(
        [[int(row.chosen_id.split("#")[1]), int(row.rejected_id.split("#")[1])] for row in pairs]
    )
    position = numbers["position"]
    assert position["chosen_earlier"]["value"] == pytest.approx((place[:, 0] < place[:, 1]).mean())
    assert position["chosen"]["first"] == (place[:, 0] == 0).mean()
    assert position["rejected"]["last"] == (place[:, 1] == 4).mean()
    assert position["by_place"] == {
        str(k): [int((place[:, side] == k).sum()) for side in (0, 1)] for k in range(5)
    }
    assert numbers["counts"]["clips"] == 20 and numbers["counts"]["pairs"] == len(pairs)
    assert json.loads((folder / "audit.json").read_text()) == numbers


def test_scores_that_are_all_length_leave_no_margin_and_warn(tmp_path: Path) -> None:
    questions: dict[str, Sequence[Row]] = {
        f"q{number}": [(f"{number}" + "x" * size, size / 10) for size in (10, 30, 60)]
        for number in range(12)
    }
    numbers = audited(make_run(tmp_path, questions))
    assert numbers["length"]["chosen_longer"] == {"value": 1.0, "ci": [1.0, 1.0]}
    assert (
        numbers["length"]["margin"]["value"] == 5
        and abs(numbers["length"]["residual_margin"]["value"]) < 1e-9
    )
    assert numbers["length"]["score_per_100_characters"]["value"] == pytest.approx(10)
    assert numbers["warnings"][0] == "chosen answers are the longer ones in 100% of the pairs"
    assert "more than half of the margin goes with length" in numbers["warnings"][2]


def test_drops_duplicates_samplers_and_pairs_per_question_are_counted(tmp_path: Path) -> None:
    """Twelve questions of three answers, one a repetition, and one question whose answers tie."""
    questions: dict[str, Sequence[Row]] = {
        f"q{number}": [("good", 4.0), ("Good!", 4.0), ("bad", 1.0)] for number in range(12)
    }
    questions["tie"] = [("good", 2.0), ("bad", 2.0)]
    folder = make_run(tmp_path, questions, **{"2": {"model": "other"}})
    (folder / "cleaned.jsonl").write_text(
        json.dumps({"unit": "sample", "reason": "refusal"}) + "\n"
    )
    numbers = audited(folder)
    assert numbers["counts"]["pairs_per_question"] == {"0": 1, "1": 12}
    assert numbers["counts"]["dropped"] == {
        "question": {"tie": 1},
        "answer": {"duplicate": 12},
        "pair": {"tie": 1},
    }
    assert numbers["counts"]["cleaned"] == {"sample": {"refusal": 1}, "answer": {}}
    assert numbers["duplicates"] == {"answers": 12, "judged_once_for_several": 0, "pairs": 6}
    assert numbers["samplers"]["m"] == {
        "chosen": 12,
        "rejected": 0,
        "share_chosen": {"value": 1.0, "ci": [1.0, 1.0]},
    }
    assert numbers["samplers"]["other"]["share_chosen"]["value"] == 0
    assert "6 pairs repeat an earlier pair" in numbers["warnings"][-1]


def test_pairs_without_candidates_are_audited_by_themselves(tmp_path: Path) -> None:
    """Imported pairs: no candidates, no judgments, ids without a place."""
    made = make_run(tmp_path, random_questions(10))
    pairs = [
        replace(row, chosen_id=f"a{number}", rejected_id=f"b{number}", implicit_margin=number - 2.5)
        for number, row in enumerate(read_jsonl(made / "pairs.jsonl", Pair))
    ]
    folder = tmp_path / "imported"
    write_jsonl(folder / "pairs.jsonl", pairs)
    numbers = audited(folder)
    assert numbers["position"] == {"n": 0} and numbers["samplers"] == {}
    assert (numbers["length"]["fitted_on"], numbers["length"]["answers"]) == (
        "pairs",
        2 * len(pairs),
    )
    assert numbers["margin"]["implicit"]["wrongly_ranked"] == 3 / len(pairs)


def test_a_run_without_pairs_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("")
    with pytest.raises(
        UserError, match=r"nothing to audit. Make them first: dpo-video pair RECIPE"
    ):
        audit(tmp_path)
    with pytest.raises(UserError, match=r"no pairs\.jsonl in"):
        audit(tmp_path / "nowhere")


class Page(HTMLParser):
    """Counts tags and keeps what a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.opened: list[str] = []
        self.bars = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        self.bars += tag == "rect"
        if tag not in ("meta", "line", "rect") or self.get_starttag_text()[-2:] != "/>":  # type: ignore[index]
            self.opened += [] if tag in ("meta",) else [tag]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag


def test_the_command_prints_the_table_and_writes_a_page_that_fetches_nothing(
    tmp_path: Path,
) -> None:
    folder = make_run(
        tmp_path, random_questions(20, seed=3), **{"0": {"model": "<script>alert(1)</script>"}}
    )
    done = CliRunner().invoke(app, ["audit", str(folder)])
    assert done.exit_code == 0, done.output
    assert re.search(r"chosen answer is the longer one +\d+\.\d % \[", done.output)
    printed = CliRunner().invoke(app, ["audit", str(folder), "--json"]).stdout
    assert json.loads(printed) == json.loads((folder / "audit.json").read_text())
    text = (folder / "audit.html").read_text()
    page = Page()
    page.feed(text)
    assert page.opened == [] and page.fetched == [] and page.bars > 20
    assert (
        "http" not in text.replace("http-equiv", "")
        and "<script" not in text
        and "&lt;script&gt;" in text
    )


def test_histograms_hold_every_value_once() -> None:
    found = histogram({"a": [1.0, 2.0, 2.0, 9.0], "b": [5.0]})
    assert sum(found.series["a"]) == 4 and sum(found.series["b"]) == 1
    assert found.edges[0] == 1 and found.edges[-1] == 9
    assert histogram({"a": [3.0, 3.0]}).series == {"a": [2]}


def test_weighted_correlation_and_slope_are_those_of_repeated_rows() -> None:
    chance = np.random.default_rng(0)
    values, weights = chance.normal(size=(9, 2)), chance.integers(0, 4, (5, 9))
    for row, correlation, slope in zip(
        weights,
        weighted_correlation(values, weights.astype(float)),
        weighted_slope(values, weights.astype(float)),
        strict=True,
    ):
        many = np.repeat(values, row, axis=0)
        assert correlation == pytest.approx(np.corrcoef(many.T)[0, 1])
        assert slope == pytest.approx((many[:, 0] @ many[:, 1]) / (many[:, 0] @ many[:, 0]))
    constant = np.ones((1, 4))
    assert np.isnan(weighted_correlation(np.ones((4, 2)), constant)).all()
    assert np.isnan(weighted_slope(np.array([[0.0, 1.0]] * 4), constant)).all()


def test_what_no_data_define_is_a_dash(tmp_path: Path) -> None:
    """Answers of one length have no slope and no correlation of score and length; they said 0."""
    questions: dict[str, Sequence[Row]] = {
        f"q{number}": [("good!", 4.0), ("bad!!", 1.0)] for number in range(8)
    }
    folder = make_run(tmp_path, questions)
    length = audited(folder)["length"]
    for name in (
        "score_correlation",
        "score_correlation_within_questions",
        "score_per_100_characters",
    ):
        assert length[name] == {"value": None, "ci": None}
    assert length["residual_margin"]["value"] == length["margin"]["value"] == 3
    done = CliRunner().invoke(app, ["audit", str(folder)])
    assert re.search(r"correlation of score and length +- *\n", done.output), done.output


def test_shares_of_places_are_over_the_answers_whose_place_is_known(tmp_path: Path) -> None:
    """Two pairs of a run beside three imported ones without places; and without candidates nothing
    is known to be the last.
    """
    questions: dict[str, Sequence[Row]] = {
        name: [("good one", 4.0), ("bad", 1.0)] for name in ("q", "r")
    }
    folder = make_run(tmp_path, questions)
    pairs = list(read_jsonl(folder / "pairs.jsonl", Pair))
    imported = [
        replace(pairs[0], sample_id=f"i{n}", chosen_id=f"a{n}", rejected_id=f"b{n}")
        for n in range(3)
    ]
    write_jsonl(folder / "pairs.jsonl", [*pairs, *imported])
    position = audited(folder)["position"]
    assert position["n"] == 2
    assert position["chosen"] == {"first": 1.0, "last": 0.0}
    assert position["rejected"] == {"first": 0.0, "last": 1.0}
    (folder / "candidates.jsonl").unlink()
    position = audited(folder)["position"]
    assert position["rejected"] == {"first": 0.0, "last": None}
    done = CliRunner().invoke(app, ["audit", str(folder)])
    assert re.search(r"last answer is chosen / rejected +- / -", done.output), done.output


def test_a_damaged_file_of_drops_is_told_by_its_line(tmp_path: Path) -> None:
    folder = make_run(tmp_path, {"q": [("good one", 4.0), ("bad", 1.0)]})
    (folder / "drops.jsonl").write_text("\n{")
    with pytest.raises(UserError, match=r"drops\.jsonl:2: not JSON"):
        audit(folder)
