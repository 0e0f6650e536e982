"""Every scorer that a run will use is asked once before it begins: a judge that cannot do it is met
then.
"""

import pytest
from judge_server import Answer, completion, failure, free_port, judge_server

from dpo_video.core.errors import UserError
from dpo_video.judge.probe import probe_judges, probes_of
from dpo_video.recipe.file import load_recipe
from dpo_video.store import RunStore


def recipe_for(url: str, *overrides: str):
    return load_recipe(
        "quickstart",
        [
            "judge.backend=openai",
            "judge.model=m",
            f"judge.base_url={url}",
            "judge.device=auto",
            "judge.scorer=hound_quality",
            "judge.retries=0",
            "evaluate.hallucination_scorer=caption_support",
            *overrides,
        ],
    )


def able(prompt: str, attempt: int) -> Answer:
    """A judge that writes every verdict, with label probabilities."""
    if "Score" in prompt:
        return completion("Score: 4", top={" 4": -0.1})
    return completion("Verdict: A", top={" A": -0.1})


def test_every_scorer_that_a_run_will_use_is_asked_once_and_never_again(tmp_path):
    with judge_server(able) as server, RunStore(tmp_path) as store:
        recipe = recipe_for(
            server.url,
            "pair.tie_break=caption_pairwise",
            "evaluate.pairwise_scorer=caption_pairwise",
        )
        assert [(probe.where, probe.scorer.name) for probe in probes_of(recipe)] == [
            ("judge.scorer", "hound_quality"),
            ("pair.tie_break", "caption_pairwise"),
            ("evaluate.hallucination_scorer", "caption_support"),
            ("evaluate.pairwise_scorer", "caption_pairwise"),
        ]
        assert probe_judges(recipe, store).warnings == []
        assert len(server.requests) == 3
        assert probe_judges(recipe, store).warnings == []
        assert len(server.requests) == 3


def test_a_judge_of_a_jury_and_the_first_of_a_cascade_are_asked_too():
    jury = recipe_for("http://127.0.0.1:1/v1", "judge.jury=[{}, {model: other}]")
    assert [probe.settings.model for probe in probes_of(jury)] == ["m", "other"] * 2
    cascade = recipe_for(
        "http://127.0.0.1:1/v1", "judge.cascade={model: cheap}", "judge.scorer=caption_score"
    )
    assert [probe.settings.model for probe in probes_of(cascade)] == ["cheap", "m"] * 2


def test_a_server_without_label_probabilities_is_met_before_generate():
    """The judge's own scorer is written; only the one of the evaluation needs them."""
    with (
        judge_server(lambda *_: completion("Score: 4")) as server,
        pytest.raises(
            UserError,
            match=r"evaluate.hallucination_scorer 'caption_support': .* without label probabil",
        ),
    ):
        probe_judges(recipe_for(server.url))


def test_a_server_that_is_away_or_fails_is_told_and_a_reply_without_a_score_is_a_warning(tmp_path):
    with pytest.raises(UserError, match=r"judge.scorer 'hound_quality': cannot reach the judge"):
        probe_judges(recipe_for(f"http://127.0.0.1:{free_port()}/v1"))
    with (
        judge_server(lambda *_: failure(500, "no")) as server,
        pytest.raises(UserError, match=r"judge 'm' does not answer: HTTP 500"),
    ):
        probe_judges(recipe_for(server.url))
    with judge_server(lambda *_: completion("Nice.")) as server, RunStore(tmp_path) as store:
        recipe = recipe_for(server.url, "evaluate.hallucination_scorer=null")
        warnings, latencies = probe_judges(recipe, store)
        (warning,) = warnings
        assert "gave the first prompt no score: no verdict line: 'Nice.'" in warning
        assert len(latencies) == 1 and latencies[0] > 0


def test_a_local_judge_is_known_by_its_labels_without_its_weights():
    recipe = load_recipe("quickstart", [])
    assert probe_judges(recipe) == ([], [])
    with pytest.raises(UserError, match=r"judge.scorer 'caption_score': no judge model 'nosuch'"):
        probe_judges(load_recipe("quickstart", ["judge.model=nosuch"]))
