"""Files and live streams whose picture follows the sound after a while."""

import io
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
import torch

from hallo_live_core.clock import MediaClock
from hallo_live_core.live.fmp4 import FragmentedMp4
from hallo_live_core.media.clip_reader import evenly, read_clip
from hallo_live_core.media.kept_sound import KeptSound
from hallo_live_core.media.mp4 import Mp4Writer
from hallo_live_core.types import MediaChunk

CLOCK = MediaClock(follow_after=6)  # after one block: frames 0 to 20 at 24 fps, then 25
BLOCKS = 4
FRAMES = 24 * BLOCKS - 3
TIMES = [CLOCK.frame_time(frame) for frame in range(FRAMES + 1)]


def chunks():
    """A white frame every 20 frames, and a click at its time."""
    pictures = torch.zeros(FRAMES, 32, 64, 3, dtype=torch.uint8)
    samples = torch.zeros(CLOCK.samples_for_frames(FRAMES))
    for frame in range(10, FRAMES, 20):
        pictures[frame] = 255
        samples[round(TIMES[frame] * 16_000)] = 1
    for block in range(BLOCKS):
        first, end = CLOCK.frames(6 * block), CLOCK.frames(6 * block + 6)
        start = CLOCK.samples_for_frames(first)
        yield MediaChunk(
            block=block,
            frames=pictures[first:end],
            samples=samples[start : CLOCK.samples_for_frames(end)],
            first_frame=first,
            first_sample=start,
            frame_time=CLOCK.frame_time(first),
            sample_time=CLOCK.sample_time(start),
            is_last=end == FRAMES,
        )


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with Mp4Writer(path, clock=CLOCK) as writer:
        for chunk in chunks():
            writer.write(chunk)
    return path


@pytest.fixture(scope="module")
def stream():
    muxer = FragmentedMp4(clock=CLOCK)
    segments = [segment for chunk in chunks() for segment in muxer.write(chunk)]
    return b"".join(segment.data for segment in [*segments, *muxer.close()])


def picture_of(source):
    with av.open(source) as container:
        return [
            (frame.time, frame.to_ndarray(format="gray")) for frame in container.decode(video=0)
        ]


def sound_of(source):
    with av.open(source) as container:
        parts = [(frame.time, frame.to_ndarray()[0]) for frame in container.decode(audio=0)]
    return parts[0][0], np.concatenate([part for _, part in parts])


@pytest.fixture(params=["file", "live"])
def source(request, clip, stream):
    return lambda: str(clip) if request.param == "file" else io.BytesIO(stream)


def test_frames_are_shown_at_the_times_of_the_clock(source):
    found = [time for time, _ in picture_of(source())]
    assert found == pytest.approx([float(time) for time in TIMES[:-1]], abs=1e-4)


def test_flashes_and_clicks_stay_together_to_the_end(source):
    start, wave = sound_of(source())
    for time in (time for time, pixels in picture_of(source()) if pixels.mean() > 128):
        near = round((time - start) * 16_000)
        click = max(0, near - 2000) + np.abs(wave[max(0, near - 2000) : near + 2000]).argmax()
        assert abs(click / 16_000 + start - time) < 0.5 / 25


def test_picture_and_sound_of_the_file_end_together(clip):
    with av.open(str(clip)) as container:
        lengths = [float(s.duration * s.time_base) for s in container.streams.get()]
    _, wave = sound_of(str(clip))
    assert len(wave) == CLOCK.samples_for_frames(FRAMES)
    assert max(lengths) == pytest.approx(float(TIMES[-1]), abs=0.07)
    assert lengths[0] == pytest.approx(float(TIMES[-1]), abs=1e-3)


def test_judges_see_such_a_clip_at_an_even_rate():
    clock = MediaClock(follow_after=30)
    times = [float(clock.frame_time(frame)) for frame in range(24 * 20 - 3)]
    fps = Fraction(len(times)) / clock.frame_time(len(times))
    seen = evenly(times, fps)
    assert len(seen) == len(times) and seen == sorted(seen)
    late = [i / fps - clock.frame_time(frame) for i, frame in enumerate(seen)]
    assert min(late) >= -0.001 and max(late) < 1 / 24
    assert max(abs(i / fps - clock.frame_time(i)) for i in range(len(times))) > 0.1


def test_clips_of_a_constant_rate_are_read_as_they_are():
    jittery = [round(frame / 24, 3) + (0.01 if frame % 3 else 0) for frame in range(100)]
    assert evenly(jittery, Fraction(24)) == list(range(100))


def test_such_a_file_is_read_whole(clip):
    read = read_clip(clip)
    assert read.seconds == pytest.approx(float(TIMES[-1]), abs=0.05)
    assert len(read.frames) == FRAMES


def test_kept_sound_comes_back_in_any_pieces_with_silence_around_it():
    kept, wave = KeptSound(), np.arange(1, 2501, dtype=np.float32)
    for part in (wave[:700], wave[700:700], wave[700:]):
        kept.add(part)
    for size in (1, 999, 1024, 5000):
        parts = list(kept.parts(-30, 2600, size))
        assert [first for first, _ in parts] == list(range(-30, 2600, size))
        assert all(len(a) == size for (_, a), _ in pairwise(parts))
        whole = np.concatenate([part for _, part in parts])
        assert np.array_equal(whole, np.pad(wave, (30, 100)))


def test_a_writer_that_got_no_sound_writes_silence(tmp_path):
    with Mp4Writer(tmp_path / "silent.mp4", clock=CLOCK) as writer:
        for chunk in chunks():
            writer.write(replace(chunk, samples=torch.zeros(0)))
    _, wave = sound_of(str(tmp_path / "silent.mp4"))
    assert len(wave) == CLOCK.samples_for_frames(FRAMES) and not wave.any()


def test_writing_for_long_takes_no_memory(tmp_path):
    """A second of sound with two frames, 100 times: 6 MB of sound, none of which stays."""
    chunk, held = next(chunks()), []
    second = replace(chunk, frames=chunk.frames[:2], samples=torch.rand(16_000) - 0.5)
    with Mp4Writer(tmp_path / "long.mp4", clock=CLOCK) as writer:
        tracemalloc.start()
        try:
            for _ in range(100):
                writer.write(second)
                held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    assert max(held[-30:]) - max(held[20:50]) < 200_000
