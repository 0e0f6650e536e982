"""Several judges: a jury's standardised mean, a cascade's escalations, warnings about related
models.
"""

import json
import math
from contextlib import ExitStack
from statistics import fmean, pstdev

import pytest
from judge_server import Answer, completion, failure, judge_server, make_items

from dpo_video.core.errors import UserError
from dpo_video.core.records import Judgment
from dpo_video.judge.modes.cascade import confidence
from dpo_video.judge.modes.jury import family_warnings, vendor_of
from dpo_video.judge.modes.registry import calls_per_sample
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.stage import judge_candidates
from dpo_video.recipe import JudgeSettings
from dpo_video.recipe.file import load_recipe
from dpo_video.store import RunStore

SCORE = load_scorer("caption_score")
ITEMS = make_items(1, 4)
STRICT = {"it is a 0": 1.0, "it is a 1": 1.5, "it is a 2": 2.0, "it is a 3": 1.5}
MILD = {"it is a 0": 4.0, "it is a 1": 3.0, "it is a 2": 5.0, "it is a 3": 4.0}
WIDE = {"it is a 0": 1.0, "it is a 1": 5.0, "it is a 2": 3.0, "it is a 3": 3.0}


def answer_of(prompt: str) -> str:
    return next(line[2:] for line in prompt.splitlines() if line.startswith("> "))


def labels(**chances: float) -> Answer:
    top = {label.strip("_"): math.log(chance) for label, chance in chances.items()}
    return completion(f"Score: {max(top, key=top.__getitem__)}", top=top)


def scored(score: float) -> Answer:
    """Return a reply whose label probabilities have this mean, on the two labels around it."""
    low = min(int(score), 4)
    return labels(
        **{f"_{low}": max(low + 1 - score, 1e-12), f"_{low + 1}": max(score - low, 1e-12)}
    )


def by_table(table):
    return lambda prompt, attempt: scored(table[answer_of(prompt)])


def settings(url, **changes):
    return JudgeSettings(
        **{"backend": "openai", "model": "own", "base_url": url, "retries": 0} | changes
    )


def judged_with_counts(folder, given, items=ITEMS, scorer=SCORE):
    with RunStore(folder) as store:
        return judge_candidates(given, scorer, items, store)


def judged(folder, given, items=ITEMS, scorer=SCORE):
    return judged_with_counts(folder, given, items, scorer).judgments


@pytest.fixture
def servers():
    """Start a server for each way to answer that a test asks for."""
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(judge_server(answer))


def jury_of(servers, *answers):
    """Return a jury's settings, and its servers; the first judge is the section's own."""
    started = [servers(answer) for answer in answers]
    others = [
        {"model": f"judge{k}", "base_url": one.url} for k, one in enumerate(started[1:], start=2)
    ]
    return settings(started[0].url, jury=[{}, *others]), started


def test_a_jury_averages_standardised_scores_on_the_scorers_scale(tmp_path, servers):
    given, started = jury_of(servers, by_table(STRICT), by_table(MILD), by_table(WIDE))
    rows = judged(tmp_path, given)
    tables = (STRICT, MILD, WIDE)
    means, spreads = [fmean(t.values()) for t in tables], [pstdev(t.values()) for t in tables]
    for _, candidate in ITEMS:
        row, text = rows[candidate.id], candidate.text
        standard = [(t[text] - m) / s for t, m, s in zip(tables, means, spreads, strict=True)]
        assert row.score == pytest.approx(fmean(means) + fmean(spreads) * fmean(standard), abs=1e-4)
        assert row.details["dispersion"] == pytest.approx(pstdev(standard), abs=1e-4)
        assert row.details["judges"] == pytest.approx(
            {"own": STRICT[text], "judge2": MILD[text], "judge3": WIDE[text]}, abs=1e-4
        )
        assert (row.judge, row.status) == ("own + judge2 + judge3", "scored")
    assert [len(one.requests) for one in started] == [4, 4, 4]
    assert judged(tmp_path, given) == rows
    assert [len(one.requests) for one in started] == [4, 4, 4], (
        "every judge's replies are stored and paid once"
    )


def test_a_judge_who_says_the_same_of_everything_moves_nothing(tmp_path, servers):
    given, _ = jury_of(servers, by_table(MILD), lambda *_: labels(_3=1.0))
    rows = judged(tmp_path, given)
    order = sorted(rows.values(), key=lambda row: row.score)
    assert (order[0].candidate_id, order[-1].candidate_id) == ("s0#1", "s0#2")


