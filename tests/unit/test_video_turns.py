"""One GPU denoises and decodes: what somebody waits for goes first, nothing is read too early."""

from contextlib import contextmanager

import pytest
import torch

from hallo_live_core.clock import MediaClock
from hallo_live_core.decoding.chunks import ChunkDecoder
from hallo_live_core.decoding.turns import ByPriority, InOrder
from hallo_live_core.devices import Placement
from hallo_live_core.errors import RequestError
from hallo_live_core.types import LatentBlock

GPU = torch.device("cuda", 0)
NAMES = {-2: "urgent", -1: "passes", 0: "patient"}


class FakeCuda:
    """Streams that write down what waits for what, in order."""

    def __init__(self):
        self.log: list[str] = []
        self.now = self.default = FakeStream("caller", self.log)

    def Stream(self, device, priority):  # noqa: N802
        assert device == GPU
        return FakeStream(NAMES[priority], self.log)

    def current_stream(self, device):
        return self.now

    @contextmanager
    def stream(self, stream):
        before, self.now = self.now, stream
        yield
        self.now = before

    def work(self, what: str) -> None:
        self.log.append(f"{self.now.name}: {what}")


class FakeStream:
    def __init__(self, name, log):
        self.name, self.log = name, log

    def wait_stream(self, other):
        self.log.append(f"{self.name} after {other.name}")

    def wait_event(self, event):
        self.log.append(f"{self.name} after {event}")

    def record_event(self):
        self.log.append(f"{self.name} marks")
        return f"a mark of {self.name}"


class MarkedTensor:
    """A tensor that is told which streams read it."""

    def __init__(self, latents):
        self.shape, self.readers = (1, latents), []

    def record_stream(self, stream):
        self.readers.append(stream.name)


def make_block(latents=2) -> LatentBlock:
    video, audio, ahead = (MarkedTensor(latents) for _ in range(3))
    return LatentBlock(0, 0, 0, video, audio, ahead, False)


def test_passes_run_on_their_stream_and_the_caller_sees_them_done():
    cuda = FakeCuda()
    turns = ByPriority(GPU, cuda)

    def events():
        cuda.work("a pass")
        yield "passed"

    assert list(turns.passes(events())) == ["passed"]
    around = ("passes after caller", "caller after passes")
    assert cuda.log == [around[0], "passes: a pass", around[1], *around]
    assert cuda.now is cuda.default


def test_a_block_is_marked_for_all_who_read_it():
    cuda, block = FakeCuda(), make_block()
    assert list(ByPriority(GPU, cuda).passes(iter([block]))) == [block]
    for tensor in (block.video, block.audio, block.audio_ahead):
        assert tensor.readers == ["caller", "urgent", "patient"]


def test_the_first_latent_is_urgent_and_waits_for_its_block_alone():
    cuda = FakeCuda()
    turns = ByPriority(GPU, cuda)
    events = turns.passes(iter([make_block(), "a pass of the next block"]))
    next(events)
    next(events)
    cuda.log.clear()
    for index in range(3):
        with turns.latent(index == 0):
            cuda.work(f"latent {index}")
    assert cuda.log == [
        *("urgent after a mark of passes", "urgent after patient", "urgent: latent 0"),
        *("patient after urgent", "patient: latent 1"),
        *("patient after urgent", "patient: latent 2"),
    ]


def test_a_clip_that_was_broken_off_leaves_no_mark_for_the_next():
    cuda = FakeCuda()
    turns = ByPriority(GPU, cuda)
    next(turns.passes(iter([make_block()])))
    list(turns.passes(iter([])))
    with pytest.raises(IndexError), turns.latent(first=True):
        pass


class Pictures:
    def __init__(self, cuda):
        self.cuda = cuda

    def each(self, latents):
        for _ in range(latents.shape[1]):
            self.cuda.work("picture")
            yield torch.zeros(1, 4, 2, 2, 3, dtype=torch.uint8)


class Sound:
    def __init__(self, cuda):
        self.cuda = cuda

    def push(self, latents, *, ahead=None, last=False):
        self.cuda.work("sound")
        return torch.zeros(1, 5)


def test_a_decoder_queues_each_latent_where_it_is_told():
    cuda, block = FakeCuda(), make_block(latents=3)
    turns = ByPriority(GPU, cuda)
    list(turns.passes(iter([block])))
    decoder = ChunkDecoder(Pictures(cuda), Sound(cuda), MediaClock(), turns)
    for _ in decoder.decode(block):
        assert cuda.now is cuda.default  # nothing of the caller's runs on our streams
    done = [line for line in cuda.log if "picture" in line or "sound" in line]
    assert done == ["urgent: picture", "urgent: sound", "patient: picture", "patient: picture"]


def test_in_order_nothing_changes():
    turns, events = InOrder(), iter([1, 2])
    assert turns.passes(events) is events
    with turns.latent(first=True):
        pass


def test_streams_take_a_gpu():
    with pytest.raises(RequestError, match="needs a GPU"):
        ByPriority(torch.device("cpu"))


def test_only_one_gpu_that_does_both_works_by_priority():
    cpu, other = torch.device("cpu"), torch.device("cuda", 1)
    shared = Placement(GPU, GPU, GPU, beside=True)
    assert shared.decodes_beside and shared.decodes_by_priority
    assert not Placement(GPU, GPU, GPU).decodes_beside
    apart = Placement(GPU, other, GPU, beside=True)
    assert apart.decodes_beside and not apart.decodes_by_priority
    on_cpu = Placement(cpu, cpu, cpu, beside=True)
    assert on_cpu.decodes_beside and not on_cpu.decodes_by_priority
