"""Every model of the evaluate stage is loaded once, and none where all is stored."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_runs import HELDOUT, PAIRWISE, counted_loads, opened
from tiny_judge import random_judge, write_scorer

from dpo_video.evaluate.stage import evaluate
from dpo_video.recipe import JudgeSettings


def test_each_model_is_loaded_once_and_none_when_all_is_stored(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base answers and samples; the tuned one (base and adapter) answers and scores what was
    sampled, for whatever pairs the judge will make of it.
    """
    base, adapter = "AutoModelForImageTextToText", "PeftModel"
    with opened(world, tmp_path, HELDOUT) as run, counted_loads(monkeypatch) as loads:
        evaluate(run)
        assert loads == [base, base, adapter]
        first = (run.folder / "metrics.json").read_text()
        loads.clear()
        evaluate(run)
        assert loads == []
        again = json.loads((run.folder / "metrics.json").read_text())
        assert {**again, "seconds": 0} == {**json.loads(first), "seconds": 0}
        assert again["heldout_pairs"]["margin_n"] == again["heldout_pairs"]["n"] > 0
    other = opened(world, tmp_path, HELDOUT, pair_samples=6)
    with other as run, counted_loads(monkeypatch) as loads:
        evaluate(run)
        assert loads == [base, base, adapter], "two more samples to draw answers for and to score"
    rule = opened(world, tmp_path, HELDOUT, pair_samples=6)
    with rule as run, counted_loads(monkeypatch) as loads:
        pairing = run.recipe.pair.model_copy(update={"rule": "all_pairs"})
        evaluate(replace(run, recipe=run.recipe.model_copy(update={"pair": pairing})))
        assert loads == [], "other pairs of answers whose rewards are stored"


def test_a_local_judge_is_loaded_once_for_scores_ties_and_comparisons(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairwise = write_scorer(tmp_path, PAIRWISE, name="five")
    with opened(world, tmp_path, HELDOUT, pairwise_scorer=str(pairwise)) as run:
        judge = JudgeSettings(model=str(random_judge(tmp_path / "judge")), backend="local")
        pairing = run.recipe.pair.model_copy(
            update={"rule": "best_worst", "min_margin": 9.0, "tie_break": str(pairwise)}
        )
        recipe = run.recipe.model_copy(update={"judge": judge, "pair": pairing})
        with counted_loads(monkeypatch) as loads:
            evaluate(replace(run, recipe=recipe))
            assert loads.count("AutoModelForCausalLM") == 1
