"""Clips that are frames on disk."""

import numpy as np
import pytest
from clips import draw_frame, read_number
from PIL import Image

from dpo_video.recipe import VideoSettings
from dpo_video.video import VideoError
from dpo_video.video.read import read_frames


@pytest.fixture
def folder(tmp_path):
    """Return a folder of 12 frames named so that only numbers, not text, sort them."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(draw_frame(number)).save(folder / f"frame{number}.png")
    return folder


def test_a_folder_is_read_in_natural_order_half_a_second_a_frame(folder):
    frames = read_frames(folder, VideoSettings(num_frames=100))
    assert [read_number(pixels) for pixels in frames.pixels] == list(range(12))
    np.testing.assert_array_equal(frames.pixels[5], draw_frame(5))
    assert frames.times.tolist() == [number / 2 for number in range(12)]
    assert (frames.fps, frames.duration, frames.total_frames, frames.backend) == (
        2.0,
        6.0,
        12,
        "images",
    )
    assert frames.note is None


def test_the_policy_and_the_part_apply_to_a_folder_too(folder):
    """One frame a second of a folder is every other frame; seconds 1 to 4 are frames 2 to 7."""
    picked = read_frames(folder, VideoSettings(policy="fps", fps=1.0)).indices
    assert picked == np.linspace(0, 11, 6).round().tolist()
    assert read_frames(folder, VideoSettings(num_frames=100), start=1, end=4).indices == [
        2,
        3,
        4,
        5,
        6,
        7,
    ]


def test_what_is_no_image_is_ignored_and_counted(folder):
    (folder / "notes.txt").write_text("not a frame")
    (folder / ".hidden.png").write_text("not a frame")
    frames = read_frames(folder, VideoSettings(num_frames=2))
    assert frames.indices == [0, 11]
    assert frames.note == "2 entries of the folder are not frames"


def test_a_list_of_files_keeps_its_order(folder):
    files = [folder / f"frame{number}.png" for number in (7, 3, 11)]
    frames = read_frames(files, VideoSettings())
    assert [read_number(pixels) for pixels in frames.pixels] == [7, 3, 11]


def test_an_image_file_is_a_clip_of_one_frame(folder):
    frames = read_frames(folder / "frame9.png", VideoSettings())
    assert [read_number(pixels) for pixels in frames.pixels] == [9]
    assert (frames.total_frames, frames.duration) == (1, 0.5)


def test_exif_orientation_is_applied(tmp_path):
    """Orientation 6: the stored picture must be turned 90 degrees clockwise to be upright."""
    lying = Image.fromarray(np.ascontiguousarray(np.rot90(draw_frame(5), 1)))
    exif = lying.getexif()
    exif[0x0112] = 6
    lying.save(tmp_path / "photo.png", exif=exif)
    assert read_number(read_frames(tmp_path / "photo.png", VideoSettings()).pixels[0]) == 5


def test_grey_and_transparent_images_become_rgb(tmp_path):
    image = Image.fromarray(draw_frame(3))
    for name, mode in enumerate(["L", "RGBA", "P", "1", "I;16"]):
        image.convert("L").convert(mode).save(tmp_path / f"{name}.png") if mode == "I;16" else (
            image.convert(mode).save(tmp_path / f"{name}.png")
        )
    frames = read_frames(tmp_path, VideoSettings(num_frames=8))
    assert frames.pixels.shape == (5, *draw_frame(3).shape)
    assert [read_number(pixels) for pixels in frames.pixels[:4]] == [3] * 4


def break_in_half(folder):
    content = (folder / "frame4.png").read_bytes()
    (folder / "frame4.png").write_bytes(content[: len(content) // 2])


def break_with_text(folder):
    (folder / "frame4.png").write_text("<html>not found</html>")


def break_empty(folder):
    (folder / "frame4.png").write_bytes(b"")


def break_size(folder):
    Image.fromarray(draw_frame(4, (320, 64))).save(folder / "frame4.png")


def break_into_folder(folder):
    (folder / "frame4.png").unlink()
    (folder / "frame4.png").mkdir()


@pytest.mark.parametrize(
    ("broken", "code", "reason"),
    [
        (break_in_half, "corrupt", "an unreadable image"),
        (break_with_text, "corrupt", "an unreadable image"),
        (break_empty, "empty", "zero bytes"),
        (break_size, "corrupt", "320x64 pixels in a clip that begins with 160x64"),
        (break_into_folder, "not_a_video", "not a regular file"),
    ],
)
def test_an_unreadable_frame_is_an_error_that_names_it(folder, broken, code, reason):
    broken(folder)
    with pytest.raises(VideoError, match=reason) as caught:
        read_frames(folder, VideoSettings(num_frames=100))
    assert (caught.value.code, caught.value.path.name) == (code, "frame4.png")


def test_a_missing_frame_of_a_list_is_named(folder):
    with pytest.raises(VideoError, match="no such file") as caught:
        read_frames([folder / "frame1.png", folder / "frame99.png"], VideoSettings())
    assert (caught.value.code, caught.value.path.name) == ("not_found", "frame99.png")


def test_a_folder_or_list_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no frame")
    with pytest.raises(VideoError, match=r"a folder without frames \(.apng, .bmp") as caught:
        read_frames(tmp_path, VideoSettings())
    assert caught.value.code == "not_a_video"
    with pytest.raises(VideoError, match="an empty list of frame files") as caught:
        read_frames([], VideoSettings())
    assert caught.value.code == "empty"


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.apng", "a.gif"])
def test_an_animation_is_all_its_pictures_for_as_long_as_they_stand(tmp_path, name):
    pictures = [Image.new("RGB", (64, 64), (30 * number, 0, 0)) for number in range(5)]
    form = "PNG" if name == "a.apng" else None
    pictures[0].save(
        tmp_path / name,
        form,
        save_all=True,
        append_images=pictures[1:],
        duration=[100, 200, 300, 400, 500],
        loop=0,
    )
    frames = read_frames(tmp_path / name, VideoSettings(num_frames=10))
    np.testing.assert_allclose(frames.pixels[:, 0, 0, 0], [0, 30, 60, 90, 120], atol=4)
    np.testing.assert_allclose(frames.times, [0, 0.1, 0.3, 0.6, 1.0], atol=1e-6)


def test_an_animation_lasts_as_long_as_its_pictures_stand(tmp_path):
    pictures = [Image.new("RGB", (64, 64), (30 * number, 0, 0)) for number in range(5)]
    pictures[0].save(
        tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=[0, 200, 300, 0, 5]
    )
    frames = read_frames(tmp_path / "a.webp", VideoSettings(num_frames=10))
    assert frames.duration == pytest.approx(0.8), "a duration of 10 ms or less is a tenth second"


def test_the_picture_for_programs_that_play_no_animation_is_not_part_of_it(tmp_path):
    pictures = [Image.new("RGB", (64, 64), (30 * number, 0, 0)) for number in range(4)]
    pictures[3].save(
        tmp_path / "a.png", save_all=True, append_images=pictures[:3], default_image=True
    )
    frames = read_frames(tmp_path / "a.png", VideoSettings(num_frames=10))
    assert frames.pixels[:, 0, 0, 0].tolist() == [0, 30, 60]


def test_sixteen_bits_of_grey_are_scaled_to_eight(tmp_path):
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).round().astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "0.png")
    pixels = read_frames(tmp_path, VideoSettings()).pixels[0]
    np.testing.assert_allclose(pixels[..., 1], ramp / 257, atol=0.51)
    assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white_whatever_colour_it_hides(tmp_path, mode):
    hidden = np.zeros((64, 64, 4), np.uint8)
    hidden[:32, :, 1], hidden[32:] = 255, (0, 0, 0, 255)
    Image.fromarray(hidden).convert(mode).save(tmp_path / "0.png")
    pixels = read_frames(tmp_path, VideoSettings()).pixels[0]
    assert (pixels[:32] == 255).all()
    assert (pixels[32:] == 0).all()


def test_large_pictures_are_refused_before_they_are_decoded(tmp_path):
    for number in range(4):
        Image.new("1", (4000, 4000)).save(tmp_path / f"{number}.png")
    with pytest.raises(VideoError, match=r"video\.max_clip_gb allows 0\.1") as caught:
        read_frames(tmp_path, VideoSettings(max_clip_gb=0.1))
    assert caught.value.code == "too_large"
    Image.new("1", (40, 40)).save(tmp_path / "0.png")
    with pytest.raises(VideoError, match="4000x4000 pixels in a clip that begins with 40x40"):
        read_frames(tmp_path, VideoSettings(max_clip_gb=0.1))
