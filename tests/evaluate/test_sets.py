"""Sets of questions beside data.heldout, with real tiny models and clips."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluation_runs import HELDOUT, TRAIN, counted_loads, opened, recipe_for

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Sample
from dpo_video.evaluate.answer_rows import read_evaluated
from dpo_video.evaluate.answers import choices_of
from dpo_video.evaluate.questions import asked_prompt
from dpo_video.evaluate.stage import evaluate
from dpo_video.models.clip_source import ClipSource
from dpo_video.models.collate import TokenRow
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.shared_prefix import decoding
from dpo_video.models.shared_prefix.cascade import Prefix
from dpo_video.recipe import EvaluateSettings
from dpo_video.run import open_run
from dpo_video.train.logps import clip_rows, token_logps
from dpo_video.video.read import read_frames

LETTERS = [
    Sample(
        id=f"l{clip}-{number}",
        video=f"h{clip}.mp4",
        prompt=prompt,
        options=["a dog", "a cat", "a ball"],
        answer_kind="letter",
        answer="ABC"[clip],
    )
    for clip in range(3)
    for number, prompt in enumerate(["what runs ?", "what is it ?"])
]
YES_NO = [
    Sample(
        id=f"{clip}-{answer}",
        video=f"h{clip}.mp4",
        prompt=f"is it {answer} ?",
        answer_kind="yes_no",
        answer=answer,
        group=str(clip),
    )
    for clip in range(3)
    for answer in ("yes", "no")
]


def two_sets(world: Path, folder: Path) -> list[dict[str, str]]:
    """The settings of a set of letters and one of yes and no, written to files."""
    sets = []
    for name, samples in (("letters", LETTERS), ("pairs", YES_NO)):
        write_jsonl(folder / f"{name}.jsonl", samples)
        path = str(folder / f"{name}.jsonl")
        sets.append({"name": name, "samples": path, "video_root": str(world)})
    return sets


@contextmanager
def counted_clips(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Note of each source of clips how many it decoded and encoded."""
    counts: list[int] = []
    leave = ClipSource.__exit__

    def count(source: ClipSource, *error: Any) -> None:
        counts.append(source.counts["decoded"])
        counts.append(source.counts["encoded"])
        leave(source, *error)

    monkeypatch.setattr(ClipSource, "__exit__", count)
    yield counts
    monkeypatch.undo()


