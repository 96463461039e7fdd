"""The boxes of a fragmented MP4 with one H.264 and one AAC track (ISO 14496-12, -14, -15).

Written here and not by libav's muxer, because that holds the newest frames back until the next ones
come: a second, at the end of a block. Here every chunk becomes a whole fragment at once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

VIDEO_TRACK, AUDIO_TRACK = 1, 2
MOVIE_TIMESCALE = 1000
"""Units per second of the header that covers both tracks; its durations are all unknown (0)."""

IDENTITY_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
SYNC_SAMPLE, NON_SYNC_SAMPLE = 0x02000000, 0x01010000
"""Sample flags: decodes alone, or depends on others."""

START_CODE = b"\x00\x00\x01"
SPS, PPS = 7, 8
"""NAL unit types of H.264: sequence and picture parameter sets."""


@dataclass(frozen=True, slots=True)
class Track:
    """One track as the header describes it.

    timescale: units per second; setup: what the encoder calls extradata, H.264 with start codes or
    an AudioSpecificConfig; height, width: 0 for sound; skip: units at the start not to play.
    """

    timescale: int
    setup: bytes
    height: int = 0
    width: int = 0
    skip: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One encoded frame: data as it lies in the file, duration in units of its track."""

    data: bytes
    duration: int
    is_sync: bool


@dataclass(frozen=True, slots=True)
class TrackRun:
    """Consecutive samples of one track; start is the first one's decode time in track units."""

    track: int
    start: int
    samples: Sequence[Sample]


def init_segment(video: Track, audio: Track) -> bytes:
    """What a player must have before any fragment."""
    return box(b"ftyp", b"isom", u32(0x200), b"isomiso5iso6avc1mp41") + box(
        b"moov",
        _movie_header(),
        _track(VIDEO_TRACK, video, b"vide", full_box(b"vmhd", bytes(8), flags=1), _avc1(video)),
        _track(AUDIO_TRACK, audio, b"soun", full_box(b"smhd", bytes(4)), _mp4a(audio)),
        box(b"mvex", _defaults(VIDEO_TRACK), _defaults(AUDIO_TRACK)),
    )


def fragment(number: int, runs: Sequence[TrackRun]) -> bytes:
    """The samples of one stretch of time, in the order of `runs`. number: counted from 1."""
    header = _fragment_header(number, runs, first_offset=0)
    header = _fragment_header(number, runs, first_offset=len(header) + 8)
    return header + box(b"mdat", *(sample.data for run in runs for sample in run.samples))


def mime_type(video: Track, audio: Track) -> str:
    """What a browser needs to know before it takes the stream: profiles and level as encoded."""
    profile = nal_units(video.setup, SPS)[0][1:4].hex()
    return f'video/mp4; codecs="avc1.{profile}, mp4a.40.{audio.setup[0] >> 3}"'


def length_prefixed(units: bytes) -> bytes:
    """H.264 with start codes -> with lengths, as MP4 wants it, without parameter sets."""
    kept = (u for u in split_nal_units(units) if u[0] & 0x1F not in (SPS, PPS))
    return b"".join(u32(len(unit)) + unit for unit in kept)


def nal_units(units: bytes, kind: int) -> list[bytes]:
    """The NAL units of one type."""
    return [u for u in split_nal_units(units) if u[0] & 0x1F == kind]


def split_nal_units(units: bytes) -> list[bytes]:
    """Cut at start codes; the zeros before and after a unit belong to none."""
    parts = (part.rstrip(b"\x00") for part in units.split(START_CODE))
    return [part for part in parts if part]


# -- the header ---------------------------------------------------------------------------------


def _movie_header() -> bytes:
    times = struct.pack(">4I", 0, 0, MOVIE_TIMESCALE, 0)
    rate_and_volume = struct.pack(">IH10x", 0x10000, 0x100)
    return full_box(
        b"mvhd", times, rate_and_volume, IDENTITY_MATRIX, bytes(24), u32(AUDIO_TRACK + 1)
    )


