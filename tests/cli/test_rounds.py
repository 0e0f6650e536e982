"""Several rounds: each from the adapter of the one before, over one store, resumed after kills."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, judge_server
from plain_forwards import plain_answer_logp
from processes import forked_commands
from typer.testing import CliRunner, Result

from dpo_video.cli.app import app, main
from dpo_video.cli.rounds import recipe_of_round, why_stop
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl
from dpo_video.core.records import Candidate, Pair
from dpo_video.data.samples import load_samples
from dpo_video.evaluate.report import read_metrics
from dpo_video.models.load import Policy, load_policy
from dpo_video.recipe import Recipe
from dpo_video.recipe.file import change_recipe, load_recipe
from dpo_video.toy.clips import write_split


def write_data(folder: Path) -> Path:
    """Write toy clips to train on and to evaluate on, with questions about them."""
    write_split("train", folder / "train", num_clips=4, seed=1)
    write_split("heldout", folder / "heldout", num_clips=2, seed=1)
    return folder


def write_recipe(folder: Path, name: str, url: str, **rounds: Any) -> Path:
    """Write a recipe of three rounds whose steps see all pairs each."""
    settings = {
        "name": name,
        "runs_folder": str(folder / "runs"),
        "model": {"name": "toy:qwen2_5_vl", "device": "cpu"},
        "data": {
            "samples": str(folder / "train" / "samples.jsonl"),
            "heldout": str(folder / "heldout" / "samples.jsonl"),
        },
        "video": {"num_frames": 4, "workers": 1},
        "generate": {"num_candidates": 4, "top_p": 1.0, "max_new_tokens": 32, "batch_size": 16},
        "judge": {"backend": "openai", "model": "m", "base_url": url, "retries": 1},
        "pair": {"min_margin": 1.0},
        "train": {
            "batch_size": 64,
            "gradient_accumulation": 1,
            "epochs": 2,
            "learning_rate": 3e-3,
            "save_steps": 1,
            "logging_steps": 1,
            "lora": {"rank": 4, "alpha": 8},
        },
        "evaluate": {
            "max_new_tokens": 32,
            "hallucination_scorer": None,
            "pair_samples": 2,
            "pair_candidates": 2,
            "bootstrap": 50,
        },
        "tracking": {"to": "none"},
        "rounds": {"count": 3, "keep_pairs": True, **rounds},
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(settings))
    return path


def call(*words: object) -> Result:
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, UserError):
        raise done.exception
    return done


@pytest.fixture(scope="module")
def server() -> Iterator[JudgeServer]:
    with judge_server() as opened:
        yield opened


class World:
    """Three rounds that nothing disturbed: two at first, and then one more."""

    def __init__(self, folder: Path, server: JudgeServer) -> None:
        self.folder = write_data(folder)
        self.server = server
        self.path = write_recipe(self.folder, "r", server.url)
        self.recipe = load_recipe(str(self.path))
        self.num_samples = len(load_samples(self.recipe, "samples").samples)
        self.rounds = [self.recipe.run_folder / "rounds" / str(number) for number in (1, 2, 3)]
        self.first_output = call("run", self.path, "rounds.count=2").output
        self.output = call("run", self.path).output
        self.prompts = list(server.prompts)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, server: JudgeServer) -> World:
    return World(tmp_path_factory.mktemp("rounds"), server)


def test_no_text_is_judged_twice_over_three_rounds_and_their_evaluations(world: World) -> None:
    assert len(world.prompts) > 20
    assert Counter(world.prompts).most_common(1)[0][1] == 1
    again = call("run", world.path).output
    assert again.count("finished before, nothing to do") == 15
    assert world.server.prompts == world.prompts


def test_one_more_round_leaves_those_before_as_they_are(world: World) -> None:
    assert world.output.count("finished before, nothing to do") == 10
    assert "round 3 of 3" in world.output and "round 3" not in world.first_output


def test_a_round_samples_with_the_adapter_of_the_one_before_and_repeats_no_draw(
    world: World,
) -> None:
    names: set[str] = set()
    settings: list[set[str]] = []
    for folder in world.rounds:
        candidates = list(read_jsonl(folder / "candidates.jsonl", Candidate))
        assert len(candidates) == 4 * world.num_samples and not names & {
            row.id for row in candidates
        }
        names |= {row.id for row in candidates}
        settings.append({row.settings for row in candidates})
    assert not settings[0] & settings[1] and not settings[1] & settings[2]
    before = [read_metrics(folder / "metrics.json").before for folder in world.rounds]
    after = [read_metrics(folder / "metrics.json").after for folder in world.rounds]
    assert before[1:] == after[:-1], "what a round began with is what the one before ended with"
    assert len({str(metrics) for metrics in (*before, after[-1])}) > 1


def test_pairs_of_earlier_rounds_are_kept_once(world: World) -> None:
    texts = [
        [
            (row.sample_id, row.chosen, row.rejected)
            for row in read_jsonl(folder / "pairs.jsonl", Pair)
        ]
        for folder in world.rounds
    ]
    assert set(texts[0]) < set(texts[1]) < set(texts[2])
    assert all(len(set(rows)) == len(rows) for rows in texts)


def test_the_first_margin_of_each_round_is_that_of_plain_forwards(world: World) -> None:
    """Against the base, from the adapter of the round before."""
    for number in (2, 3):
        recipe = recipe_of_round(world.recipe, number)
        policy = load_policy(recipe.model, adapter=recipe.start_adapter)
        base = load_policy(recipe.model)
        margins = []
        for pair in read_jsonl(recipe.run_folder / "pairs.jsonl", Pair):
            chosen, rejected = (
                plain_logp(policy, recipe, world.folder / "train", pair, answer)
                - plain_logp(base, recipe, world.folder / "train", pair, answer)
                for answer in (pair.chosen, pair.rejected)
            )
            margins.append(recipe.train.beta * (chosen - rejected))
        log = json.loads((recipe.run_folder / "train_log.jsonl").read_text().splitlines()[0])
        assert log["rewards/margins"] == pytest.approx(sum(margins) / len(margins), abs=1e-5)
        assert abs(log["rewards/margins"]) > 1e-4


def plain_logp(policy: Policy, recipe: Recipe, root: Path, pair: Pair, answer: str) -> float:
    """Return log p(answer | clip, question) in nats from one plain forward through pixels; a cut
    answer has no end of turn.
    """
    return plain_answer_logp(
        policy,
        recipe,
        root / str(pair.video),
        question=pair.prompt,
        answer=answer,
        is_cut=answer == pair.rejected and pair.rejected_finish == "length",
    )


def test_every_command_takes_a_round_and_none_the_whole_run(world: World) -> None:
    assert "audit:" in call("audit", world.rounds[1]).output
    assert f"rewards {4 * world.num_samples}" in call("rewards", world.rounds[2]).output
    recipe = world.rounds[1] / "recipe.yaml"
    assert load_recipe(str(recipe)) == recipe_of_round(world.recipe, 2)
    assert "train: finished before" in call("train", recipe).output
    told = call("train", world.path).exception
    assert "has rounds, which `dpo-video run` does" in str(told) and "\n" not in str(told)
    told = call("rewards", world.recipe.run_folder).exception
    assert "has rounds: give the folder of one of them" in str(told)


def test_the_judges_noise_is_measured_once_for_all_rounds(world: World) -> None:
    settings = (
        "name=noisy",
        "rounds.count=2",
        "pair.noise_margins=0.1",
        "data.limit=6",
        "data.heldout_limit=3",
        "train.epochs=1",
        "agree.probes=2",
        "agree.repeats=2",
        "agree.bootstrap=20",
    )
    first = world.recipe.run_folder.with_name("noisy") / "rounds" / "1"
    told = str(call("run", world.path, *settings).exception)
    assert f"takes the judge's noise from '{first / 'agreement.json'}', which is not there" in told
    assert f"dpo-video agree {first}" in told
    call("agree", first)
    output = call("run", world.path, *settings).output
    assert "round 2 of 2" in output
    assert (first.with_name("2") / "adapter").is_dir()
    assert not (first.with_name("2") / "agreement.json").exists()


def test_the_table_has_a_column_a_round(world: World) -> None:
    [heading] = [line for line in world.output.splitlines() if "before   " in line]
    assert heading.split() == ["before", *["round", "1", "round", "2", "round", "3"]]


def test_rounds_end_with_the_verdict_of_the_last_and_hold_what_is_required(world: World) -> None:
    assert world.output.splitlines()[-1].startswith("- heldout:")
    done = CliRunner().invoke(
        app, ["run", str(world.path), "evaluate.require=[heldout.accuracy >= 1.01]"]
    )
    assert done.exit_code == 1


KILLS = ("1/generate", "1/pair", "2/judge", "2/train", "2/evaluate")


class Killed:
    """Two such rounds, killed in every stage; and then what changed settings make of them."""

    def __init__(self, world: World) -> None:
        self.path = write_recipe(world.folder, "killed", world.server.url, count=2)
        self.folder = load_recipe(str(self.path)).run_folder / "rounds"
        self.codes, self.errors = forked_commands(
            *((kill, "run", str(self.path)) for kill in (*KILLS, ""))
        )
        self.files = {
            path.relative_to(self.folder): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.suffix in (".jsonl", ".safetensors") and "checkpoints" not in path.parts
        }


@pytest.fixture(scope="module")
def killed(world: World) -> Killed:
    return Killed(world)


def test_killed_in_every_stage_and_round_it_ends_with_the_same_files(
    world: World, killed: Killed
) -> None:
    assert killed.codes == [-9] * len(KILLS) + [0], killed.errors[-3000:]
    names = ("candidates.jsonl", "judgments.jsonl", "pairs.jsonl", "drops.jsonl")
    for folder in world.rounds[:2]:
        for name in (*names, "adapter/adapter_model.safetensors"):
            resumed = killed.files[Path(folder.name) / name]
            assert resumed == (folder / name).read_bytes(), f"{folder.name}/{name}"


def test_a_changed_setting_redoes_what_it_affects_from_that_round_on(killed: Killed) -> None:
    words = ("run", killed.path, "train.beta=0.3")
    refused = call(*words)
    assert "train.beta (0.1 before, 0.3 now) changed since" in str(refused.exception)
    first, second = call(*words, "--replace").output.split("round 2 of 2")
    assert [line.split(":")[0] for line in first.splitlines() if "finished before" in line] == [
        "generate",
        "judge",
        "pair",
    ]
    assert "finished before" not in second


def test_a_run_stops_after_a_round_that_gained_nothing(killed: Killed) -> None:
    words = ("run", killed.path, "rounds.stop=no_gain", "train.learning_rate=1e-9", "--replace")
    output = call(*words).output
    assert "round 1 changed the judged score by +0.00 [+0.00, +0.00]" in output
    assert "stopping after 1 of 2 rounds" in output and "round 2 of 2" not in output


def test_a_later_round_without_pairs_ends_with_the_numbers_of_those_before_it(
    killed: Killed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("train.learning_rate=1e-9", "rounds.each=[{}, {pair.min_margin: 9}]", "--replace")
    monkeypatch.setattr("sys.argv", ["dpo-video", "run", str(killed.path), *settings])
    with pytest.raises(SystemExit) as ended:
        main()
    output, told = capsys.readouterr()
    assert ended.value.code == 2
    [heading] = [line for line in output.splitlines() if "before   " in line]
    assert heading.split() == ["before", "round", "1"]
    assert output.splitlines()[-1].startswith("- heldout:"), "the verdict of round 1"
    [line] = [line for line in told.splitlines() if line.startswith("dpo-video: ")]
    assert line.startswith("dpo-video: round 2 of 2: no pairs: all ")
    assert "or take another pair.rule. " in line, "what to do"
    assert line.endswith("rounds.count=1 ends the run with it")


def test_a_round_without_a_gain_beyond_its_interval_is_the_last_and_says_what_it_saw(
    world: World,
) -> None:
    stopping = change_recipe(world.recipe, ["rounds.stop=no_gain"])
    metrics = json.loads((world.rounds[0] / "metrics.json").read_text())
    for change, interval, told in (
        (0.5, [0.2, 0.8], ""),
        (0.5, [0.0, 0.8], r"round 1 changed the judged score by +0.50 [+0.00, +0.80], which may"),
        (-0.5, [-0.8, -0.2], "stopping after 1 of 3 rounds"),
        (0.5, None, "[no interval: one clip]"),
    ):
        metrics["change"] |= {"judged_score": change, "judged_score_ci": interval}
        folder = world.folder / "told"
        folder.mkdir(exist_ok=True)
        (folder / "metrics.json").write_text(json.dumps(metrics))
        reason = why_stop(stopping, [folder])
        assert told in reason and bool(told) == bool(reason)
        assert why_stop(world.recipe, [folder]) == "", "it was not asked for"
        assert why_stop(stopping, [folder] * 3) == "", "there is none left to begin"


def test_split_rounds_share_the_clips_out(world: World) -> None:
    split = change_recipe(world.recipe, ["rounds.samples=split", "rounds.count=2"])
    first, second = (
        load_samples(recipe_of_round(split, number), "samples").samples for number in (1, 2)
    )
    every = {sample.id for sample in load_samples(world.recipe, "samples").samples}
    assert {sample.id for sample in (*first, *second)} == every
    assert not {sample.video for sample in first} & {sample.video for sample in second}


def test_rounds_may_have_settings_of_their_own_and_count_their_candidates() -> None:
    """Of `each` only what it names changes; draws go on where the round before ended."""
    each = "rounds.each=[{}, {generate.num_candidates: 2, train.beta: 0.3}, {pair.min_margin: 2}]"
    plain = load_recipe("quickstart", ["rounds.count=3"])
    recipe = change_recipe(plain, [each])
    rounds = [recipe_of_round(recipe, number) for number in (1, 2, 3)]
    assert rounds[0] == recipe_of_round(plain, 1)
    assert [settings.generate.num_candidates for settings in rounds] == [8, 2, 8]
    assert [settings.generate.first_number for settings in rounds] == [0, 8, 10]
    assert [settings.train.beta for settings in rounds] == [0.1, 0.3, 0.1]
    assert [settings.pair.min_margin for settings in rounds] == [1, 1, 2]
    assert change_recipe(recipe, ["rounds.count=2"]).rounds is not None, "some may be left out"


def test_the_rounds_of_temple_are_its_four_magnitudes_each_pulled_to_the_one_before() -> None:
    recipe = load_recipe("temple")
    rounds = [recipe_of_round(recipe, number) for number in (1, 2, 3, 4)]
    assert [settings.generate.magnitude for settings in rounds] == [16, 8, 4, 2]
    starts = [None, *(settings.run_folder / "adapter" for settings in rounds[:3])]
    assert [settings.start_adapter for settings in rounds] == starts
    assert [settings.reference_adapter for settings in rounds] == starts


def test_the_reference_of_a_round_is_that_of_the_first_or_the_round_before(world: World) -> None:
    previous = change_recipe(world.recipe, ["rounds.reference=previous"])
    started = change_recipe(world.recipe, ["model.adapter=sft"])
    before = world.rounds[0] / "adapter"
    assert recipe_of_round(world.recipe, 1).reference_adapter is None
    assert recipe_of_round(world.recipe, 2).reference_adapter is None
    assert recipe_of_round(previous, 2).reference_adapter == before
    assert recipe_of_round(started, 1).start_adapter == Path("sft")
    assert recipe_of_round(started, 2).reference_adapter == Path("sft")
    assert recipe_of_round(started, 2).start_adapter == before


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["rounds.stop=no_gain", "data.heldout=null"],
            "quickstart.yaml: `rounds.stop` no_gain needs",
        ),
        (["data.pairs=pairs.jsonl"], "`data.pairs` are fixed"),
        (["generate.engine=openai"], "what the server holds"),
        (["pair.implicit_rewards=rewards.jsonl"], "a file about those of one run"),
        (["rounds.each=[{train.beta: 1}]"], "`each` has settings for 1 rounds, and `count` is 3"),
        (["rounds.each=[{}, {}, {judge.model: m}]"], "`each` holds 'judge.model'"),
        (["rounds.each=[{}, {}, {train: {beta: 1}}]"], "`each` holds 'train'"),
        (["rounds.each=[{}, {}, {train.lora.rank: 8}]"], "must be the same in all rounds"),
        (
            ["rounds.each=[{}, {}, {train.bta: 1}]"],
            "`rounds.each` of round 3: unknown key `train.bta`. Did you mean 'beta'?",
        ),
        (
            ["rounds.each=[{}, {generate.engine: openai}, {}]"],
            "`rounds.each` of round 2: .*what the server holds",
        ),
    ],
)
def test_rounds_that_cannot_be_are_refused_in_one_line(overrides: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        load_recipe("quickstart", ["rounds.count=3", *overrides])
    assert "\n" not in str(error.value)
