"""Where imported rows say that their clips are."""

import pytest

from dpo_video.formats.fields import Dropped
from dpo_video.formats.import_file import place_video


@pytest.mark.parametrize(
    ("video", "placed"),
    [
        ("clips/v1.mp4", "clips/v1.mp4"),
        ("clips/v1", "clips/v1"),
        ("clips/v2", "clips/v2.mp4"),
        ("clips/../clips/v1.mp4", "clips/v1.mp4"),
        (["clips/a.jpg"], ["clips/a.jpg"]),
    ],
)
def test_videos_are_found_under_the_root(video, placed, root):
    assert place_video(video, root, check=True) == placed
    absolute = (
        [str(root / name) for name in video] if isinstance(video, list) else str(root / video)
    )
    assert place_video(absolute, root, check=True) == placed


@pytest.mark.parametrize("video", ["..", "../x", "clips/../../x", "/", "", "."])
def test_no_path_leaves_the_root(video, root):
    with pytest.raises(Dropped):
        place_video(video, root, check=False)


@pytest.mark.parametrize(
    ("name", "on_disk"),
    [
        ("caf\u00e9.mp4", "cafe\u0301.mp4"),
        ("cafe\u0301", "caf\u00e9.mp4"),
        ("lesson.part1", "lesson.part1.mp4"),
    ],
    ids=["NFC in the row", "NFD in the row", "a point and no suffix"],
)
def test_a_clip_is_found_in_the_other_spelling_of_its_name(tmp_path, name, on_disk):
    (tmp_path / on_disk).write_bytes(b"x")
    assert place_video(name, tmp_path, check=True) == on_disk


def test_a_link_that_leads_out_of_the_root_is_dropped_as_a_run_would_refuse_it(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "elsewhere.mp4").write_bytes(b"x")
    (tmp_path / "root" / "a.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    with pytest.raises(Dropped, match="video outside the root"):
        place_video("a.mp4", tmp_path / "root", check=True)
