"""Gold labels as people write them: graded or paired, by id or by text, and every way to get a line
wrong.
"""

import json
import re

import pytest
from judge_server import make_items

from dpo_video.agree.gold import LabelTargets, read_gold
from dpo_video.agree.measures import Measure
from dpo_video.agree.requirements import MEASURES, read_requirements, unmet
from dpo_video.core.errors import UserError
from dpo_video.core.report import Estimate
from dpo_video.judge.scorer import load_scorer

HOUND, SUPPORT = load_scorer("hound_quality"), load_scorer("caption_support")
ITEMS = make_items(3, 2)
SINGLE = make_items(4)[3]
KNOWN = LabelTargets(
    samples={sample.id: sample for sample, _ in [*ITEMS, SINGLE]},
    candidates={candidate.id: candidate for _, candidate in [*ITEMS, SINGLE]},
)


def gold_of(tmp_path, *rows, scorer=HOUND):
    path = tmp_path / "gold.jsonl"
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    )
    return read_gold(path, KNOWN, scorer)


def test_grades_by_id_by_text_and_by_a_sample_with_one_candidate(tmp_path):
    gold = gold_of(
        tmp_path,
        {"candidate_id": "s0#1", "score": 4},
        {"sample_id": "s0", "text": "it is a 0", "score": 2},
        "",
        {"sample_id": "s1", "text": "my own words", "score": 1},
        {"sample_id": "s3", "score": 3.5},
    )
    assert gold.scores() == {"s0#1": 4, "s0#0": 2, "s1#gold:my own words": 1, "s3#0": 3.5}
    assert gold.answers["s1#gold:my own words"][1].text == "my own words"
    assert gold.pairs() == [("s0#1", "s0#0", 1)]


def test_labels_are_those_of_the_scorer_or_plain_words(tmp_path):
    rows = [
        {"candidate_id": name, "label": label}
        for name, label in (
            ("s0#0", "Supported"),
            ("s0#1", "b"),
            ("s1#0", "good"),
            ("s1#1", False),
            ("s2#0", True),
        )
    ]
    assert list(gold_of(tmp_path, *rows, scorer=SUPPORT).scores().values()) == [1, 0, 1, 0, 1]
    with pytest.raises(
        UserError, match=r"gold\.jsonl:1: unknown `label` 'suported'\. Did you mean 'supported'\? "
    ):
        gold_of(tmp_path, {"candidate_id": "s0#0", "label": "suported"}, scorer=SUPPORT)


def test_pairs_by_id_and_by_text_of_several_annotators(tmp_path):
    gold = gold_of(
        tmp_path,
        {"chosen_id": "s0#1", "rejected_id": "s0#0", "annotator": "a"},
        {"chosen_id": "s0#1", "rejected_id": "s0#0", "annotator": "b"},
        {"sample_id": "s1", "chosen": "it is a 1", "rejected": "nonsense", "annotator": "a"},
    )
    assert gold.pairs() == [("s0#0", "s0#1", -1), ("s1#1", "s1#gold:nonsense", 1)]
    assert gold.annotators == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"candidate_id": "s0#0", "score": 1}, "{"], "gold.jsonl:2: not JSON"),
        (
            [{"candidate_id": "s0#7", "score": 1}],
            "gold.jsonl:1: no candidate 's0#7' in this run. Did you mean 's0#",
        ),
        (
            [{"candidate_id": "s0#0", "scor": 1}],
            "gold.jsonl:1: unknown field `scor`. Did you mean 'score'?",
        ),
        ([{"candidate_id": "s0#0"}], "gold.jsonl:1: give `score` (a number) or `label`"),
        (
            [{"candidate_id": "s0#0", "score": 1, "label": "good"}],
            "gold.jsonl:1: give `score` (a number) or `label`",
        ),
        (
            [{"candidate_id": "s0#0", "score": "4"}],
            "gold.jsonl:1: `score` must be a number, got '4'",
        ),
        (
            [{"candidate_id": "s0#0", "score": True}],
            "gold.jsonl:1: `score` must be a number, got True",
        ),
        ([{"candidate_id": 3, "score": 1}], "gold.jsonl:1: `candidate_id` must be a string, got 3"),
        ([{"score": 1}], "gold.jsonl:1: missing `candidate_id`, or `sample_id` with `text`"),
        (
            [{"sample_id": "s0", "score": 1}],
            "gold.jsonl:1: sample 's0' has 2 candidates in this run: say which",
        ),
        ([{"sample_id": "s9", "score": 1}], "gold.jsonl:1: no sample 's9' in this run"),
        ([{"candidate_id": "s0#0", "score": 1}] * 2, "gold.jsonl:2: the same label as in "),
        (
            [{"chosen_id": "s0#0", "rejected_id": "s1#0"}],
            "gold.jsonl:1: chosen answers sample 's0', rejected sample 's1'",
        ),
        (
            [{"chosen_id": "s0#0", "rejected_id": "s0#0"}],
            "gold.jsonl:1: chosen and rejected are the same answer",
        ),
        (
            [{"chosen_id": "s0#0", "sample_id": "s0"}],
            "gold.jsonl:1: sample 's0' has 2 candidates in this run: say which by `rejected_id`",
        ),
        (
            [
                {"chosen_id": "s0#0", "rejected_id": "s0#1"},
                {"chosen_id": "s0#1", "rejected_id": "s0#0"},
            ],
            "gold.jsonl:2: the same label as in ",
        ),
        (
            [{"chosen_id": "s0#0", "rejected_id": "s0#1"}, {"candidate_id": "s0#0", "score": 1}],
            "graded and paired labels in one file (first ",
        ),
        ([], "no labels in it"),
    ],
)
def test_a_wrong_line_is_named_with_what_to_do(tmp_path, rows, message):
    with pytest.raises(UserError, match=re.escape(message)):
        gold_of(tmp_path, *rows)


def test_requirements_are_read_and_held_against_the_measures():
    needs = read_requirements("pair_accuracy>=0.75, ece <= 8e-2,noise_sigma<0.3", with_gold=True)
    assert [str(need) for need in needs] == ["pair_accuracy>=0.75", "ece<=0.08", "noise_sigma<0.3"]
    measures = {
        "pair_accuracy": Measure(estimate=Estimate(value=0.75)),
        "ece": Measure(estimate=Estimate(value=0.1)),
        "noise_sigma": Measure(estimate=Estimate(value=None, why_none="no")),
    }
    assert [unmet(need, measures) for need in needs] == [
        "",
        "ece<=0.08 not met: it is 0.1, short by 0.02",
        "noise_sigma<0.3 not met: no",
    ]
    assert unmet(needs[0], {}) == "pair_accuracy>=0.75 not met: not measured here"
    assert read_requirements("", with_gold=False) == []
    for name in MEASURES:
        assert read_requirements(f"{name}>=0", with_gold=True)[0].measure == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "pair_acuracy>=0.7",
            "unknown measure in --require 'pair_acuracy'. Did you mean 'pair_accuracy'?",
        ),
        ("pair_accuracy=0.7", "--require 'pair_accuracy=0.7': write it as measure>=number"),
        ("ece<=1.2.3", "--require 'ece<=1.2.3': '1.2.3' is not a number"),
        ("kappa>0.5", "--require kappa>0.5: kappa is measured against gold labels; give --gold"),
    ],
)
def test_a_wrong_requirement_is_an_error_of_the_user(text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read_requirements(text, with_gold="kappa" not in text)
