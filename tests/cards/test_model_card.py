"""Cards: the hub's library reads them, their numbers are those of metrics.json, and what is not
known is said.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from card_runs import evaluate_run, make_card_run, run_of
from example_metrics import metrics
from huggingface_hub import ModelCard

from dpo_video.cards.facts import read_facts
from dpo_video.cards.model_card import model_card, renew_documents
from dpo_video.core.seal import CARD, RECIPE, broken_seal
from dpo_video.evaluate.report import write_metrics
from dpo_video.models.adapter import adapter_damage
from dpo_video.models.served import NAMES_OF_LAYERS, NOTED
from dpo_video.recipe.file import change_recipe, load_recipe
from dpo_video.run import recipe_of
from dpo_video.store import content_hash


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_card_run(tmp_path, license="apache-2.0", clips_license="cc-by-4.0", language=["en"])


def test_a_card_without_an_evaluation_says_so_and_has_no_numbers(run: Path) -> None:
    text = model_card(read_facts(run), "adapter", source="org/x")
    data = ModelCard(text).data
    assert data.eval_results is None and "model-index" not in text
    assert "was not evaluated" in text and "| before | after |" not in text


def test_the_hub_reads_what_metrics_json_holds(run: Path) -> None:
    evaluate_run(run)
    text = model_card(read_facts(run), "adapter", source="org/x")
    data = ModelCard(text).data
    stored = json.loads((run / "metrics.json").read_text())
    told = {result.metric_type: result for result in data.eval_results}
    assert set(told) == {"exact_match", "judged_score", "hallucination_rate", "answer_length"}
    for name, result in told.items():
        assert result.metric_value == stored["after"][name]
        assert result.metric_args == {
            "interval_95": stored["after"][f"{name}_ci"],
            "before": stored["before"][name],
            "before_interval_95": stored["before"][f"{name}_ci"],
            "change": stored["change"][name],
            "change_interval_95": stored["change"][f"{name}_ci"],
            "n": stored["change"][f"{name}_n"],
        }
    assert data.base_model == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert data.base_model_relation == "adapter"
    assert (data.library_name, data.pipeline_tag) == ("peft", "video-text-to-text")
    assert {"dpo", "video", "lora"} <= set(data.tags)
    assert (data.license, data.language) == ("apache-2.0", ["en"])
    low, high = stored["before"]["exact_match_ci"]
    assert f"| 25.0 % [{100 * low:.1f}, {100 * high:.1f}] | 75.0 % [" in text
    assert "cc-by-4.0" in text


def test_numbers_of_another_adapter_are_not_told(run: Path) -> None:
    write_metrics(run / "metrics.json", replace(metrics(), adapter="0" * 64))
    text = model_card(read_facts(run), "adapter", source="org/x")
    assert "of an earlier adapter" in text and "model-index" not in text


def test_a_measure_that_fell_stands_among_the_regressions(run: Path) -> None:
    """Before and after change places: three of four right before, one of four after."""
    better = metrics()
    change = better.change
    fell = replace(change.exact_match, value=-0.5, interval=(-0.75, -0.25))
    worse = replace(
        better,
        before=better.after,
        after=better.before,
        change=replace(change, exact_match=fell),
        adapter=content_hash(run / "adapter"),
    )
    write_metrics(run / "metrics.json", worse)
    text = model_card(read_facts(run), "adapter", source="org/x")
    section = text.split("## Regressions")[1].split("##")[0]
    assert "exact match: 75.0 %" in section and "-50.0 pts [-75.0, -25.0]" in section


def test_a_measured_judge_is_told_with_its_interval(run: Path) -> None:
    measure = {"value": 0.81, "ci": [0.75, 0.86], "n": 120, "unscored": 0}
    (run / "agreement.json").write_text(
        json.dumps({"measures": {"pair_accuracy": measure}, "gold": {"pairs": 120}})
    )
    text = model_card(read_facts(run), "adapter", source="org/x")
    assert "81.0 % [75.0, 86.0] | 120 |" in text and "it was not measured" not in text


def test_a_renewed_card_leaves_the_adapter_what_it_was(run: Path) -> None:
    adapter = run / "adapter"
    before = content_hash(adapter)
    renew_documents(run_of(run), "train")
    first = (adapter / CARD).read_text()
    evaluate_run(run)
    renew_documents(run_of(run), "evaluate")
    assert "was not evaluated" in first and "model-index" in (adapter / CARD).read_text()
    assert broken_seal(adapter) is None and adapter_damage(adapter) is None
    assert content_hash(adapter) == before
    assert load_recipe(str(adapter / RECIPE)) == recipe_of(run)
    (adapter / "adapter_config.json").write_text("{}")
    assert content_hash(adapter) != before and broken_seal(adapter) is not None


def test_the_base_of_a_folder_is_named_by_the_recipe(tmp_path: Path) -> None:
    run = make_card_run(tmp_path, base_model="org/base")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["recipe"]["model"]["name"] = str(tmp_path)
    (run / "manifest.json").write_text(json.dumps(manifest))
    text = model_card(read_facts(run), "merged", source="org/x")
    assert ModelCard(text).data.base_model == "org/base" and str(tmp_path) not in text
    assert ModelCard(text).data.base_model_relation == "finetune"


def test_a_card_tells_how_an_adapter_is_served_or_why_it_is_not(run: Path) -> None:
    """One of experts can be served merged alone."""
    facts = read_facts(run)
    text = model_card(facts, "adapter", source="org/x")
    assert "\nvllm serve Qwen/Qwen2.5-VL-3B-Instruct --enable-lora " in text
    assert "tuned=org/x" in text and "No server takes it" not in text
    experts = replace(facts, recipe=change_recipe(facts.recipe, ["train.lora.experts=true"]))
    text = model_card(experts, "adapter", source="org/x")
    assert "No server takes it beside its base, as no server was seen to read PEFT's" in text
    assert "```bash" not in text
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"]["train"] = {"summary": {NOTED: NAMES_OF_LAYERS}}
    (run / "manifest.json").write_text(json.dumps(manifest))
    text = model_card(read_facts(run), "adapter", source="org/x")
    assert "as its layers have names of this package" in text and "```bash" not in text
    text = model_card(experts, "merged", source="org/x")
    assert "\nvllm serve org/x --served-model-name tuned " in text
