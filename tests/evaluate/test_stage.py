"""The evaluate stage with real tiny models, clips, adapter and HTTP; every number recomputed from
the answers.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_runs import (
    HELDOUT,
    PAIRWISE,
    TRAIN,
    greedy_answers,
    judge_score,
    opened,
    recipe_for,
)
from judge_server import steady_score
from tiny_judge import write_scorer

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Sample
from dpo_video.evaluate.metrics import normalise_answer
from dpo_video.evaluate.stage import evaluate
from dpo_video.judge.prompt import render
from dpo_video.judge.scorer import load_scorer
from dpo_video.pipeline import do_stages
from dpo_video.run import Run, StageResult, open_run


def test_the_stage_measures_both_models_on_the_same_questions_and_repeats_nothing(
    world: Path, tmp_path: Path
) -> None:
    """Gold answers are set to what the base model says to two questions and the tuned one to three
    others.
    """
    with opened(world, tmp_path, HELDOUT) as run:
        base, tuned = greedy_answers(run, None), greedy_answers(run, run.folder / "adapter")
    assert base.keys() == tuned.keys() and sum(base[name] != tuned[name] for name in base) >= 4
    gold = {
        name: base[name] if place < 2 else tuned[name] for place, name in enumerate(list(base)[:5])
    }
    heldout = [
        Sample(id=s.id, video=s.video, prompt=s.prompt, caption=s.caption, answer=gold.get(s.id))
        for s in HELDOUT
    ]
    with opened(world, tmp_path, heldout) as run:
        summary = evaluate(run).counts
        metrics = json.loads((run.folder / "metrics.json").read_text())
        stored = [list(run.store.rows(kind)) for kind in ("candidate", "judgment", "reference")]
        evaluate(run)
        again = json.loads((run.folder / "metrics.json").read_text())
        assert [
            list(run.store.rows(kind)) for kind in ("candidate", "judgment", "reference")
        ] == stored
    assert {**again, "seconds": metrics["seconds"]} == metrics
    low, high = metrics["change"]["answer_length_ci"]
    assert summary["length_change"] == {
        "before": metrics["before"]["answer_length"],
        "change": metrics["change"]["answer_length"],
        "low": low,
        "high": high,
    }

    scores: dict[str, list[int]] = {}
    for side, answers in (("before", base), ("after", tuned)):
        right = [
            normalise_answer(answers[name]) == normalise_answer(text) for name, text in gold.items()
        ]
        assert (
            metrics[side]["exact_match"] == pytest.approx(sum(right) / 5)
            and metrics[side]["exact_match_n"] == 5
        )
        assert metrics[side]["answer_length"] == pytest.approx(sum(map(len, answers.values())) / 6)
        low, high = metrics[side]["exact_match_ci"]
        assert 0 <= low <= metrics[side]["exact_match"] <= high <= 1
        scores[side] = [judge_score(sample, answers[sample.id]) for sample in heldout]
        assert metrics[side]["judged_score"] == pytest.approx(sum(scores[side]) / 6)
        assert metrics[side]["judged_score_unscored"] == 0
        assert metrics[side]["hallucination_rate"] == pytest.approx(
            sum(score < 3 for score in scores[side]) / 6
        )
    gaps = [after - before for before, after in zip(scores["before"], scores["after"], strict=True)]
    for name, change in (
        ("exact_match", metrics["after"]["exact_match"] - metrics["before"]["exact_match"]),
        ("judged_score", sum(gaps) / 6),
    ):
        assert metrics["change"][name] == pytest.approx(change)
    judged = metrics["judged"]
    assert [judged[name] for name in ("win", "tie", "loss", "unscored", "n", "tie_margin")] == [
        sum(gap >= 1 for gap in gaps),
        sum(gap == 0 for gap in gaps),
        sum(gap <= -1 for gap in gaps),
        0,
        6,
        1,
    ]
    assert judged["judge"] == "steady" and judged["scorer"].startswith("hound_quality@")
    assert metrics["heldout"] == {"samples": 6, "clips": 3, "unanswered": 0}
    pairs = metrics["heldout_pairs"]
    assert pairs["questions"]["in"] == 4 and pairs["answers"]["in"] == 16
    assert pairs["n"] == pairs["questions"]["out"] > 0
    assert metrics["seconds"]["evaluate"] > 0
    assert summary["failed"] == 0 and summary["questions"] == 6


def test_a_clip_that_cannot_be_read_leaves_its_questions_unanswered_and_counted(
    world: Path, tmp_path: Path
) -> None:
    broken = Sample(
        id="b", video="missing.mp4", prompt="what happens ?", caption="a dog", answer="x"
    )
    with opened(world, tmp_path, [*HELDOUT[:3], broken], pair_samples=0) as run:
        summary = evaluate(run).counts
        metrics = json.loads((run.folder / "metrics.json").read_text())
        assert list(run.bad_clips) == ["missing.mp4"]
    assert (
        metrics["heldout"] == {"samples": 4, "clips": 3, "unanswered": 1}
        and summary["unanswered"] == 1
    )
    assert metrics["before"]["n"] == metrics["judged"]["n"] == 3
    assert (
        metrics["heldout_pairs"]["n"] == 0 and metrics["heldout_pairs"]["reward_accuracy"] is None
    )


def test_exact_match_with_gold_sentences_stands_in_the_file_only_and_seconds_count_from_the_start(
    world: Path, tmp_path: Path
) -> None:
    """The driver begins a stage before torch is imported for it; so do the stage's own seconds."""
    gold = "A small brown dog runs quickly from the right to the left."
    heldout = [replace(sample, answer=gold) for sample in HELDOUT[:2]]
    with opened(world, tmp_path, heldout, pair_samples=0) as run:
        begun: list[float] = []

        def late(run: Run) -> StageResult:
            begun.append(run.stage_began)
            return evaluate(replace(run, stage_began=run.stage_began - 1000))

        do_stages(run, ["evaluate"], instead={"evaluate": late})
        metrics = json.loads((run.folder / "metrics.json").read_text())
        assert begun[0] > run.stage_began and metrics["seconds"]["evaluate"] > 1000
        counts = run.store.finished("evaluate")["summary"]  # type: ignore[index]
    assert metrics["exact_match_hidden"].startswith("the gold answers are sentences, of 12 words")
    assert metrics["before"]["exact_match"] == 0
    assert list(counts["before"]) == ["judged_score", "hallucination_rate", "answer_length"]