def _track(number: int, track: Track, handler: bytes, media_header: bytes, entry: bytes) -> bytes:
    volume = 0 if track.width else 0x100
    return box(
        b"trak",
        full_box(
            b"tkhd",
            struct.pack(">3I8x8x", 0, 0, number),
            struct.pack(">hhHxx", 0, 0, volume),
            IDENTITY_MATRIX,
            struct.pack(">II", track.width << 16, track.height << 16),
            flags=3,
        ),
        # One edit: play all, from `skip` on.
        box(b"edts", full_box(b"elst", struct.pack(">IIiI", 1, 0, track.skip, 0x10000))),
        box(
            b"mdia",
            full_box(b"mdhd", struct.pack(">4I", 0, 0, track.timescale, 0), b"\x55\xc4\0\0"),
            full_box(b"hdlr", bytes(4), handler, bytes(12), b"Hallo-Live\0"),
            box(b"minf", media_header, _self_contained(), _sample_table(entry)),
        ),
    )


def _self_contained() -> bytes:
    return box(b"dinf", full_box(b"dref", u32(1), full_box(b"url ", flags=1)))


def _sample_table(entry: bytes) -> bytes:
    empty = [full_box(kind, u32(0)) for kind in (b"stts", b"stsc", b"stco")]
    return box(b"stbl", full_box(b"stsd", u32(1), entry), *empty, full_box(b"stsz", bytes(8)))


def _avc1(track: Track) -> bytes:
    sps, pps = nal_units(track.setup, SPS)[0], nal_units(track.setup, PPS)[0]
    lengths_of_four_bytes, one_sps = b"\xff", b"\xe1"
    return box(
        b"avc1",
        struct.pack(">6xH16x", 1),
        struct.pack(">HHIIxxxxH", track.width, track.height, 72 << 16, 72 << 16, 1),
        struct.pack(">32xHh", 24, -1),
        box(
            b"avcC",
            b"\x01" + sps[1:4] + lengths_of_four_bytes,
            one_sps + u16(len(sps)) + sps,
            b"\x01" + u16(len(pps)) + pps,
        ),
    )


def _mp4a(track: Track) -> bytes:
    decoder = _descriptor(
        4, b"\x40\x15" + bytes(11) + _descriptor(5, track.setup)
    )  # AAC, an audio stream, buffer size and bit rates not stated
    stream = _descriptor(3, u16(AUDIO_TRACK) + b"\0" + decoder + _descriptor(6, b"\x02"))
    mono_16_bit = struct.pack(">HHxxxx", 1, 16)
    return box(
        b"mp4a",
        struct.pack(">6xH8x", 1),
        mono_16_bit,
        u32(track.timescale << 16),
        full_box(b"esds", stream),
    )


def _descriptor(tag: int, content: bytes) -> bytes:
    return bytes([tag, len(content)]) + content


def _defaults(number: int) -> bytes:
    return full_box(b"trex", struct.pack(">5I", number, 1, 0, 0, 0))


# -- the fragments ------------------------------------------------------------------------------


def _fragment_header(number: int, runs: Sequence[TrackRun], *, first_offset: int) -> bytes:
    parts, offset = [], first_offset
    for run in runs:
        parts.append(_track_fragment(run, offset))
        offset += sum(len(sample.data) for sample in run.samples)
    return box(b"moof", full_box(b"mfhd", u32(number)), *parts)


def _track_fragment(run: TrackRun, offset: int) -> bytes:
    base_is_this_box = 0x020000
    offset_durations_sizes_flags = 0x701
    rows = (
        struct.pack(">3I", s.duration, len(s.data), SYNC_SAMPLE if s.is_sync else NON_SYNC_SAMPLE)
        for s in run.samples
    )
    return box(
        b"traf",
        full_box(b"tfhd", u32(run.track), flags=base_is_this_box),
        full_box(b"tfdt", struct.pack(">Q", run.start), version=1),
        full_box(
            b"trun",
            struct.pack(">Ii", len(run.samples), offset),
            *rows,
            flags=offset_durations_sizes_flags,
        ),
    )


# -- bytes --------------------------------------------------------------------------------------


def box(kind: bytes, *content: bytes) -> bytes:
    """A box: its size, its kind, what is in it."""
    body = b"".join(content)
    return u32(len(body) + 8) + kind + body


def full_box(kind: bytes, *content: bytes, version: int = 0, flags: int = 0) -> bytes:
    """A box with a version and flags."""
    return box(kind, u32(version << 24 | flags), *content)


def u16(number: int) -> bytes:
    """Two bytes, big end first."""
    return struct.pack(">H", number)


def u32(number: int) -> bytes:
    """Four bytes, big end first."""
    return struct.pack(">I", number)