def test_all_sets_share_one_load_of_each_model_and_one_decoding_of_each_clip(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three clips, asked about by three sets and sampled for pairs: the base decodes and encodes
    each once, the tuned model reads the same features.
    """
    base, adapter = "AutoModelForImageTextToText", "PeftModel"
    settings = {"sets": two_sets(world, tmp_path), "choice_max_new_tokens": 4}
    prefixes: list[Prefix] = []
    read_prompts = decoding.read_prompts

    def noted(policy: Policy, clips: Sequence[Sequence[TokenRow]]) -> list[Prefix]:
        prefixes.extend(read_prompts(policy, clips))
        return prefixes[-len(clips) :]

    monkeypatch.setattr(decoding, "read_prompts", noted)
    with opened(world, tmp_path, HELDOUT, **settings) as run:
        with counted_loads(monkeypatch) as loads, counted_clips(monkeypatch) as counts:
            summary = evaluate(run).counts
        assert loads == [base, base, adapter]
        assert len(prefixes) == 6, "three clips, once a model, by three samplers in the base"
        assert summary["prompt_tokens"] == sum(prefix.num_tokens for prefix in prefixes)
        assert summary["prompt_tokens_unshared"] > 2 * summary["prompt_tokens"]
        assert counts[:2] == [3, 3] and set(counts[2:]) == {0}
        rows = read_evaluated(run.folder / "answers.jsonl")
        metrics = json.loads((run.folder / "metrics.json").read_text())
        with counted_loads(monkeypatch) as loads:
            evaluate(run)
        assert loads == []
        again = read_evaluated(run.folder / "answers.jsonl")
    assert again == rows
    assert [row.set for row in rows[:18]] == [*["heldout"] * 6, *["letters"] * 6, *["pairs"] * 6]
    assert metrics["before"]["n"] == 6, "the numbers of data.heldout are of its questions alone"
    for name in ("letters", "pairs"):
        of_set = metrics["sets"][name]
        assert of_set["questions"] == 6 and of_set["clips"] == 3 and of_set["unanswered"] == 0
        for model in ("before", "after"):
            own = [row for row in rows if row.set == name and row.model == model]
            assert of_set[model]["accuracy"] == sum(bool(row.correct) for row in own) / 6
            assert of_set[model]["unparsed"] == sum(row.parsed is None for row in own)


def test_the_likeliest_choice_is_that_of_plain_forwards_of_each_choice(
    world: Path, tmp_path: Path
) -> None:
    """Each choice alone behind its own prompt, by a forward of its own, to a few float32 units."""
    recipe = recipe_for(world, tmp_path, sets=two_sets(world, tmp_path), choice="likelihood")
    without_heldout = recipe.data.model_copy(update={"heldout": None})
    write_jsonl(tmp_path / "train.jsonl", TRAIN)
    with open_run(recipe.model_copy(update={"data": without_heldout})) as run:
        (run.folder / "adapter").symlink_to(world / "adapter")
        evaluate(run)
        rows = read_evaluated(run.folder / "answers.jsonl")
        policies = {
            "before": load_policy(run.recipe.model),
            "after": load_policy(run.recipe.model, adapter=run.folder / "adapter"),
        }
    questions = {sample.id: sample for sample in (*LETTERS, *YES_NO)}
    assert len(rows) == 2 * len(questions)
    for row in rows:
        sample, policy = questions[row.sample_id], policies[row.model]
        frames = read_frames(world / row.clip, run.recipe.video, multiple_of=2)
        plain: dict[str, float] = {}
        for choice in choices_of(sample):
            (single,) = clip_rows(
                policy, frames, run.recipe.video, question=asked_prompt(sample), answers=[choice]
            )
            (logps,) = token_logps(policy, [replace(single, answer=single.answer[:-1])])
            plain[choice] = sum(logps)
        assert row.choice_logps == pytest.approx(plain, rel=2e-6, abs=3e-5)
        assert row.text == max(plain, key=lambda choice: plain[choice])
        assert row.parsed == (row.text if sample.answer_kind == "letter" else row.text.lower())
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert metrics["before"]["n"] == 0 and metrics["judged"]["n"] == 0
    assert metrics["sets"]["letters"]["before"]["unparsed"] == 0


def test_sets_that_cannot_be_used_are_told_before_anything_is_loaded(
    world: Path, tmp_path: Path
) -> None:
    sets = two_sets(world, tmp_path)
    wrong = [
        {"id": "a", "video": "h0.mp4", "prompt": "p", "answer_kind": "letter", "answer": "A"},
        {"id": "b", "prompt": "p"},
        {"id": "c", "video": "h0.mp4", "prompt": "p"},
        {"id": "c", "video": "h0.mp4", "prompt": "p"},
    ]
    (tmp_path / "letters.jsonl").write_text("".join(json.dumps(row) + "\n" for row in wrong))
    with pytest.raises(UserError) as error, opened(world, tmp_path, HELDOUT, sets=sets):
        pass
    for told in (
        "3 lines of ",
        "letters.jsonl:1: `answer_kind` letter needs 2 to 26 `options`, got 0",
        "letters.jsonl:2: missing `video`",
        "letters.jsonl:4: the id 'c' stands in line 3 already",
    ):
        assert told in str(error.value)
    trained = [replace(LETTERS[0], video="t.mp4")]
    write_jsonl(tmp_path / "letters.jsonl", trained)
    with (
        pytest.raises(UserError, match=r"is also trained on.* and set 'letters' by clip"),
        open_run(recipe_for(world, tmp_path, sets=sets)),
    ):
        pass


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a"], "two sets are named 'a'"),
        (["heldout"], "is the name of the set of data.heldout"),
        (["a.b"], "must be letters, digits, _ and -"),
    ],
)
def test_a_set_has_a_name_of_its_own(names: list[str], message: str) -> None:
    sets = [{"name": name, "samples": "s.jsonl"} for name in names]
    with pytest.raises(ValueError, match=message):
        EvaluateSettings.model_validate({"sets": sets})
