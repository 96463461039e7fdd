"""Audio beside video: who waits for whom. No GPU: what CUDA would do is written down."""

from contextlib import contextmanager

import pytest
import torch

from hallo_live_core.errors import RequestError
from hallo_live_core.models.dit import TeacherPass
from hallo_live_core.models.dit.lanes import SideStream

from .dit_models import CPU, TINY, tiny_dit, tiny_latents, tiny_text

GPU = torch.device("cuda", 0)
HOW = TeacherPass(tiny_text(), torch.tensor([700.0]))


class Stream:
    def __init__(self, cuda, name, priority=0):
        self.cuda, self.name, self.priority = cuda, name, priority

    def wait_stream(self, other):
        self.cuda.log.append(f"{self.name} waits for {other.name}")


class FakeCuda:
    """Streams that only have names, and a log of what happened in order."""

    def __init__(self):
        self.log, self.made = [], []
        self.current = Stream(self, "main")

    def Stream(self, device, priority):  # noqa: N802 - CUDA's name
        assert device == GPU
        self.made.append(priority)
        return Stream(self, "side", priority)

    def current_stream(self, device):
        assert device == GPU
        return self.current

    @contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before


def run_logged():
    """One pass with the work of every sub-layer in the log, by the stream it is queued on."""
    cuda, model = FakeCuda(), tiny_dit()
    model.lanes = SideStream(GPU, cuda)
    for stream in ("video", "audio"):
        for part in ("self_attn", "cross_attn", "ffn", "cross_attn.k_fusion"):
            model.blocks[0].get_submodule(f"{stream}.{part}").register_forward_hook(
                lambda *_, name=f"{stream}.{part}": cuda.log.append(f"{cuda.current.name} {name}")
            )
    return model(*tiny_latents(1), HOW), cuda.log


def test_the_result_is_the_same():
    found, _ = run_logged()
    for a, b in zip(found, tiny_dit()(*tiny_latents(1), HOW), strict=True):
        assert torch.equal(a, b)


def test_the_audio_stream_runs_beside_and_they_wait_where_they_read_each_other():
    """k_fusion of the video's cross-attention reads audio tokens, and the other way round."""
    assert run_logged()[1][: 4 + 8] == [
        "side waits for main",
        "side audio.self_attn",
        "side video.cross_attn.k_fusion",
        "main video.self_attn",
        "main audio.cross_attn.k_fusion",
        "main waits for side",
        "side waits for main",
        "side audio.cross_attn",
        "side audio.ffn",
        "main video.cross_attn",
        "main video.ffn",
        "main waits for side",
    ]


def test_every_layer_ends_where_it_began():
    cuda, model = FakeCuda(), tiny_dit()
    model.lanes = SideStream(GPU, cuda)
    model(*tiny_latents(1), HOW)
    turns = ["side waits for main", "main waits for side"]
    assert cuda.log == turns * 2 * TINY.num_layers
    assert cuda.current.name == "main"


@pytest.mark.parametrize("priority", [0, -1])
def test_the_audio_is_as_urgent_as_the_video(priority):
    cuda, model = FakeCuda(), tiny_dit()
    cuda.current = Stream(cuda, "main", priority)
    model.lanes = SideStream(GPU, cuda)
    for _ in range(2):
        model(*tiny_latents(1), HOW)
    assert cuda.made == [priority]


def test_without_a_gpu_it_is_refused():
    with pytest.raises(RequestError, match="needs a GPU"):
        SideStream(CPU)