def test_a_jury_needs_a_majority_of_scores(tmp_path, servers):
    """Answer 0 has no verdict from one of three judges, answer 1 from two."""

    def mute(*texts):
        return lambda prompt, attempt: (
            completion("Score: x", top={"x": 0.0})
            if answer_of(prompt) in texts
            else scored(MILD[answer_of(prompt)])
        )

    given, _ = jury_of(servers, by_table(MILD), mute("it is a 1"), mute("it is a 0", "it is a 1"))
    rows = judged(tmp_path, given)
    assert (rows["s0#0"].status, rows["s0#0"].details["judges"]["judge3"]) == ("scored", None)
    assert (rows["s0#1"].score, rows["s0#1"].status) == (None, "unscored")
    assert "no majority of the jury: 1 of 3" in rows["s0#1"].reason


def test_a_candidate_that_one_judge_failed_on_is_tried_again(tmp_path, servers):
    given, started = jury_of(servers, by_table(MILD), lambda *_: failure(500, "no memory"))
    rows = judged(tmp_path, given)
    assert {row.status for row in rows.values()} == {"failed"}
    assert rows["s0#0"].reason.endswith("(judge2)")
    started[1].answer = by_table(STRICT)
    assert {row.status for row in judged(tmp_path, given).values()} == {"scored"}
    assert [len(one.requests) for one in started] == [4, 8]


def test_a_jury_works_with_claims_and_pairwise_scorers_too(tmp_path, servers):
    def better(prompt, attempt):
        return completion("Verdict: A", top={"A": math.log(0.8), "B": math.log(0.2)})

    given, _ = jury_of(servers, better, better)
    rows = judged(tmp_path, given, scorer=load_scorer("caption_pairwise"))
    assert [row.score for row in rows.values()] == pytest.approx([0.5] * 4), (
        "position alone decides nothing"
    )


def unsure(prompt: str, attempt: int) -> Answer:
    """Give answers 0 and 1 a clear score, answer 2 an unclear one, answer 3 none."""
    text = answer_of(prompt)
    if text == "it is a 3":
        return completion("Score: x", top={"x": 0.0})
    return labels(_1=0.4, _5=0.6) if text == "it is a 2" else labels(_4=0.95, _5=0.05)


def test_a_cascade_escalates_what_the_first_judge_is_unsure_of(tmp_path, servers):
    first, own = servers(unsure), servers(by_table(STRICT))
    given = settings(own.url, cascade={"model": "cheap", "base_url": first.url, "below": 0.7})
    rows, counts = judged_with_counts(tmp_path, given)
    assert (len(first.requests), len(own.requests), counts["escalated"], counts["asked"]) == (
        4,
        2,
        2,
        6,
    )
    assert [row.judge for row in rows.values()] == ["cheap", "cheap", "own", "own"]
    assert [row.score for row in rows.values()] == pytest.approx([4.05, 4.05, 2.0, 1.5], abs=1e-4)
    facts = {"escalated": True, "first_score": 3.4, "first_confidence": 0.6}
    assert rows["s0#2"].details == pytest.approx(facts, abs=1e-6)
    assert rows["s0#3"].details == {"escalated": True, "first_score": None, "first_confidence": 0.0}
    assert not rows["s0#0"].details["escalated"]
    judged(tmp_path, given)
    assert (len(first.requests), len(own.requests)) == (4, 2)
    judged(
        tmp_path,
        settings(own.url, cascade={"model": "cheap", "base_url": first.url, "below": 0.99}),
    )
    assert (len(first.requests), len(own.requests)) == (4, 4), (
        "another threshold pays for the newly unsure alone"
    )


def test_the_confidence_of_claims_is_that_of_the_least_sure_one():
    row = Judgment(
        candidate_id="a",
        scorer="s",
        judge="j",
        score=0.5,
        status="scored",
        reason="",
        reply="",
        claims=[{"distribution": {"A": 0.9, "B": 0.1}}, {"distribution": {"A": 0.45, "B": 0.55}}],
    )
    assert confidence(row) == 0.55


