"""Where a clip lies: addresses of this machine, spellings of a name, ways out of the video root."""

import unicodedata
from pathlib import Path

import pytest

from dpo_video.core.errors import UserError
from dpo_video.video import VideoError, resolve_video
from dpo_video.video.sources import check_inside


def test_an_address_of_this_machine_is_its_path(tmp_path):
    assert resolve_video("file:///data/a%20b.mp4", tmp_path) == Path("/data/a b.mp4")
    assert resolve_video("file://localhost/data/a.mp4", tmp_path) == Path("/data/a.mp4")
    with pytest.raises(VideoError, match="an address, not a file"):
        resolve_video("file://host/data/a.mp4", tmp_path)


@pytest.mark.parametrize(("written", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_is_found_in_either_spelling_of_unicode(tmp_path, written, stored):
    path = tmp_path / unicodedata.normalize(stored, "café.mp4")
    path.touch()
    assert resolve_video(unicodedata.normalize(written, "café.mp4"), tmp_path) == path


def test_a_name_that_is_there_in_both_spellings_is_the_one_that_was_written(tmp_path):
    for form in ("NFC", "NFD"):
        (tmp_path / unicodedata.normalize(form, "é.mp4")).touch()
        name = unicodedata.normalize(form, "é.mp4")
        assert resolve_video(name, tmp_path) == tmp_path / name
    assert resolve_video("ü.mp4", tmp_path) == tmp_path / "ü.mp4", "that of none is as written"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Return a video root with clips, frames and links, beside a folder that is none of its."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    root, elsewhere = tmp_path / "clips", tmp_path / "elsewhere"
    for folder in (root / "part", root / "frames", root / "linked", elsewhere, tmp_path / "home"):
        folder.mkdir(parents=True)
    for path in (root / "a.mp4", root / "frames" / "1.png", elsewhere / "secret.png"):
        path.touch()
    (root / "inner.mp4").symlink_to(root / "a.mp4")
    (root / "out.mp4").symlink_to(elsewhere / "secret.png")
    (root / "folder").symlink_to(elsewhere)
    (root / "linked" / "1.png").symlink_to(elsewhere / "secret.png")
    return root


@pytest.mark.parametrize(
    "name",
    [
        "../elsewhere/secret.png",
        "part/../../elsewhere/secret.png",
        "folder/../clips/a.mp4/../../elsewhere/secret.png",
        "{elsewhere}/secret.png",
        "file://{elsewhere}/secret.png",
        "~/a.mp4",
        "out.mp4",
        "folder/secret.png",
        "folder",
        "linked",
        "..",
        ["frames/1.png", "../elsewhere/secret.png"],
    ],
)
def test_a_clip_outside_of_the_root_is_refused_by_the_setting_that_allows_it(root, name):
    if isinstance(name, str):
        name = name.format(elsewhere=root.parent / "elsewhere")
    with pytest.raises(UserError, match=r"f:1: the clip .* outside of data.video_root") as caught:
        check_inside(name, root, "f:1")
    assert "data.outside_root=true" in str(caught.value)


def test_what_lies_in_the_root_is_not_refused_however_it_is_named(root, monkeypatch):
    inside = ["a.mp4", "part/../a.mp4", "inner.mp4", "frames", "not_there.mp4", str(root / "a.mp4")]
    for name in [*inside, [], ["frames/1.png"], "a\0.mp4", "https://example.org/a.mp4"]:
        check_inside(name, root, "f:1")
    link = root.parent / "link"
    link.symlink_to(root)
    check_inside("a.mp4", link, "f:1")
    monkeypatch.chdir(root.parent)
    check_inside("a.mp4", Path("clips"), "f:1")


def test_a_snapshot_of_the_hub_may_link_to_the_blobs_of_its_own_repository(tmp_path):
    for repository in ("datasets--me--clips", "datasets--you--clips"):
        (tmp_path / repository / "blobs").mkdir(parents=True)
        (tmp_path / repository / "blobs" / "3f9a").touch()
    root = tmp_path / "datasets--me--clips" / "snapshots" / "c0ffee" / "videos"
    root.mkdir(parents=True)
    (root / "a.mp4").symlink_to("../../../blobs/3f9a")
    (root / "b.mp4").symlink_to(tmp_path / "datasets--you--clips" / "blobs" / "3f9a")
    check_inside("a.mp4", root, "f:1")
    with pytest.raises(
        UserError, match=r"f:1: the clip 'b\.mp4' is .* outside of data\.video_root"
    ):
        check_inside("b.mp4", root, "f:1")
