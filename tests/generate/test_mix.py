"""Samplers that see a corrupted clip or know more than the policy: what they are shown, counted
frame by frame the slow way.
"""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from clips import write_clip
from generation_runs import make_recipe, run_generate, write_data
from policies import policy
from pydantic import ValidationError

from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import Sample
from dpo_video.models.clip_source import ClipSource
from dpo_video.models.collate import TokenRow
from dpo_video.models.features import encode_video
from dpo_video.models.generation import generate_answers
from dpo_video.models.prompts import encode_prompt, video_inputs
from dpo_video.models.sampling import Sampler
from dpo_video.recipe import GenerateSettings, SamplerSettings
from dpo_video.recipe.generate import WITH_MAGNITUDE
from dpo_video.video import draw_number
from dpo_video.video.read import read_frames

FRAMES = 8
MIX = [
    {"name": "plain", "num_candidates": 1},
    {"name": "drop", "num_candidates": 1, "clip": "drop", "magnitude": 4},
    {"name": "reverse", "num_candidates": 1, "clip": "reverse"},
    {"name": "reverse4", "num_candidates": 1, "clip": "reverse", "magnitude": 4},
    {"name": "shuffle", "num_candidates": 1, "clip": "shuffle", "magnitude": 2},
    {"name": "other", "num_candidates": 1, "clip": "other_clip"},
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def mixed(runs, source, /, mix=MIX, **sections):
    video = {"num_frames": FRAMES, **sections.pop("video", {})}
    generate = {"mix": mix, "batch_size": 5, **sections.pop("generate", {})}
    return make_recipe(runs, source, video=video, generate=generate, **sections)


@pytest.fixture(scope="module")
def drawn(data, tmp_path_factory):
    """The candidates of the mix, and how many times a clip was decoded."""
    decoded = []
    with pytest.MonkeyPatch.context() as patch:
        decode = ClipSource._decode
        patch.setattr(
            ClipSource,
            "_decode",
            lambda source, request: decoded.append(request.key) or decode(source, request),
        )
        recipe = mixed(tmp_path_factory.mktemp("runs"), data)
        counts, candidates = run_generate(recipe)
    return counts, candidates, decoded


def shown_order(name, clip):
    """Return which of the 8 frames each place shows, by hand; seed 0."""
    if name == "reverse":
        return [7, 6, 5, 4, 3, 2, 1, 0]
    if name == "reverse4":
        return [6, 7, 4, 5, 2, 3, 0, 1]
    if name == "shuffle":  # two groups, which never stay as they are
        return [4, 5, 6, 7, 0, 1, 2, 3]
    if name == "drop":  # two frames stay
        draw = np.random.default_rng(draw_number("drop", seed=0, clip=clip))
        first = int(draw.integers(7))
        return [min(max(place, first), first + 1) for place in range(8)]
    return list(range(8))


def other_of(clip):
    names = ["1.mp4", "2.mp4", "3.mp4"]
    place = draw_number("other_clip", seed=0, clip=clip) % 3
    return names[place] if names[place] != clip else names[(place + 1) % 3]


def test_each_sampler_answers_to_the_frames_that_it_is_to_see(data, drawn):
    """Each answer is what the policy says, alone, to frames that are put in order by hand."""
    _, candidates, _ = drawn
    model = policy("qwen2_5_vl")
    samples = {sample.id: sample for sample in read_jsonl(data / "samples.jsonl", Sample)}
    settings = mixed(data, data).video
    sampler = Sampler(temperature=1.0, top_p=0.95, max_new_tokens=6)

    def answer_to(clip, order, prompt, seed):
        frames = read_frames(data / clip, settings)
        frames = replace(frames, pixels=np.stack([frames.pixels[place] for place in order]))
        inputs = video_inputs(model, frames, settings)
        row = TokenRow(
            prompt=encode_prompt(model, prompt, inputs),
            clip=replace(inputs, pixels={}),
            features=encode_video(model, inputs),
        )
        ((answer,),) = generate_answers(model, [row], seeds=[[seed]], sampler=sampler)
        return answer.text

    num_changed = 0
    for candidate in candidates:
        sample = samples[candidate.sample_id]
        clip = other_of(sample.video) if candidate.sampler == "other" else sample.video
        order = shown_order(candidate.sampler, clip)
        text = answer_to(clip, order, sample.prompt, candidate.seed)
        assert text == candidate.text, (candidate.sampler, sample.id)
        if candidate.sampler == "reverse":
            num_changed += text != answer_to(clip, range(8), sample.prompt, candidate.seed)
    assert num_changed > 0, "the policy's answers depend on the order of the frames"


def test_each_clip_is_decoded_once_for_all_samplers(drawn):
    counts, candidates, decoded = drawn
    assert sorted(decoded) == ["1.mp4", "2.mp4", "3.mp4"]
    assert counts["samplers"] == {row["name"]: 6 for row in MIX}
    assert (counts["candidates"], counts["bad_clips"]) == (36, 0)
    assert len({candidate.settings for candidate in candidates}) == 36


def test_a_changed_magnitude_pays_for_its_own_sampler_alone(data, tmp_path):
    first, before = run_generate(mixed(tmp_path, data))
    assert first["reused"] == 0
    mix = [{**row, "magnitude": 8} if row["name"] == "drop" else row for row in MIX]
    second, after = run_generate(mixed(tmp_path, data, mix))
    assert second["reused"] == 30
    changed = {row.settings for row in after} - {row.settings for row in before}
    assert changed == {row.settings for row in after if row.sampler == "drop"}
    again, same = run_generate(mixed(tmp_path, data, mix))
    assert again["reused"] == 36
    assert same == after
    mix = [{**row, "clip": "none"} if row["name"] == "other" else row for row in mix]
    third, _ = run_generate(mixed(tmp_path, data, mix))
    assert third["reused"] == 30, "the same number and seed, and another clip"


def test_a_magnitude_of_the_section_is_that_of_each_sampler_that_names_none(data, tmp_path):
    silent = [{key: row[key] for key in row if key != "magnitude"} for row in MIX]
    said = [row | ({"magnitude": 8} if row.get("clip") in WITH_MAGNITUDE else {}) for row in silent]
    _, before = run_generate(mixed(tmp_path, data, said))
    counts, after = run_generate(mixed(tmp_path, data, silent, generate={"magnitude": 8}))
    assert counts["reused"] == 36 and after == before
    said[1]["magnitude"] = 4
    counts, _ = run_generate(mixed(tmp_path, data, said, generate={"magnitude": 8}))
    assert counts["reused"] == 30, "what a sampler says itself goes before"


def test_a_clip_that_its_corruption_leaves_as_it_is_costs_that_answer_and_is_no_bad_clip(
    data, tmp_path
):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    write_clip(folder / "2.mp4", 1)
    counts, candidates = run_generate(mixed(tmp_path, folder))
    assert (counts["bad_clips"], counts["clip_unchanged"]) == (0, 8)
    assert len(candidates) == 28
    still = {row.sampler for row in candidates if row.sample_id.startswith("2-")}
    assert still == {"plain", "other"}


def test_one_file_has_no_other_clip_and_the_candidates_are_counted(data, tmp_path):
    samples = [row for row in read_jsonl(data / "samples.jsonl", Sample) if row.video == "1.mp4"]
    write_jsonl(tmp_path / "samples.jsonl", samples)
    recipe = mixed(tmp_path, tmp_path, [MIX[0], MIX[-1]], data={"video_root": str(data)})
    counts, candidates = run_generate(recipe)
    assert counts["no_other_clip"] == 2
    assert {row.sampler for row in candidates} == {"plain"}


def test_a_caption_and_a_gold_answer_can_be_shown_and_mark_what_they_made(data, tmp_path):
    samples = list(read_jsonl(data / "samples.jsonl", Sample))
    samples = [replace(row, caption="a {prompt} film", answer="red") for row in samples[:2]]
    samples += [replace(samples[0], id="open", answer=None)]
    write_jsonl(tmp_path / "samples.jsonl", samples)
    mix = [
        {"name": "plain", "num_candidates": 1},
        {
            "name": "knowing",
            "num_candidates": 1,
            "instruction": "what happens is {caption} ; {prompt} {answer}",
        },
    ]
    sections = {"data": {"video_root": str(data)}}
    counts, candidates = run_generate(mixed(tmp_path, tmp_path, mix, **sections))
    assert counts["nothing_to_show"] == 1
    assert {row.sampler: row.privileged for row in candidates} == {"plain": None, "knowing": True}
    assert sum(row.sampler == "knowing" for row in candidates) == 2
    spelled = [
        replace(row, prompt=f"what happens is a {{prompt}} film ; {row.prompt} red")
        for row in samples[:2]
    ]
    write_jsonl(tmp_path / "spelled.jsonl", spelled)
    plain = [{"name": "skip", "num_candidates": 1}, {"name": "plain", "num_candidates": 1}]
    sections["data"]["samples"] = str(tmp_path / "spelled.jsonl")
    _, by_hand = run_generate(mixed(tmp_path / "spelled", tmp_path, plain, **sections))
    assert [row.text for row in candidates if row.sampler == "knowing"] == [
        row.text for row in by_hand if row.sampler == "plain"
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"magnitude": 4}, "`magnitude` says how strongly a clip is changed, and `clip` is none"),
        ({"clip": "other_clip", "magnitude": 4}, "and `clip` is other_clip"),
        ({"clip": "drop", "magnitude": 1}, "greater than or equal to 2"),
        ({"clip": "dropp"}, "Input should be"),
        ({"instruction": "{prompt} {captions}"}, "unknown placeholder {captions}. Did you mean"),
        ({"instruction": "{caption}"}, "must contain {prompt} once"),
    ],
)
def test_a_sampler_that_cannot_be_is_refused_in_one_line(settings, message):
    with pytest.raises(ValidationError) as caught:
        SamplerSettings(name="x", num_candidates=1, **settings)
    assert message in str(caught.value)


def test_a_magnitude_that_no_sampler_would_use_is_refused() -> None:
    with pytest.raises(ValidationError, match="no sampler of `mix` has clip drop or reverse"):
        GenerateSettings(magnitude=4, mix=[{"name": "x", "num_candidates": 1}])


def test_an_instruction_may_hold_braces_of_its_own():
    instruction = 'Reply as {"answer": ...}. {prompt}'
    assert SamplerSettings(name="x", num_candidates=1, instruction=instruction).privileges == ()