@pytest.mark.parametrize("scorer", ["hound_quality", "caption_pairwise"])
def test_a_cascade_needs_label_probabilities_of_one_answer(tmp_path, scorer):
    given = settings("http://localhost:9/v1", cascade={"model": "cheap"})
    with pytest.raises(
        UserError, match=rf"judge\.cascade needs label probabilities.*scorer '{scorer}' gives none"
    ):
        judged(tmp_path, given, scorer=load_scorer(scorer))


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ({"jury": [{}, {"modl": "x"}]}, r"unknown key `jury\[1\]\.modl`. Did you mean 'model'"),
        (
            {"jury": [{}, {"temperature": -1}]},
            r"`jury\[1\]\.temperature`: .*greater than or equal to 0, got -1",
        ),
        (
            {"jury": [{}, {"scorer": "x"}]},
            r"`jury\[1\]\.scorer` cannot differ: all judges use one `scorer`",
        ),
        ({"jury": [{}]}, "at least 2 item"),
        ({"cascade": {"model": "x", "jury": [{}, {}]}}, r"`cascade\.jury` cannot differ"),
        ({"cascade": {"model": "x", "below": 0}}, "greater than 0"),
        ({"cascade": {"model": "x", "batch_sise": 2}}, r"`cascade\.batch_sise`"),
        ({"jury": [{}, {}], "cascade": {"model": "x"}}, "`jury` and `cascade` are two ways"),
    ],
)
def test_a_wrong_jury_or_cascade_is_refused_when_the_recipe_is_read(tmp_path, judge, message):
    recipe = {
        "name": "r",
        "model": {"name": "m"},
        "data": {"samples": "s.jsonl"},
        "judge": {"model": "m", **judge},
    }
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps(recipe))
    with pytest.raises(UserError, match=message) as caught:
        load_recipe(str(path), [])
    assert "\n" not in str(caught.value)


def test_each_juror_has_the_sections_settings_but_its_own_keys():
    given = JudgeSettings(
        backend="local", model="a", temperature=0.5, jury=[{}, {"model": "b", "temperature": 0.0}]
    )
    assert given.overridden({}) == JudgeSettings(backend="local", model="a", temperature=0.5)
    assert given.overridden(given.jury[1]) == JudgeSettings(
        backend="local", model="b", temperature=0.0
    )
    again = JudgeSettings.model_validate(json.loads(given.model_dump_json()))
    assert again == given


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen"),
        ("Qwen/QwQ-32B", "qwen"),
        ("toy:qwen2_5_vl", "qwen"),
        ("toy:judge", "toy"),
        ("gpt-4.1-mini", "gpt"),
        ("o3-mini", "gpt"),
        ("meta-llama/Llama-3.1-8B", "llama"),
        ("lmsys/vicuna-7b-v1.5", "llama"),
        ("mistralai/Mixtral-8x7B", "mistral"),
        ("OpenGVLab/InternVL3-8B", "internlm"),
        ("google/gemini-2.0-flash", "gemma"),
        ("llava-hf/LLaVA-NeXT-Video-7B-hf", "llava"),
        ("llava-hf/llava-interleave-qwen-7b-hf", "qwen"),
        ("acme/zephyr-7b", "zephyr"),
    ],
)
def test_the_family_of_a_model_by_its_name(model, family):
    assert vendor_of(model) == family


def test_a_local_folder_says_its_family_itself(tmp_path):
    config = {"model_type": "qwen2_5_vl", "text_config": {"model_type": "qwen2"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert vendor_of(str(tmp_path)) == "qwen"


def test_every_judge_of_the_policys_family_is_named():
    lone = JudgeSettings(model="Qwen/Qwen2.5-32B-Instruct")
    assert len(family_warnings(lone, "Qwen/Qwen2.5-VL-7B-Instruct")) == 1
    assert family_warnings(lone, "llava-hf/LLaVA-NeXT-Video-7B-hf") == []
    jury = JudgeSettings(
        model="gpt-4.1", jury=[{}, {"model": "Qwen/Qwen3-8B"}, {"model": "gemma-3"}]
    )
    lines = family_warnings(jury, "Qwen/Qwen2.5-VL-7B-Instruct")
    assert len(lines) == 1
    assert "'Qwen/Qwen3-8B'" in lines[0]
    cascade = JudgeSettings(model="gpt-4.1", cascade={"model": "Qwen/Qwen3-1.7B"})
    assert "'Qwen/Qwen3-1.7B'" in family_warnings(cascade, "Qwen/Qwen2.5-VL-7B-Instruct")[0]


@pytest.mark.parametrize(
    ("scorer", "changes", "calls"),
    [
        ("caption_score", {}, 5),
        ("caption_score", {"jury": [{}, {"model": "b"}, {"model": "c"}]}, 15),
        ("caption_score", {"cascade": {"model": "b"}}, 10),
        ("caption_pairwise", {}, 20),
        ("caption_pairwise", {"opponents": 2}, 10),
        ("caption_claims", {}, 50),
        ("caption_claims", {"split_claims": "sentences"}, 45),
    ],
)
def test_the_estimate_of_calls_knows_the_mode(scorer, changes, calls):
    """5 answers: 10 pairs in two orders, a ring of 5; a list, 8 claims and coverage each."""
    assert calls_per_sample(JudgeSettings(model="a", **changes), load_scorer(scorer), 5) == calls
