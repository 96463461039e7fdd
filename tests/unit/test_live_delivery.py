from __future__ import annotations

import errno
import io
import threading
import time

import pytest

from hallo_live_core.errors import MediaError
from hallo_live_core.live.delivery import MAX_WAITING, Delivery, FileSink, SessionSink
from hallo_live_core.live.sessions import Sessions
from hallo_live_core.media.mp4 import Mp4Writer

from .live_media import decode, noise_clip


@pytest.fixture
def session():
    return Sessions().open()


@pytest.fixture(autouse=True)
def nothing_left_running():
    yield
    assert not [t.name for t in threading.enumerate() if t.name.startswith("hallo-live")]


class Recorder:
    """A sink that remembers, or fails at a chunk."""

    def __init__(self, fails_at: int | None = None, seconds: float = 0):
        self.fails_at, self.seconds = fails_at, seconds
        self.chunks, self.closed = [], 0

    def write(self, chunk):
        if len(self.chunks) == self.fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        time.sleep(self.seconds)
        self.chunks.append(chunk)

    def close(self):
        self.closed += 1


def deliver(*sinks, chunks=None):
    with Delivery(*sinks) as delivery:
        for chunk in chunks or noise_clip():
            delivery.write(chunk)


def test_a_session_and_a_file_get_the_same_clip(session, tmp_path):
    with session.running():
        deliver(SessionSink(session), Mp4Writer(tmp_path / "kept.mp4"))
    frames, _ = decode(b"".join(session.broadcast.reader()))
    kept, _ = decode((tmp_path / "kept.mp4").read_bytes())
    assert len(frames) == len(kept) == 45
    status = session.status()
    assert status.state == "finished" and status.seconds == 1.875
    assert status.mime.startswith('video/mp4; codecs="avc1.')


def test_a_full_disk_is_a_clear_error_and_the_live_stream_goes_on(session, tmp_path, monkeypatch):
    writer = Mp4Writer(tmp_path / "kept.mp4")
    chunks = noise_clip()
    seen = []

    def full(chunk):
        seen.append(chunk)
        if len(seen) > 3:
            raise MediaError("Cannot write kept.mp4", found="No space left on device")

    monkeypatch.setattr(writer, "write", full)

    def run():
        with session.running():
            deliver(SessionSink(session), writer, chunks=chunks)

    with pytest.raises(MediaError, match=r"kept\.mp4.*No space left"):
        run()
    assert len(seen) == 4
    frames, _ = decode(b"".join(session.broadcast.reader()))
    assert len(frames) == 45


def test_an_exception_in_the_muxer_ends_the_stream_and_not_the_run(session, monkeypatch):
    sink, kept = SessionSink(session), Recorder()
    good = sink._muxer.write
    calls = []

    def broken(chunk):
        calls.append(chunk)
        if len(calls) > 2:
            raise ZeroDivisionError("muxer")
        return good(chunk)

    monkeypatch.setattr(sink._muxer, "write", broken)
    reader = session.broadcast.reader()
    with session.running():
        deliver(sink, kept)
    assert len(kept.chunks) == 12 and len(calls) == 3
    assert session.status().state == "failed"
    assert session.status().error == "ZeroDivisionError: muxer"
    assert len(decode(b"".join(reader))[0]) == 5


def test_an_interrupted_run_hands_out_what_it_made(session, tmp_path):
    def run():
        with (
            session.running(),
            Delivery(SessionSink(session), Mp4Writer(tmp_path / "kept.mp4")) as delivery,
        ):
            for chunk in noise_clip()[:7]:
                delivery.write(chunk)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert session.status().state == "stopped"
    assert len(decode(b"".join(session.broadcast.reader()))[0]) == 25
    assert len(decode((tmp_path / "kept.mp4").read_bytes())[0]) == 25


def test_when_all_outputs_have_failed_the_run_is_told():
    failing = Recorder(fails_at=2)
    made = []

    def run():
        with Delivery(failing) as delivery:
            for chunk in noise_clip(blocks=10):
                made.append(chunk)
                delivery.write(chunk)
                time.sleep(0.01)

    with pytest.raises(OSError, match="No space"):
        run()
    assert len(made) < 30
    assert failing.closed


def test_slow_encoders_hold_at_most_a_bounded_number_of_chunks():
    slow, most = Recorder(seconds=0.005), 0
    with Delivery(slow) as delivery:
        for chunk in noise_clip(blocks=5):
            delivery.write(chunk)
            most = max(most, delivery.num_waiting)
    assert most <= MAX_WAITING
    assert len(slow.chunks) == 30 and slow.closed == 1


def test_a_stream_in_a_file_plays():
    file = io.BytesIO()
    deliver(FileSink(file))
    frames, sound = decode(file.getvalue())
    assert len(frames) == 45
    assert sum(len(part) for _, part in sound) >= 30_000


def test_a_pipe_whose_reader_left_is_a_clear_error():
    class Pipe(io.BytesIO):
        def write(self, data):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(MediaError, match="its reader is still there"):
        deliver(FileSink(Pipe()))
