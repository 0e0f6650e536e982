"""The generate stage on real clips with a tiny policy: order, reuse, resuming after kill -9, bad
clips.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest
from clips import write_clip
from generation_runs import make_recipe, run_generate
from policies import each_kind, policy, tiny_folder
from pydantic import ValidationError

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import Candidate, Sample
from dpo_video.generate import stage
from dpo_video.generate.jobs import GenerationJob
from dpo_video.generate.plan import plan_candidates
from dpo_video.generate.stage import generate, make_candidates
from dpo_video.models.prompts import encode_prompt, video_inputs
from dpo_video.models.sampling import Sampler
from dpo_video.run import open_run
from dpo_video.store import RunStore
from dpo_video.video import cache
from dpo_video.video.read import read_frames


@each_kind
def test_candidates_come_in_the_order_of_the_samples_with_each_clip_read_once(kind, data, tmp_path):
    model, calls, read = policy(kind), [], []
    tower = model.bare.model.visual if kind == "qwen2_5_vl" else model.bare.model.vision_tower
    hook = tower.register_forward_hook(lambda *_: calls.append(1))
    watch = model.bare.get_decoder().register_forward_pre_hook(
        lambda _, __, kwargs: read.append(kwargs["inputs_embeds"].shape[:2]), with_kwargs=True
    )
    try:
        with open_run(make_recipe(tmp_path, data, kind=kind)) as run:
            sampler = Sampler(temperature=1.0, max_new_tokens=6)
            made = make_candidates(
                run,
                GenerationJob(
                    samples=run.samples,
                    root=run.video_root,
                    num_candidates=3,
                    sampler=sampler,
                    load=lambda: model,
                ),
            )
            wanted = [f"{sample.id}#{number}" for sample in run.samples for number in range(3)]
    finally:
        hook.remove()
        watch.remove()
    assert [candidate.id for candidate in made.candidates] == wanted
    assert len(calls) == 3, "three clips, six questions, eighteen answers"
    assert len({candidate.seed for candidate in made.candidates}) == 18
    assert made.counts == {
        "samples": 6,
        "candidates": 18,
        "reused": 0,
        "cut": made.counts["cut"],
        "samples_without": 0,
        "bad_clips": 0,
        "prompt_tokens": sum(length for _, length in read if length > 1),
        "prompt_tokens_unshared": made.counts["prompt_tokens_unshared"],
        "peak_cache_bytes": made.counts["peak_cache_bytes"],
    }
    assert len([length for _, length in read if length > 1]) == 3, "a clip's prompts are read once"
    assert made.counts["prompt_tokens_unshared"] > 3 * made.counts["prompt_tokens"]
    assert made.counts["cut"] == sum(candidate.finish == "length" for candidate in made.candidates)


def test_candidates_do_not_depend_on_the_batch_size(data, tmp_path):
    texts = []
    for size in (1, 5, 64):
        _, candidates = run_generate(
            make_recipe(tmp_path / str(size), data, generate={"batch_size": size})
        )
        texts.append([(candidate.id, candidate.text) for candidate in candidates])
    assert texts[0] == texts[1] == texts[2]


def test_a_second_run_pays_for_nothing_and_a_changed_setting_for_everything_it_changes(
    data, tmp_path
):
    first, candidates = run_generate(make_recipe(tmp_path, data))
    again, same = run_generate(
        make_recipe(tmp_path, data, generate={"batch_size": 2}, video={"workers": 2})
    )
    assert (first["reused"], again["reused"]) == (0, 12)
    assert same == candidates
    more, longer = run_generate(make_recipe(tmp_path, data, generate={"num_candidates": 3}))
    assert more["reused"] == 12
    assert [candidate for candidate in longer if not candidate.id.endswith("#2")] == candidates
    for change in (
        {"generate": {"temperature": 0.7}},
        {"generate": {"max_new_tokens": 5}},
        {"seed": 1},
        {"video": {"num_frames": 2}},
        {"model": {"positions": "transformers"}},
    ):
        counts, other = run_generate(make_recipe(tmp_path, data, **change))
        assert counts["reused"] == 0, change
        assert {one.settings for one in other}.isdisjoint({one.settings for one in candidates})


def test_a_clip_that_was_replaced_is_answered_anew(data, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for path in data.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    run_generate(make_recipe(tmp_path, folder))
    write_clip(folder / "2.mp4", 25)
    counts, _ = run_generate(make_recipe(tmp_path, folder))
    assert counts["reused"] == 8, (
        "two of three clips are as they were, with two questions of two answers each"
    )


def test_another_clip_of_the_same_name_size_and_time_is_answered_anew(data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    run_generate(make_recipe(tmp_path, folder))
    clip = folder / "2.mp4"
    facts, content = clip.stat(), bytearray(clip.read_bytes())
    content[-1] ^= 1
    clip.write_bytes(content)
    os.utime(clip, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    counts, _ = run_generate(make_recipe(tmp_path, folder))
    assert counts["reused"] == 8, "the clip has two questions of two answers each"


def test_candidates_of_an_earlier_version_are_made_anew_and_the_run_says_so(data, tmp_path, capsys):
    recipe = make_recipe(tmp_path, data)
    with open_run(recipe) as run:
        (job,) = stage._jobs(run)
        for candidate in plan_candidates(run, job, by_content=False):
            row = {"text": "old", "finish": "stop", "sample": candidate.sample.id}
            run.store.put("candidate", candidate.key, row)
    counts, candidates = run_generate(recipe)
    assert (counts["reused"], counts["candidates"]) == (0, 12)
    assert all(candidate.text != "old" for candidate in candidates)
    assert capsys.readouterr().err.splitlines()[0] == (
        "candidates: 12 stored under the rule of an earlier version are made anew: their clips are "
        "now known by content"
    )
    again, _ = run_generate(recipe)
    assert again["reused"] == 12
    assert "earlier version" not in capsys.readouterr().err


def test_an_answer_to_a_part_with_times_reckoned_otherwise_is_not_met_again(
    data, tmp_path, monkeypatch
):
    samples = list(read_jsonl(data / "samples.jsonl", Sample))
    write_jsonl(tmp_path / "samples.jsonl", [replace(samples[0], end=0.2), samples[1]])
    recipe = make_recipe(tmp_path, tmp_path, data={"video_root": str(data)})
    run_generate(recipe)
    monkeypatch.setattr(cache, "PART_TIMES", 1)
    counts, _ = run_generate(recipe)
    assert (counts["reused"], counts["candidates"]) == (2, 4), "the whole file's answers are"


def shorten_context(folder, context):
    """Return a copy of the tiny LLaVA-NeXT-Video for sequences of `context` tokens."""
    shutil.copytree(tiny_folder("llava_next_video"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = context
    (folder / "config.json").write_text(json.dumps(config))
    return {"name": str(folder)}


def test_a_sample_that_does_not_fit_the_context_is_set_aside_and_counted(data, tmp_path, capsys):
    """The context just holds the prompt of the shorter question and an answer of 6 tokens; with
    room for one less no sample fits, and nothing is written."""
    samples = list(read_jsonl(data / "samples.jsonl", Sample))
    write_jsonl(
        tmp_path / "samples.jsonl",
        [samples[0], replace(samples[0], id="long", prompt="what happens ? " * 9)],
    )
    model = policy("llava_next_video")
    recipe = make_recipe(
        tmp_path, tmp_path, kind="llava_next_video", data={"video_root": str(data)}
    )
    clip = video_inputs(model, read_frames(data / samples[0].video, recipe.video), recipe.video)
    context = len(encode_prompt(model, samples[0].prompt, clip).input_ids) + 6

    def run_with(context):
        return run_generate(
            make_recipe(
                tmp_path / str(context),
                tmp_path,
                data={"video_root": str(data)},
                model=shorten_context(tmp_path / f"model-{context}", context),
            )
        )

    counts, candidates = run_with(context)
    assert {one.sample_id for one in candidates} == {samples[0].id}
    assert (counts["samples_over_context"], counts["samples_without"], counts["candidates"]) == (
        1,
        1,
        2,
    )
    assert (
        "1 of 2 samples: the tokens of the clip and the question, and 6 for the answer"
        in capsys.readouterr().err
    )
    with pytest.raises(
        UserError,
        match=rf"no answer can be written to 2 of 2 .* than the {context - 1} of the model",
    ):
        run_with(context - 1)
    with RunStore(tmp_path / str(context - 1) / "run") as store:
        assert list(store.rows("candidate")) == []


CHILD = """
import os, signal, sys
from dpo_video.generate.stage import generate
from dpo_video.recipe import Recipe
from dpo_video.run import open_run
from dpo_video.store import RunStore

