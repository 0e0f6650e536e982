"""Worker processes: order, a hang or a crash of one costs one clip, and none outlives its parent.
Signals are real.
"""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from clips import draw_frame, read_number, write_clip
from PIL import Image

from dpo_video.core.errors import UserError
from dpo_video.recipe import VideoSettings
from dpo_video.video import ClipRequest, FramePool, Frames, VideoError
from dpo_video.video.frames import PASSING

ONE = VideoSettings(num_frames=4, workers=1, timeout=60)
TWO = VideoSettings(num_frames=4, workers=2, timeout=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of short clips a.mp4 .. f.mp4 of different lengths, and a long one."""
    folder = tmp_path_factory.mktemp("clips")
    for position, name in enumerate("abcdef"):
        write_clip(folder / f"{name}.mp4", 10 * (position + 1), options={"preset": "ultrafast"})
    write_clip(
        folder / "long.mp4", 2000, size=(320, 240), options={"preset": "ultrafast", "g": "2000"}
    )
    return folder


def request(folder: Path, name: str, **part: float) -> ClipRequest:
    return ClipRequest(key=name, video=folder / f"{name}.mp4", **part)


def workers(parent: int | None = None) -> list[psutil.Process]:
    """Return the decoding processes of a process (this one by default)."""
    return [child for child in psutil.Process(parent).children() if is_worker(child)]


def is_worker(process: psutil.Process) -> bool:
    try:
        return "dpo_video.video.worker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def signal_themselves(
    number: int, path: Path, modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have every decoding process send itself a signal when it opens `path`: it dies or stops in
    the midst of it.

    Python imports a `sitecustomize` module at its start, and workers look for modules where this
    process does.
    """
    (modules / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
        import os, sys
        def hook(event, arguments):
            if event == "open" and str(arguments[0]) == {str(path)!r}:
                os.kill(os.getpid(), {int(number)})
        sys.addaudithook(hook)
    """)
    )
    monkeypatch.syspath_prepend(modules)


def test_results_come_in_the_order_of_the_requests(folder):
    requests = [request(folder, name) for name in ("long", "a", "f", "b", "e", "c")]
    with FramePool(TWO) as pool:
        results = list(pool.map(requests))
    assert [asked for asked, _ in results] == requests
    lengths = {"long": 2000, "a": 10, "b": 20, "c": 30, "e": 50, "f": 60}
    for asked, frames in results:
        assert isinstance(frames, Frames)
        assert frames.total_frames == lengths[asked.key]
        assert [read_number(pixels) for pixels in frames.pixels] == frames.indices


def test_a_part_and_a_list_of_frames_reach_the_workers(folder, tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(files):
        Image.fromarray(draw_frame(number)).save(path)
    part = request(folder, "f", start=1.0, end=1.16)
    listed = ClipRequest(key="list", video=tuple(reversed(files)))
    with FramePool(ONE) as pool:
        (_, first), (_, second) = pool.map([part, listed])
    assert first.indices == [25, 26, 27, 28]
    assert [read_number(pixels) for pixels in second.pixels] == [2, 1, 0]


def test_a_clip_that_cannot_be_read_is_a_result_and_the_others_go_on(folder, tmp_path):
    (tmp_path / "bad.mp4").write_text("<html>")
    requests = [
        request(folder, "a"),
        ClipRequest(key="bad", video=tmp_path / "bad.mp4"),
        request(folder, "b"),
    ]
    with FramePool(TWO) as pool:
        good, bad, other = (result for _, result in pool.map(requests))
    assert isinstance(good, Frames)
    assert isinstance(other, Frames)
    assert isinstance(bad, VideoError)
    assert (bad.code, bad.path) == ("not_a_video", tmp_path / "bad.mp4")
    assert "an HTML page" in str(bad)


def test_a_worker_that_hangs_costs_its_clip_only(folder, tmp_path, monkeypatch):
    """A stopped process (SIGSTOP) answers nothing and ends by no request, like a decoder in an
    endless loop.
    """
    signal_themselves(signal.SIGSTOP, folder / "long.mp4", tmp_path, monkeypatch)
    with FramePool(VideoSettings(num_frames=4, workers=2, timeout=8)) as pool:
        results = {
            asked.key: result
            for asked, result in pool.map(request(folder, name) for name in ("long", *"ab"))
        }
        again = [result for _, result in pool.map([request(folder, name) for name in "abcd"])]
    assert isinstance(results["long"], VideoError)
    assert results["long"].code == "timeout"
    assert "not read within 8 seconds (video.timeout)" in str(results["long"])
    assert all(isinstance(result, Frames) for result in [results["a"], results["b"], *again])


@pytest.mark.parametrize("settings", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_costs_its_clip_only(folder, number, settings, tmp_path, monkeypatch):
    signal_themselves(number, folder / "long.mp4", tmp_path, monkeypatch)
    with FramePool(settings) as pool:
        results = {
            asked.key: result
            for asked, result in pool.map(request(folder, name) for name in ("long", *"ab"))
        }
    assert isinstance(results["long"], VideoError)
    assert results["long"].code == "crashed"
    assert number.name in str(results["long"])
    assert isinstance(results["a"], Frames)
    assert isinstance(results["b"], Frames)


def signal_once(condition: str, flag: Path, modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the first decoding process in which an audit event meets a condition kill itself."""
    (modules / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
        import os, signal, sys
        def hook(event, arguments):
            if {condition} and not os.path.exists({str(flag)!r}):
                os.close(os.open({str(flag)!r}, os.O_CREAT))
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
    """)
    )
    monkeypatch.syspath_prepend(modules)


@pytest.mark.parametrize("settings", [ONE, TWO], ids=["one", "two"])
def test_a_worker_that_dies_once_costs_nothing(folder, settings, tmp_path, monkeypatch):
    """The machine ran out of memory for a moment: the clip is as good as any."""
    opened = f'event == "open" and str(arguments[0]) == {str(folder / "long.mp4")!r}'
    signal_once(opened, tmp_path / "flag", tmp_path, monkeypatch)
    with FramePool(settings) as pool:
        results = [
            result for _, result in pool.map(request(folder, name) for name in ("long", *"ab"))
        ]
    assert (tmp_path / "flag").exists()
    assert all(isinstance(result, Frames) for result in results)


def test_a_disk_that_gives_an_error_is_no_fault_of_the_clip(folder, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
        import errno, os, sys
        def hook(event, arguments):
            if event == "open" and str(arguments[0]) == {str(folder / "long.mp4")!r}:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        sys.addaudithook(hook)
    """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    with FramePool(ONE) as pool:
        ((_, result),) = pool.map([request(folder, "long")])
    assert isinstance(result, VideoError)
    assert result.code == "io_error" and "Input/output error" in str(result)
    assert result.code in PASSING


def test_a_worker_killed_while_it_starts_is_replaced(folder, tmp_path, monkeypatch):
    imported = 'event == "import" and arguments[0] == "dpo_video.video.worker"'
    signal_once(imported, tmp_path / "flag", tmp_path, monkeypatch)
    with FramePool(ONE) as pool:
        ((_, result),) = pool.map([request(folder, "a")])
    assert (tmp_path / "flag").exists()
    assert isinstance(result, Frames)


def test_a_worker_killed_between_clips_costs_nothing(folder):
    with FramePool(ONE) as pool:
        list(pool.map([request(folder, "a")]))
        worker = workers()[0]
        worker.kill()
        worker.wait(60)
        ((_, result),) = pool.map([request(folder, "b")])
    assert isinstance(result, Frames)


def test_no_more_than_look_ahead_requests_are_taken_early(folder):
    taken = []

    def requests() -> Iterator[ClipRequest]:
        for name in "abcdef":
            taken.append(name)
            yield request(folder, name)

    with FramePool(TWO, look_ahead=3) as pool:
        for position, _ in enumerate(pool.map(requests())):
            assert len(taken) <= position + 3


def test_equal_requests_side_by_side_are_decoded_once(folder):
    requests = [request(folder, name) for name in "aaabba"]
    with FramePool(ONE, look_ahead=1) as pool:
        frames = [result for _, result in pool.map(requests)]
    assert frames[0] is frames[1] is frames[2]
    assert frames[3] is frames[4]
    assert frames[2] is not frames[3]


def test_no_process_is_left_after_a_pass_that_was_given_up(folder):
    with pytest.raises(ZeroDivisionError), FramePool(TWO) as pool:
        for _ in pool.map(request(folder, "long") for _ in range(100)):
            raise ZeroDivisionError
    assert workers() == []


def test_a_pool_can_map_again_after_a_pass_that_was_given_up(folder):
    with FramePool(TWO) as pool:
        next(pool.map([request(folder, name) for name in "abcdef"]))
        results = [(asked.key, type(result)) for asked, result in pool.map([request(folder, "c")])]
    assert results == [("c", Frames)]


def test_an_error_of_the_setup_stops_the_pass(folder, tmp_path, monkeypatch):
    """Workers look for modules where this process does: here decord is one that fails to import."""
    (tmp_path / "decord.py").write_text("raise ImportError('no such wheel')")
    monkeypatch.syspath_prepend(tmp_path)
    settings = VideoSettings(workers=1, backend="decord")
    with (
        FramePool(settings) as pool,
        pytest.raises(UserError, match=r"dpo-video\[decord\].*no such wheel") as caught,
    ):
        list(pool.map([request(folder, "a")]))
    assert not isinstance(caught.value, VideoError)


def test_workers_that_cannot_start_are_an_error_not_a_bad_clip(folder, tmp_path, monkeypatch):
    (tmp_path / "av.py").write_text("raise SystemExit(7)")
    monkeypatch.syspath_prepend(tmp_path)
    with (
        FramePool(ONE) as pool,
        pytest.raises(UserError, match=r"a decoding process does not start \(exit code 7"),
    ):
        list(pool.map([request(folder, "a")]))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_its_parent(folder, tmp_path, number):
    """The script has no `if __name__ == "__main__"`: workers must not run it again."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        from pathlib import Path
        from dpo_video.recipe import VideoSettings
        from dpo_video.video import ClipRequest, FramePool
        clip = Path({str(folder / "a.mp4")!r})
        requests = (ClipRequest(key=str(n), video=clip) for n in range(1_000_000))
        with FramePool(VideoSettings(num_frames=4)) as pool:
            for request, frames in pool.map(requests):
                if request.key == "0":
                    print(frames.pixels.shape, flush=True)
    """)
    )
    paths = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    ) as parent:
        assert parent.stdout.readline() == "(4, 64, 160, 3)\n"
        while (
            len(children := workers(parent.pid)) < 2
        ):  # the second may start after the first has answered
            assert parent.poll() is None
        parent.send_signal(number)
        _, said = parent.communicate(timeout=60)
    assert psutil.wait_procs(children, timeout=60)[1] == []
    assert parent.returncode == -number
    assert ("KeyboardInterrupt" in said) == (number == signal.SIGINT)
    assert said.count("Traceback") == (number == signal.SIGINT)


def test_neither_this_package_nor_its_workers_import_torch():
    check = "import sys, dpo_video.video, dpo_video.video.worker; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", check],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        ).returncode
        == 0
    )
