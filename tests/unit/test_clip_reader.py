from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from hallo_live_core.errors import MediaError
from hallo_live_core.media.clip_reader import read_clip
from hallo_live_core.media.mp4 import Mp4Writer

from .live_media import one_chunk


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory):
    """Two seconds; frame n has grey level 3 n; a click at 0.5 s."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    levels = (torch.arange(48) * 3 + 20).to(torch.uint8)
    samples = torch.zeros(32_000)
    samples[8_000] = 1.0
    with Mp4Writer(path) as writer:
        frames = levels[:, None, None, None].expand(-1, 64, 96, 3).contiguous()
        writer.write(one_chunk(frames, samples))
    return path


def test_frames_come_back_in_order_with_their_rate(clip_file):
    clip = read_clip(clip_file, prompt="a face")
    assert clip.frames.shape == (48, 64, 96, 3) and clip.frames.dtype == torch.uint8
    assert clip.fps == 24 and clip.prompt == "a face" and clip.seconds == 2.0
    grey = clip.frames.float().mean(dim=(1, 2, 3))
    assert (grey - (torch.arange(48) * 3 + 20)).abs().max() < 3


def test_sound_stays_where_it_belongs(clip_file):
    clip = read_clip(clip_file)
    assert clip.sample_rate == 16_000 and clip.samples.shape == (1, 32_000)
    assert abs(int(clip.samples[0].abs().argmax()) - 8_000) <= 2


def test_reading_stops_at_the_limit_and_says_so(clip_file, caplog):
    clip = read_clip(clip_file, max_seconds=1.0)
    assert len(clip.frames) == 24 and clip.samples.shape[1] == 16_000
    assert "only its first 1 s are read" in caplog.text


def write_late_sound(path, *, delay: float) -> None:
    """One second at 30 fps and 44.1 kHz stereo; the sound begins `delay` seconds after it."""
    with av.open(str(path), "w") as target:
        video = target.add_stream("mpeg4", rate=30)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = target.add_stream("pcm_s16le", rate=44_100, layout="stereo")
        for n in range(30):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), n, np.uint8), format="rgb24")
            picture.pts, picture.time_base = n, Fraction(1, 30)
            target.mux(video.encode(picture))
        target.mux(video.encode(None))
        sound = np.full((1, 2 * 22_050), 10_000, np.int16)
        frame = av.AudioFrame.from_ndarray(sound, format="s16", layout="stereo")
        frame.sample_rate, frame.time_base = 44_100, Fraction(1, 44_100)
        frame.pts = round(delay * 44_100)
        target.mux(audio.encode(frame))
        target.mux(audio.encode(None))


def test_sound_that_begins_later_is_preceded_by_silence(tmp_path):
    write_late_sound(tmp_path / "late.mkv", delay=0.25)
    clip = read_clip(tmp_path / "late.mkv")
    assert clip.fps == 30 and clip.sample_rate == 44_100 and clip.samples.shape[0] == 2
    begins = int((clip.samples[0] > 0.1).float().argmax())
    assert abs(begins - round(0.25 * 44_100)) <= 50  # the container counts in milliseconds


def test_a_clip_without_sound_has_none(tmp_path):
    with av.open(str(tmp_path / "mute.mp4"), "w") as target:
        video = target.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        target.mux(video.encode(picture))
        target.mux(video.encode(None))
    clip = read_clip(tmp_path / "mute.mp4")
    assert clip.samples is None and len(clip.frames) == 1


def test_what_is_no_clip_is_said(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(MediaError, match=r"text\.mp4 cannot be read as a video"):
        read_clip(tmp_path / "text.mp4")
    with pytest.raises(MediaError, match="There is no file"):
        read_clip(tmp_path / "nothing.mp4")


def test_sound_alone_is_no_clip(tmp_path):
    with av.open(str(tmp_path / "sound.wav"), "w") as target:
        audio = target.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1600), np.int16), format="s16", layout="mono"
        )
        frame.sample_rate = 16_000
        target.mux(audio.encode(frame))
        target.mux(audio.encode(None))
    with pytest.raises(MediaError, match="has no picture"):
        read_clip(tmp_path / "sound.wav")