put, left = RunStore.put, [int(sys.argv[2])]

def put_and_die(self, kind, key, body):
    put(self, kind, key, body)
    left[0] -= kind == "candidate"
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

RunStore.put = put_and_die
with open_run(Recipe.model_validate_json(sys.argv[1])) as run:
    generate(run)
"""


def test_a_run_killed_with_kill_9_goes_on_and_ends_with_the_same_bytes(data, tmp_path):
    """The child kills itself in its third batch, of a clip's 4 answers; the two before are
    committed, so 8 rows are not paid again.
    """
    recipe = make_recipe(tmp_path, data)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, recipe.model_dump_json(), "11"],
        check=False,
        capture_output=True,
        env=os.environ,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    counts, _ = run_generate(recipe)
    assert counts["reused"] == 8
    whole = make_recipe(tmp_path / "whole", data)
    run_generate(whole)
    written = (recipe.run_folder / "candidates.jsonl").read_bytes()
    assert written == (whole.run_folder / "candidates.jsonl").read_bytes()
    with sqlite3.connect(recipe.run_folder / "store.sqlite") as store:
        keys = [key for (key,) in store.execute("select key from rows where kind = 'candidate'")]
    assert len(keys) == len(set(keys)) == 12


def test_a_question_with_the_models_video_token_stops_before_anything_is_paid_for_it(
    data, tmp_path
):
    write_jsonl(
        tmp_path / "samples.jsonl",
        [Sample(id="a", video="1.mp4", prompt="<|video_pad|> what ?", caption="a film")],
    )
    with pytest.raises(UserError, match=r"left none of 1 samples \(control token 1\)"):
        run_generate(make_recipe(tmp_path, tmp_path, data={"video_root": str(data)}))


def test_candidates_are_written_as_records_that_read_back(data, tmp_path):
    recipe = make_recipe(tmp_path, data)
    _, candidates = run_generate(recipe)
    lines = (recipe.run_folder / "candidates.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [candidate.id for candidate in candidates]
    assert {candidate.model for candidate in candidates} == {recipe.model.name}


def test_a_mix_draws_from_each_sampler_and_records_it(data, tmp_path):
    """Numbers go on over the samplers; each answer is the one that its sampler alone would have
    drawn.
    """
    mix = [
        {"name": "hot", "num_candidates": 2, "temperature": 1.5},
        {"name": "brief", "num_candidates": 1, "instruction": "{prompt} be brief", "min_p": 0.1},
    ]
    counts, candidates = run_generate(make_recipe(tmp_path, data, generate={"mix": mix}))
    assert counts["samplers"] == {"hot": 12, "brief": 6}
    assert (counts["samples"], counts["candidates"], counts["samples_without"]) == (6, 18, 0)
    by_sample = [candidates[begin : begin + 3] for begin in range(0, 18, 3)]
    for three in by_sample:
        assert [one.id.rpartition("#")[2] for one in three] == ["0", "1", "2"]
        assert len({one.sample_id for one in three}) == 1
        assert [one.sampler for one in three] == ["hot", "hot", "brief"]
    with open_run(make_recipe(tmp_path / "alone", data, generate={"temperature": 1.5})) as run:
        generate(run)
        alone = list(read_jsonl(run.folder / "candidates.jsonl", Candidate))
    hot = [one for one in candidates if one.sampler == "hot"]
    assert [(one.id, one.text) for one in hot] == [(one.id, one.text) for one in alone]


def test_a_sampler_of_another_policy_answers_for_itself(data, tmp_path):
    """The second policy's first answer to each sample is what it draws when it is the recipe's
    own.
    """
    other = {"name": str(tiny_folder("llava_next_video")), "device": "cpu"}
    mix = [
        {"name": "own", "num_candidates": 1},
        {"name": "other", "num_candidates": 1, "model": other},
    ]
    _, candidates = run_generate(make_recipe(tmp_path, data, generate={"mix": mix}))
    assert {one.model for one in candidates if one.sampler == "other"} == {other["name"]}
    _, alone = run_generate(make_recipe(tmp_path / "alone", data, kind="llava_next_video"))
    wanted = {one.id: one.text for one in alone}
    assert [one.text for one in candidates if one.sampler == "other"] == [
        wanted[one.id] for one in candidates if one.sampler == "other"
    ]


def test_an_instruction_without_the_question_is_refused(data, tmp_path):
    with pytest.raises(ValidationError, match=r"must contain \{prompt\} once"):
        make_recipe(
            tmp_path,
            data,
            generate={"mix": [{"name": "x", "num_candidates": 1, "instruction": "Why?"}]},
        )
