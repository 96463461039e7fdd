from __future__ import annotations

import io
import struct
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
import torch

from hallo_live_core.clock import MediaClock
from hallo_live_core.errors import MediaError
from hallo_live_core.live.fmp4 import FragmentedMp4, Segment

from .live_media import CLOCK, clip_chunks, decode, noise_clip


def encode(chunks) -> list[Segment]:
    muxer = FragmentedMp4()
    segments = [segment for chunk in chunks for segment in muxer.write(chunk)]
    return segments + muxer.close()


def joined(segments) -> bytes:
    return b"".join(segment.data for segment in segments)


def boxes(data: bytes, start: int = 0) -> list[tuple[str, bytes]]:
    found = []
    while start < len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        found.append((kind.decode(), data[start + 8 : start + size]))
        start += size
    return found


def test_a_stream_is_one_header_and_then_a_fragment_for_every_chunk():
    chunks = noise_clip(blocks=2)
    segments = encode(chunks)
    assert [s.kind for s in segments] == [
        "init",
        *(["key"] + ["normal"] * 5) * 2,
        "normal",  # what the sound encoder still held
    ]
    assert [kind for kind, _ in boxes(segments[0].data)] == ["ftyp", "moov"]
    for segment in segments[1:]:
        assert [kind for kind, _ in boxes(segment.data)] == ["moof", "mdat"]


def test_the_bytes_of_a_chunk_come_with_the_chunk():
    muxer, made = FragmentedMp4(), 0
    stream = b""
    for chunk in noise_clip(blocks=2):
        stream += joined(muxer.write(chunk))
        made += len(chunk.frames)
        with av.open(io.BytesIO(stream)) as container:
            assert sum(1 for _ in container.decode(video=0)) == made


def test_a_flash_and_a_click_of_one_moment_come_out_within_half_a_frame():
    pictures = torch.zeros(117, 32, 64, 3, dtype=torch.uint8)
    samples = torch.zeros(CLOCK.samples_for_frames(117))
    for frame in (0, 30, 71, 115):
        pictures[frame] = 255
        samples[round(frame * 16_000 / 24)] = 1
    frames, sound = decode(joined(encode(clip_chunks(pictures, samples))))
    flashes = [time for time, pixels in frames if pixels.mean() > 128]
    assert flashes == pytest.approx([0, 30 / 24, 71 / 24, 115 / 24])
    start, wave = sound[0][0], np.abs(np.concatenate([part for _, part in sound]))
    for flash in flashes:
        near = round((flash - start) * 16_000)
        window = wave[max(0, near - 2000) : near + 2000]
        click = start + (max(0, near - 2000) + window.argmax()) / 16_000
        assert abs(click - flash) < 0.5 / 24


def test_frames_and_sound_keep_their_times_to_the_end_of_the_longest_clip():
    blocks = 34
    frames, sound = decode(joined(encode(noise_clip(blocks))))
    assert len(frames) == 24 * blocks - 3
    assert frames[-1][0] == pytest.approx((24 * blocks - 4) / 24)
    for (time, part), (later, _) in pairwise(sound):
        assert later - time == pytest.approx(len(part) / 16_000)


def test_the_content_type_says_what_the_encoders_made():
    muxer = FragmentedMp4()
    assert muxer.mime is None
    (init, *_) = muxer.write(noise_clip()[0])
    sps = init.data[init.data.index(b"avcC") + 5 :][:3]
    assert muxer.mime == f'video/mp4; codecs="avc1.{sps.hex()}, mp4a.40.2"'
    with av.open(io.BytesIO(joined(encode(noise_clip())))) as container:
        assert container.streams.video[0].codec_context.profile == "Constrained Baseline"
        assert sps[0] == 66


def test_playing_can_begin_at_every_key_segment():
    init, *segments = encode(noise_clip(blocks=3))
    for start in [i for i, s in enumerate(segments) if s.kind == "key"]:
        frames, sound = decode(joined([init, *segments[start:]]))
        block_start = [0, 21, 45][[0, 6, 12].index(start)]
        assert frames[0][0] == pytest.approx(block_start / 24)
        assert len(frames) == 69 - block_start
        assert abs(sound[0][0] - frames[0][0]) < 0.3


def test_segments_say_which_seconds_they_cover():
    segments = encode(noise_clip(blocks=2))[1:]
    assert segments[0].time == 0
    assert segments[3].time == pytest.approx(9 / 24)
    assert segments[3].end == pytest.approx(13 / 24)
    assert max(s.end for s in segments) == pytest.approx(45 / 24)


def test_sound_before_the_first_picture_waits_for_it():
    first, second, *_ = noise_clip()
    muxer = FragmentedMp4()
    early = replace(first, frames=first.frames[:0])
    assert muxer.write(early) == []
    segments = muxer.write(replace(second, samples=torch.zeros(0)))
    assert [s.kind for s in segments] == ["init", "key"]
    assert sum(len(part) for _, part in decode(joined(segments))[1]) > 10_000


def test_a_clip_without_sound_plays():
    silent = [replace(c, samples=torch.zeros(0)) for c in noise_clip()]
    segments = encode(silent)
    assert len(decode(joined(segments))[0]) == 45
    assert segments[-1].kind == "normal"


def test_other_frame_rates_keep_their_times():
    muxer = FragmentedMp4(clock=MediaClock(fps=Fraction(30_000, 1001)))
    segments = [s for chunk in noise_clip() for s in muxer.write(chunk)]
    frames, _ = decode(joined(segments))
    assert frames[-1][0] == pytest.approx(44 * 1001 / 30_000)


def test_frames_of_another_size_are_refused():
    muxer = FragmentedMp4()
    muxer.write(noise_clip()[0])
    with pytest.raises(MediaError, match="64x64 after 32x64"):
        muxer.write(noise_clip(height=64)[1])


def test_an_encoder_that_fails_is_one_line(monkeypatch):
    muxer = FragmentedMp4()
    odd = noise_clip(height=33, width=65)[0]  # yuv420p has even sides
    with pytest.raises(MediaError, match="Cannot encode the live stream"):
        muxer.write(odd)


def test_sound_that_is_no_number_is_refused_by_name():
    bad = replace(noise_clip(1)[0], samples=torch.full((9,), torch.nan))
    with pytest.raises(MediaError, match="no numbers"):
        FragmentedMp4().write(bad)


def test_closing_twice_or_before_anything_gives_nothing():
    muxer = FragmentedMp4()
    assert muxer.close() == []
    muxer.write(noise_clip()[0])
    assert len(muxer.close()) == 1
    assert muxer.close() == []
