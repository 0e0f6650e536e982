"""The sound of a clip: where its samples stand in time, of which part, from which tracks."""

import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import draw_frame, write_clip
from numpy.typing import NDArray

from dpo_video.recipe import VideoSettings
from dpo_video.video import ClipRequest, FramePool, Frames, VideoError
from dpo_video.video.cache import frames_identity, read_frames_entry, write_frames
from dpo_video.video.frames import SoundFormat
from dpo_video.video.probe import probe
from dpo_video.video.read import read_frames
from dpo_video.video.sound import read_sound

RATE = 16_000
FORM = SoundFormat(RATE)
SETTINGS = VideoSettings(num_frames=4, workers=1)


def clicks(*seconds: float, length: float, rate: int = RATE) -> NDArray[np.float32]:
    """Return silence with bursts of a high tone, 20 ms each, that begin at some seconds."""
    wave = np.zeros(round(length * rate), np.float32)
    burst = 0.8 * np.sin(2 * np.pi * 2000 / rate * np.arange(round(0.02 * rate)))
    for second in seconds:
        begin = round(second * rate)
        wave[begin : begin + len(burst)] = burst
    return wave


def write_film(
    path: Path,
    *tracks: NDArray[np.float32],
    rate: int = RATE,
    codec: str = "pcm_s16le",
    num_frames: int = 50,
    first: int = 0,
    late: float = 0.0,
) -> Path:
    """Write a film of 25 frames a second with tracks of sound, (S,) mono or (C, S).

    Args:
        first: the first frame's place in time: as many frames are missing before it.
        late: seconds after which the sound begins.
    """
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"g": "10", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        heard = []
        for wave in tracks:
            layout = "mono" if wave.ndim == 1 else "stereo"
            heard.append(file.add_stream(codec, rate=rate, layout=layout))
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(draw_frame(number, (160, 120)), format="rgb24")
            frame.pts = number + first
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        for track, wave in zip(heard, tracks, strict=True):
            channels = np.atleast_2d(wave)
            for begin in range(0, channels.shape[1], 1024):
                part = np.ascontiguousarray(channels[:, begin : begin + 1024])
                if codec.startswith("pcm"):
                    packed = np.ascontiguousarray((part * 32767).round().astype(np.int16).T)
                    frame = av.AudioFrame.from_ndarray(
                        packed.reshape(1, -1), format="s16", layout=track.layout
                    )
                else:
                    frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=track.layout)
                frame.sample_rate, frame.pts = rate, begin + round(late * rate)
                file.mux(track.encode(frame))
            file.mux(track.encode())
    return path