def test_nothing_held_out_is_an_error_that_says_what_to_give(world: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", TRAIN)
    recipe = recipe_for(world, tmp_path)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"heldout": None})})
    with (
        open_run(recipe) as run,
        pytest.raises(UserError, match=r"nothing to evaluate on: data\.heldout is not set"),
    ):
        evaluate(run)


def test_a_pairwise_scorer_compares_before_with_after_in_both_orders(
    world: Path, tmp_path: Path
) -> None:
    """The expected preference of each question is recomputed from the server's rule for both
    prompts.
    """
    scorer = load_scorer(str(write_scorer(tmp_path, PAIRWISE, name="five")))

    def better(sample: Sample, first: str, second: str) -> float:
        (message,) = render(
            scorer, caption=sample.caption, question=sample.prompt, answer=first, other=second
        )
        return 1 - (steady_score(message["content"]) - 1) / 4

    with opened(world, tmp_path, HELDOUT, pairwise_scorer=str(scorer.path), pair_samples=0) as run:
        base, tuned = greedy_answers(run, None), greedy_answers(run, run.folder / "adapter")
        evaluate(run)
        found = json.loads((run.folder / "metrics.json").read_text())["compared"]
    orders = [
        (0.5, 0.5)
        if base[s.id] == tuned[s.id]
        else (better(s, tuned[s.id], base[s.id]), 1 - better(s, base[s.id], tuned[s.id]))
        for s in HELDOUT
    ]
    assert found["scorer"] == scorer.version
    assert found["n"] == len(HELDOUT) == found["win"] + found["tie"] + found["loss"]
    assert found["win"] == sum(min(pair) > 0.5 for pair in orders)
    assert found["loss"] == sum(max(pair) < 0.5 for pair in orders)
    assert found["better_probability"] == pytest.approx(sum(map(sum, orders)) / 2 / len(orders))


def test_a_damaged_adapter_is_refused_before_anything_is_answered(
    world: Path, tmp_path: Path
) -> None:
    with opened(world, tmp_path, HELDOUT[:1]) as run:
        adapter = run.folder / "adapter"
        adapter.unlink()
        shutil.copytree(world / "adapter", adapter)
        (adapter / "adapter_config.json").write_text("{")
        with pytest.raises(UserError, match=r"adapter' is damaged: adapter_config\.json"):
            evaluate(run)
        assert list(run.store.rows("candidate")) == []
