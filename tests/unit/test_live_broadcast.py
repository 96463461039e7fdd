from __future__ import annotations

import threading

import pytest

from hallo_live_core.live.broadcast import Broadcast, TooManyReadersError
from hallo_live_core.live.fmp4 import Segment

INIT = Segment("init", b"init")


def key(name: str) -> Segment:
    return Segment("key", name.encode())


def normal(name: str) -> Segment:
    return Segment("normal", name.encode())


def filled(*segments: Segment, **options) -> Broadcast:
    stream = Broadcast(**options)
    for segment in (INIT, *segments):
        stream.push(segment)
    return stream


def everything(reader) -> list[str]:
    """What a reader gets without waiting."""
    got = []
    while data := reader.read():
        got.append(data.decode())
    return got


def test_a_reader_who_is_there_from_the_start_gets_all_in_order():
    stream = Broadcast()
    reader = stream.reader()
    assert reader.read() == b""
    for segment in (INIT, key("a"), normal("b"), key("c")):
        stream.push(segment)
    assert everything(reader) == ["init", "a", "b", "c"]
    stream.close()
    assert reader.read() is None


def test_a_late_reader_begins_at_the_newest_key_frame():
    stream = filled(key("a"), normal("b"), key("c"), normal("d"))
    reader = stream.reader()
    stream.push(normal("e"))
    assert everything(reader) == ["init", "c", "d", "e"]


def test_a_late_reader_may_ask_for_the_start():
    stream = filled(key("a"), normal("b"), key("c"))
    assert everything(stream.reader(from_start=True)) == ["init", "a", "b", "c"]


def test_after_the_end_there_is_nothing_live_and_readers_get_the_whole():
    stream = filled(key("a"), normal("b"), key("c"))
    stream.close()
    assert list(stream.reader()) == [b"init", b"a", b"b", b"c"]


def test_a_reader_behind_the_ring_goes_on_at_the_next_key_frame():
    stream = filled(key("a"), normal("b"), max_bytes=4)
    reader = stream.reader()
    assert reader.read() == b"init"
    assert reader.read() == b"a"
    for name in ("c", "d", "e"):
        stream.push(normal(name))
    stream.push(key("f"))
    stream.push(normal("g"))
    assert everything(reader) == ["f", "g"]
    assert reader.skipped == 1


def test_a_reader_behind_the_ring_waits_if_no_key_frame_is_left_in_it():
    stream = filled(key("a"), max_bytes=2)
    reader = stream.reader()
    assert everything(reader) == ["init", "a"]
    for name in "bcd":
        stream.push(normal(name))
    assert reader.read() == b""
    stream.push(normal("e"))
    stream.push(key("f"))
    assert everything(reader) == ["f"]


def test_the_start_is_the_oldest_key_frame_once_the_first_has_gone():
    stream = filled(key("a"), normal("b"), key("c"), normal("d"), max_bytes=3)
    assert everything(stream.reader(from_start=True)) == ["init", "c", "d"]


def test_memory_is_bounded_and_the_newest_segment_always_there():
    stream = filled(max_bytes=100)
    for index in range(1000):
        stream.push(normal(f"{index:010}"))
        assert stream.nbytes <= 100 + len(INIT.data)
    stream.push(key("x" * 500))
    assert everything(stream.reader()) == ["init", "x" * 500]


def test_fifty_readers_at_once_get_the_same_bytes_and_leave_nothing():
    stream = Broadcast()
    results: dict[int, bytes] = {}

    def watch(number: int) -> None:
        with stream.reader(from_start=True) as reader:
            results[number] = b"".join(reader)

    threads = [threading.Thread(target=watch, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    expected = b"init"
    stream.push(INIT)
    for index in range(200):
        segment = key(f"k{index}") if index % 6 == 0 else normal(f"n{index}")
        expected += segment.data
        stream.push(segment)
    stream.close()
    for thread in threads:
        thread.join(timeout=10)
    assert set(results) == set(range(50))
    assert set(results.values()) == {expected}
    assert stream.num_readers == 0


def test_more_readers_than_allowed_are_refused_until_one_leaves():
    stream = Broadcast(max_readers=2)
    first, _ = stream.reader(), stream.reader()
    with pytest.raises(TooManyReadersError, match="Too many viewers"):
        stream.reader()
    first.close()
    first.close()
    stream.reader()
    assert stream.num_readers == 2


def test_a_reader_that_never_reads_does_not_hold_up_the_run():
    stream = filled(max_bytes=50)
    stalled = stream.reader()
    for index in range(100):
        stream.push(key(f"{index:09}"))
    assert stream.nbytes <= 54
    assert everything(stalled) == ["init", *(f"{index:09}" for index in range(95, 100))]


def test_whoever_wants_is_called_when_there_is_something_to_read():
    stream, calls = Broadcast(), []
    reader = stream.reader(wake=lambda: calls.append(reader.read()))
    stream.push(INIT)
    stream.push(key("a"))
    stream.close()
    assert calls == [b"init", b"a", None]


def test_a_reader_whose_event_loop_is_gone_is_dropped():
    stream = Broadcast()

    def gone():
        raise RuntimeError("Event loop is closed")

    stream.reader(wake=gone)
    stream.push(INIT)
    assert stream.num_readers == 0


def test_waiting_ends_with_the_next_segment_or_the_timeout():
    stream = Broadcast()
    reader = stream.reader()
    assert not reader.wait(timeout=0.01)
    threading.Timer(0.02, stream.push, [INIT]).start()
    assert reader.wait(timeout=5)
    assert reader.read() == b"init"


def test_what_is_pushed_after_the_end_is_dropped():
    stream = filled(key("a"))
    stream.close()
    stream.push(key("b"))
    assert everything(stream.reader()) == ["init", "a"]


def test_a_stream_that_ends_before_it_began_ends_for_its_readers():
    stream = Broadcast()
    reader = stream.reader()
    stream.close()
    assert list(reader) == []
    assert list(stream.reader()) == []
