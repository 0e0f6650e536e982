"""`dpo-video frames`: presets, what the context holds, stretched positions, and the contact
sheet.
"""

import numpy as np
import pytest
import torch
from clips import read_number, write_clip
from PIL import Image
from policies import policy
from transformers import AutoConfig
from typer.testing import CliRunner

from dpo_video.check.preview import (
    MARGIN,
    TILE,
    TITLE,
    as_seen,
    contact_sheet,
    published_model,
    view_clip,
)
from dpo_video.cli.app import app
from dpo_video.core.errors import UserError
from dpo_video.models.families import family_of
from dpo_video.models.hub import model_spec
from dpo_video.models.load import load_policy
from dpo_video.models.published import PUBLISHED
from dpo_video.models.tokens import video_tokens
from dpo_video.recipe import ModelSettings, VideoSettings
from dpo_video.recipe.file import load_recipe, load_video_settings
from dpo_video.recipe.presets import PRESETS
from dpo_video.video.read import read_frames

LLAVA_7B = ModelSettings(name="llava-hf/LLaVA-NeXT-Video-7B-hf")
QWEN_7B = ModelSettings(name="Qwen/Qwen2.5-VL-7B-Instruct")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Return a clip of 700 numbered frames, 320x180 at 25 a second."""
    return write_clip(
        tmp_path_factory.mktemp("clip") / "long.mp4",
        700,
        size=(320, 180),
        options={"preset": "ultrafast"},
    )


def test_a_preset_fills_the_section_and_settings_beside_it_win():
    settings = VideoSettings.model_validate({"preset": "qwen2_5_vl", "max_frames": 32})
    assert settings.model_dump() == VideoSettings().model_dump() | PRESETS["qwen2_5_vl"].video | {
        "preset": "qwen2_5_vl",
        "max_frames": 32,
    }
    assert settings == VideoSettings.model_validate(settings.model_dump()), (
        "a resolved recipe loads as it is"
    )


def test_a_preset_given_as_an_override_beats_the_recipe_file_wherever_it_stands():
    assert load_recipe("quickstart").video.policy == "uniform"
    video = load_recipe("quickstart", ["video.fps=1", "video.preset=qwen2_5_vl"]).video
    assert (video.policy, video.fps, video.cap_pixels) == ("fps", 1.0, True)


def test_presets_are_those_of_the_list_and_an_unknown_one_is_named():
    field = VideoSettings.model_fields["preset"].annotation
    assert set(PRESETS) == set(field.__args__[0].__args__)
    with pytest.raises(
        UserError, match=r"`video.preset` must be one of .* Did you mean 'llava_hound'\?"
    ):
        load_video_settings(["video.preset=llava_houn"])
    with pytest.raises(UserError, match=r"override of `train`: without a recipe only"):
        load_video_settings(["train.beta=1"])


@pytest.mark.parametrize(
    ("name", "model", "frames", "tokens"),
    [
        ("llava_next_video", LLAVA_7B, 16, 16 * 144),
        ("llava_next_video_long", LLAVA_7B.model_copy(update={"rope_factor": 2.0}), 56, 56 * 144),
        # 320x180 is enlarged to at least 128 tokens of 28x28 a pair of frames: 448x252, 16 x 9 =
        # 144
        ("qwen2_5_vl", QWEN_7B, 56, 28 * 144),
    ],
)
def test_presets_cost_what_the_families_say(clip, name, model, frames, tokens):
    view = view_clip(clip, model, VideoSettings.model_validate({"preset": name}))
    assert (len(view.frames.indices), view.tokens) == (frames, tokens)
    assert (
        view.tokens
        < view.context
        == {2.0: 8192}.get(model.rope_factor or 0.0, 4096 if "llava" in name else 128000)
    )


PUBLISHED_FAMILIES = sorted(
    {family_of(AutoConfig.from_pretrained(folder)).name for folder in PUBLISHED.values()}
)


@pytest.mark.parametrize("family", PUBLISHED_FAMILIES)
def test_every_family_with_a_published_checkpoint_shows_its_frames(clip, family):
    if family == "perception_lm":
        pytest.importorskip("timm", reason="the tower of perception_lm is built by timm")
    view = view_clip(clip, published_model(family), VideoSettings(num_frames=4))
    assert view.pixels.shape[::3] == (4, 3) and view.pixels.dtype == np.uint8
    assert 0 < view.tokens < view.context


def test_fit_takes_as_many_frames_as_the_context_leaves(clip):
    """4,096 less 1,024 are 21 frames of 144; less 4,000 none."""
    view = view_clip(clip, LLAVA_7B, VideoSettings(policy="fit"))
    assert (view.budget, len(view.frames.indices), view.num_read) == (3072, 21, 56)
    with pytest.raises(
        UserError, match=r"may take 96 video tokens \(the context less video.reserve_tokens 4000\)"
    ):
        view_clip(clip, LLAVA_7B, VideoSettings(policy="fit", reserve_tokens=4000))
    with pytest.raises(UserError, match="nothing is left for the clip"):
        view_clip(clip, LLAVA_7B, VideoSettings(policy="fit", reserve_tokens=4096))
    assert view_clip(clip, LLAVA_7B, VideoSettings(policy="fit", max_tokens=1000)).budget == 1000


def test_capped_pixels_make_the_frames_of_a_long_clip_smaller(clip):
    """Qwen's cap leaves a clip 0.9 of the checkpoint's 24,576 tokens; 768 frames of 640x360 would
    take far more.
    """
    plan = model_spec(QWEN_7B)
    shape = {"num_frames": 768, "height": 360, "width": 640}
    assert video_tokens(plan, VideoSettings(cap_pixels=False), **shape) == 384 * 23 * 13
    assert (
        video_tokens(plan, VideoSettings(cap_pixels=True), **shape)
        <= 0.9 * plan.video_processor.max_video_tokens
    )
    with pytest.raises(UserError, match="knows no total of pixels"):
        view_clip(clip, LLAVA_7B, VideoSettings(cap_pixels=True))


def test_stretched_positions_are_those_of_linear_scaling(tmp_path):
    """Under factor 2, position 2p has the angles that p has without; M-RoPE families refuse the
    setting.
    """
    plain = policy("llava_next_video")
    stretched = load_policy(plain.settings.model_copy(update={"rope_factor": 2.0}))
    rope = [model.bare.model.language_model.rotary_emb for model in (plain, stretched)]
    x, at = torch.zeros(1, 1, 1), torch.arange(0, 64)[None]
    torch.testing.assert_close(rope[1](x, 2 * at), rope[0](x, at))
    assert (
        model_spec(stretched.settings).config.get_text_config().max_position_embeddings == 2 * 4096
    )
    with pytest.raises(UserError, match="family 'qwen2_5_vl' has M-RoPE"):
        load_policy(policy("qwen2_5_vl").settings.model_copy(update={"rope_factor": 2.0}))


def test_the_sheet_shows_the_frames_as_they_enter_the_tower(clip):
    """LLaVA scales the short side to 336 and crops the middle; Qwen scales without cropping. All
    frames are there.
    """
    settings = VideoSettings(num_frames=5)
    frames = read_frames(clip, settings)
    seen = as_seen(model_spec(LLAVA_7B), frames, settings)
    assert seen.shape == (5, 336, 336, 3)
    wide = Image.fromarray(frames.pixels[2]).resize(
        (round(320 * 336 / 180), 336), Image.Resampling.BICUBIC
    )
    left = (wide.width - 336) // 2
    expected = np.asarray(wide.crop((left, 0, left + 336, 336)).convert("L"), dtype=float)
    made = np.asarray(Image.fromarray(seen[2]).convert("L"), dtype=float)
    assert np.abs(expected - made).mean() < 2
    view = view_clip(clip, QWEN_7B, VideoSettings(num_frames=10))
    assert [read_number(pixels) for pixels in view.frames.pixels] == view.frames.indices
    sheet = contact_sheet({clip.name: view})
    assert sheet.width == 8 * (TILE + MARGIN) + MARGIN
    assert abs(sheet.height - TITLE - 2 * (TILE * 180 / 320 + 20)) < 12, "two rows"


def test_several_clips_stand_on_one_sheet_each_under_its_title(clip, tmp_path):
    """Two strips, as high as each alone; the second clip's title is drawn, and its folder where
    both have one name.
    """
    other = tmp_path / "b=1.mp4"
    other.write_bytes(clip.read_bytes())
    done = CliRunner().invoke(
        app,
        [
            "frames",
            str(clip),
            str(other),
            "--family",
            "llava_next_video",
            "video.num_frames=4",
            "--out",
            str(tmp_path / "both.png"),
        ],
    )
    assert done.exit_code == 0, done.output
    assert done.output.count("video tokens") == 2 and done.output.count("contact sheet") == 1
    view = view_clip(clip, published_model("llava_next_video"), VideoSettings(num_frames=4))
    alone = contact_sheet({clip.name: view})
    both = Image.open(tmp_path / "both.png")
    assert both.height == 2 * alone.height
    title = np.asarray(both.convert("L"))[alone.height : alone.height + TITLE]
    assert title.min() < 128, "a title"
    untitled = np.asarray(contact_sheet({"": view}).convert("L"))[:TITLE]
    assert (untitled < 128).sum() < (np.asarray(alone.convert("L"))[:TITLE] < 128).sum()


def test_clips_that_cannot_be_read_are_all_told(clip, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"none")
    done = CliRunner().invoke(
        app,
        [
            "frames",
            str(clip),
            str(tmp_path / "a.mp4"),
            str(tmp_path / "b.mp4"),
            "--family",
            "llava_next_video",
            "--out",
            str(tmp_path / "sheet.png"),
        ],
    )
    assert isinstance(done.exception, UserError)
    assert "a.mp4" in str(done.exception) and "b.mp4" in str(done.exception)


def test_the_command_prints_the_plan_and_writes_the_sheet(clip, tmp_path):
    done = CliRunner().invoke(
        app,
        [
            "frames",
            str(clip),
            "--family",
            "llava_next_video",
            "video.policy=fit",
            "--out",
            str(tmp_path / "sheet.png"),
            "--end",
            "4",
        ],
        catch_exceptions=False,
    )
    assert "budget         3,072 tokens; 0 frames lost to it" in done.output, done.output
    assert "llava-hf/LLaVA-NeXT-Video-7B-hf (llava_next_video): 8 frames of 336x336" in done.output
    assert Image.open(tmp_path / "sheet.png").width > 8 * TILE


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--family", "qwen"], "unknown family 'qwen'"),
        ([], "one of --family F, --model NAME, --recipe RECIPE"),
        (["--family", "qwen2_5_vl", "--out", "sheet.txt"], "name a picture"),
        (["--family", "qwen2_5_vl", "--out", "/no/such/a.png"], "no folder"),
        (["--family", "qwen2_5_vl", "--start", "99"], "no frame from 99 seconds to the end"),
    ],
)
def test_mistakes_are_users_errors(clip, arguments, said):
    result = CliRunner().invoke(app, ["frames", str(clip), *arguments])
    assert isinstance(result.exception, UserError)
    assert said in str(result.exception)


def test_a_clip_that_the_processor_refuses_is_a_users_error(tmp_path):
    """Qwen's processors take no picture whose longer side is more than 200 times the shorter."""
    write_clip(tmp_path / "banner.mp4", 4, size=(4096, 16))
    with pytest.raises(UserError, match=r"the processor refuses .* frames of 4096x16 pixels"):
        view_clip(tmp_path / "banner.mp4", published_model("qwen2_5_vl"), VideoSettings())


def test_published_models_are_found_by_family():
    for family in ("llava_next_video", "qwen2_5_vl"):
        assert model_spec(published_model(family)).family.name == family


def test_frames_that_are_images_are_shown_cropped_as_their_processor_crops_them(clip):
    """LLaVA-1.5 takes the middle square of a frame; squeezing the whole of it would show other
    pixels.
    """
    plan = model_spec(ModelSettings(name="llava-hf/llava-1.5-7b-hf"))
    view = view_clip(
        clip, ModelSettings(name="llava-hf/llava-1.5-7b-hf"), VideoSettings(num_frames=2)
    )
    wanted = plan.video_processor(
        images=list(view.frames.pixels), do_rescale=False, do_normalize=False, return_tensors="np"
    )["pixel_values"]
    assert np.array_equal(view.pixels, wanted.transpose(0, 2, 3, 1))