def write_raw(path: Path, samples: NDArray[Any], codec: str, layout: str) -> Path:
    """Write a film with raw samples (S, C) of sound, in packets of 1,000."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        track = file.add_stream(codec, rate=RATE, layout=layout)
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(draw_frame(number, (160, 120)), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        for begin in range(0, len(samples), 1000):
            packet = av.Packet(samples[begin : begin + 1000].tobytes())
            packet.stream, packet.time_base = track, Fraction(1, RATE)
            packet.pts, packet.dts, packet.duration = begin, begin, 1000
            file.mux(packet)
    return path


def onsets(sound: NDArray[np.float32] | None, *, rate: int = RATE) -> list[float]:
    """Return the seconds at which bursts begin, found by a threshold."""
    assert sound is not None
    loud = np.abs(sound) > 0.2
    places = np.flatnonzero(loud)
    first = [place for place in places if not loud[max(place - rate // 50, 0) : place].any()]
    return [float(place / rate) for place in first]


def heard(path: Path, form: SoundFormat = FORM, **part: float) -> Frames:
    """Return a clip with its sound."""
    return read_frames(path, SETTINGS, sound=form, **part)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mov", "pcm_s16le"), ("a.mp4", "aac"), ("a.mkv", "aac"), ("a.mp4", "libmp3lame")],
)
def test_samples_stand_where_their_time_is(tmp_path: Path, name: str, codec: str) -> None:
    """To 3 ms under lossy codecs, whose bursts ring before they begin."""
    path = write_film(tmp_path / name, clicks(0.25, 1.0, 1.75, length=2.0), codec=codec)
    frames = heard(path)
    assert onsets(frames.sound) == pytest.approx([0.25, 1.0, 1.75], abs=0.003)
    assert frames.sound_rate == RATE and abs(frames.sound_samples / RATE - 2.0) < 0.05
    assert frames.sound is not None and frames.sound.dtype == np.float32


def test_samples_are_exact_at_the_files_own_rate(tmp_path: Path) -> None:
    wave = clicks(0.5, length=2.0)
    read = heard(write_film(tmp_path / "a.mov", wave)).sound
    assert read is not None
    np.testing.assert_allclose(read, (wave * 32767).round() / 32768, atol=1e-6)


@pytest.mark.parametrize(
    ("start", "end", "there"),
    [(0.48, 1.6, [0.52]), (1.0, None, [0.0, 0.75]), (None, 0.8, [0.25])],
)
def test_a_part_of_a_file_has_the_sound_of_that_part(
    tmp_path: Path, start: float | None, end: float | None, there: list[float]
) -> None:
    path = write_film(tmp_path / "a.mov", clicks(0.25, 1.0, 1.75, length=2.0))
    frames = read_frames(path, SETTINGS, sound=FORM, start=start, end=end)
    assert onsets(frames.sound) == pytest.approx(there, abs=1e-3)
    assert frames.sound_samples / RATE == pytest.approx(frames.duration, abs=1e-3)


def test_a_part_far_into_a_file_is_searched_and_not_decoded_up_to(tmp_path: Path) -> None:
    """Its samples are those that a whole reading has there."""
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 20 * RATE).astype(np.float32)
    path = write_film(tmp_path / "a.mp4", wave, codec="aac", num_frames=500)
    part, whole = heard(path, start=12.0, end=15.0).sound, heard(path).sound
    assert part is not None and whole is not None
    assert len(part) == 3 * RATE
    np.testing.assert_allclose(part[400:-400], whole[12 * RATE + 400 : 15 * RATE - 400], atol=1e-4)


def test_time_counts_from_the_first_frame_of_the_film(tmp_path: Path) -> None:
    """A film that begins a second after its sound."""
    path = write_film(tmp_path / "a.mkv", clicks(0.25, 1.5, length=3.0), first=25)
    assert onsets(heard(path).sound) == pytest.approx([0.5], abs=0.003)


def test_before_a_sound_that_begins_late_there_is_silence(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mkv", clicks(0.1, length=1.0), late=0.5)
    frames = heard(path)
    assert onsets(frames.sound) == pytest.approx([0.6], abs=0.003)
    assert frames.sound_samples / RATE == pytest.approx(1.5, abs=0.01)


def test_a_part_that_no_sound_falls_into_has_none(tmp_path: Path) -> None:
    """Before a sound that begins late, and after one that ended."""
    late = write_film(tmp_path / "late.mkv", clicks(0.1, length=1.0), late=1.0)
    assert heard(late, end=0.8).sound is None and heard(late, end=1.4).sound is not None
    short = write_film(tmp_path / "short.mkv", clicks(0.1, length=1.0))
    assert heard(short, start=1.2).sound is None and heard(short, start=0.8).sound is not None


def test_a_packet_cut_in_half_by_a_search_is_no_damage(tmp_path: Path) -> None:
    """An MPEG program stream is searched by bytes, and the first packet then begins in a frame."""
    wave = clicks(*range(12), length=12.0, rate=48_000)
    path = write_film(tmp_path / "a.mpg", wave, rate=48_000, codec="mp2", num_frames=300)
    for start in (4.5, 5.3, 6.7, 8.1, 9.9):
        assert heard(path, start=start).note is None


def test_a_gap_in_a_track_is_silence(tmp_path: Path) -> None:
    """Half a second of packets is missing: what follows stays at its time."""
    whole = write_film(tmp_path / "whole.mkv", clicks(0.25, 1.0, 1.75, length=2.0))
    path = tmp_path / "a.mkv"
    with av.open(str(whole)) as source, av.open(str(path), "w") as file:
        streams = {stream.index: file.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is None:
                continue
            second = float(packet.pts * packet.time_base)
            if packet.stream.type == "video" or not 0.8 < second < 1.3:
                packet.stream = streams[packet.stream.index]
                file.mux(packet)
    assert onsets(heard(path).sound) == pytest.approx([0.25, 1.75], abs=0.003)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = clicks(0.25, length=2.0), clicks(1.0, length=2.0)
    read = heard(write_film(tmp_path / "a.mov", np.stack([left, right]))).sound
    assert read is not None
    np.testing.assert_allclose(read, (left + right) / 2, atol=1e-4)


def test_more_channels_than_a_frame_has_planes_for_are_averaged(tmp_path: Path) -> None:
    """Ambisonic sound of the third order has 16, of which one is heard here."""
    samples = np.zeros((2 * RATE, 16), np.int16)
    samples[:, 11] = (clicks(0.25, 1.0, length=2.0) * 32767).round()
    read = heard(write_raw(tmp_path / "a.mkv", samples, "pcm_s16le", "hexadecagonal")).sound
    assert read is not None
    np.testing.assert_allclose(read, samples.mean(axis=1) / 32768, atol=1e-6)


def test_numbers_that_are_no_sound_are_not_heard(tmp_path: Path) -> None:
    """Damaged floats: no number is silence, and nothing is louder than full scale."""
    samples = clicks(0.25, length=2.0)[:, None]
    samples[RATE : RATE + 4, 0] = [np.nan, np.inf, -np.inf, 1e30]
    read = heard(write_raw(tmp_path / "a.mkv", samples, "pcm_f32le", "mono")).sound
    assert read is not None
    assert read[RATE : RATE + 4].tolist() == [0, 1, -1, 1]
    assert np.array_equal(read[:RATE], samples[:RATE, 0])


def test_other_rates_are_resampled(tmp_path: Path) -> None:
    """A tone of 440 Hz is one at 16,000 samples a second too."""
    wave = 0.5 * np.sin(2 * np.pi * 440 / 44_100 * np.arange(2 * 44_100)).astype(np.float32)
    read = heard(write_film(tmp_path / "a.mov", wave, rate=44_100)).sound
    assert read is not None
    expected = 0.5 * np.sin(2 * np.pi * 440 / RATE * np.arange(len(read)))
    assert len(read) == pytest.approx(2 * RATE, abs=2)
    np.testing.assert_allclose(read[200:-200], expected[200:-200], atol=2e-3)


def test_what_comes_after_the_most_that_is_heard_is_told(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mov", clicks(0.25, 1.0, length=2.0))
    frames = heard(path, SoundFormat(RATE, max_seconds=0.5))
    assert frames.sound_samples == RATE // 2
    assert frames.note == "its sound after 0.5 s is left out"
    whole = heard(path, SoundFormat(RATE, max_seconds=2.0))
    assert whole.note is None and whole.sound_samples == 2 * RATE


def test_of_several_tracks_one_is_read_and_told(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mkv", clicks(0.25, length=2.0), clicks(1.0, length=2.0))
    frames = heard(path)
    assert onsets(frames.sound) == pytest.approx([0.25], abs=0.003)
    assert frames.note == "2 tracks of sound in it; number 1 is read"


def test_no_sound_is_none(tmp_path: Path) -> None:
    """Neither of a film without a track, nor of pictures, nor where nobody listens."""
    silent = heard(write_clip(tmp_path / "a.mp4", 20))
    assert silent.sound is None and silent.note is None and silent.sound_rate == RATE
    sounding = write_clip(tmp_path / "b.mp4", 20, sound=1.0)
    deaf = read_frames(sounding, SETTINGS)
    assert deaf.sound is None and deaf.sound_rate == 0
    assert heard(sounding).sound is not None


def test_a_track_shorter_than_a_tenth_of_a_second_is_left_out_and_told(tmp_path: Path) -> None:
    frames = heard(write_film(tmp_path / "a.mov", clicks(length=0.05)))
    assert frames.sound is None
    assert frames.note == "its sound is shorter than 0.1 s and left out"


def test_a_track_that_cannot_be_decoded_costs_the_sound_and_not_the_clip(tmp_path: Path) -> None:
    """All bytes of its packets are noise."""
    whole = write_film(tmp_path / "whole.mp4", clicks(0.25, length=2.0), codec="aac")
    data = bytearray(whole.read_bytes())
    with av.open(str(whole)) as file:
        places = [(p.pos, p.size) for p in file.demux(audio=0) if p.pos is not None and p.size]
    noise = np.random.default_rng(1)
    for place, size in places:
        data[place : place + size] = noise.integers(0, 256, size, dtype=np.uint8).tobytes()
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    frames = heard(path)
    assert len(frames.pixels) == 4
    assert "its sound" in str(frames.note)


def test_worker_processes_read_the_same(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 50, sound=2.0)
    with FramePool(SETTINGS, sound=FORM) as pool:
        frames = pool.read(ClipRequest(key="a", video=path))
    assert isinstance(frames, Frames) and frames.sound is not None
    here = heard(path).sound
    assert here is not None and np.array_equal(frames.sound, here)


def test_the_cache_keeps_sound_and_keeps_deaf_and_hearing_readers_apart(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 50, sound=2.0)
    frames = heard(path)
    again = read_frames_entry(write_frames(frames))
    assert frames.sound is not None and again.sound is not None
    assert np.array_equal(again.sound, frames.sound) and again.sound_rate == RATE
    silent = read_frames_entry(write_frames(read_frames(path, SETTINGS)))
    assert silent.sound is None
    request = ClipRequest(key="a", video=path)
    forms = (None, FORM, SoundFormat(8000), SoundFormat(RATE, 30.0))
    names = {str(frames_identity(request, SETTINGS, multiple_of=1, sound=one)) for one in forms}
    assert len(names) == 4


def test_a_track_that_takes_too_long_is_a_timeout(tmp_path: Path) -> None:
    video = probe(write_clip(tmp_path / "a.mp4", 20, sound=1.0))
    with pytest.raises(VideoError, match="timeout"):
        read_sound(video, FORM, begin=0, seconds=1, deadline=time.monotonic() - 1)


def test_sound_counts_among_the_bytes_of_a_clip(tmp_path: Path) -> None:
    """Four frames of 160 x 120 take 230,400 bytes, two seconds of sound 128,000."""
    path = write_clip(tmp_path / "a.mp4", 50, size=(160, 120), sound=2.0)
    for num_bytes, fits in ((359_000, True), (358_000, False)):
        settings = VideoSettings(num_frames=4, workers=1, max_clip_gb=num_bytes / (1 << 30))
        assert len(read_frames(path, settings).pixels) == 4
        if fits:
            assert read_frames(path, settings, sound=FORM).sound is not None
        else:
            with pytest.raises(VideoError, match=r"2 s of sound take .* video\.sound to false"):
                read_frames(path, settings, sound=FORM)
