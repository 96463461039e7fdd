"""Faster ways through the decoder: static memory, one kernel for norm and SiLU, same pictures."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hallo_live_core.config import VideoVAEConfig
from hallo_live_core.models.video_vae import tuning
from hallo_live_core.models.video_vae.decoder import WanVideoDecoder
from hallo_live_core.models.video_vae.layers import TIME_KERNEL, ChannelNorm, use_channels_last
from hallo_live_core.models.video_vae.taehv import TAEHV, TAEHVConfig

from ..device_work import Work

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
HEIGHT, WIDTH = 2, 3


def make_decoder(dtype=torch.float32) -> WanVideoDecoder:
    torch.manual_seed(1)
    config = VideoVAEConfig(decoder_dim=4, num_res_blocks=1)
    return WanVideoDecoder(config, dtype=dtype).requires_grad_(False)


def make_taehv() -> TAEHV:
    torch.manual_seed(1)
    return TAEHV(TAEHVConfig(widths=(8, 6, 4, 4))).requires_grad_(False)


def make_latents(num: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(1, num, 48, HEIGHT, WIDTH, generator=generator)


def plain_kernel(x, gamma, out, smallest):
    """The formula, with channels as the last axis, as the kernel sees them."""
    pixels = x.movedim(1, -1).float()
    length = pixels.norm(dim=-1, keepdim=True).clamp_min(smallest)
    y = pixels / length * x.shape[1] ** 0.5 * gamma.flatten().float()
    out.movedim(1, -1).copy_(y * y.sigmoid())


def wrong_kernel(x, gamma, out, smallest):
    out.zero_()


def failing_kernel(x, gamma, out, smallest):
    raise RuntimeError("no such architecture")


@pytest.mark.parametrize("make", [make_decoder, make_taehv])
def test_no_memory_of_a_stream_moves_over_five_blocks(make):
    decoder, block = make(), make_latents(6)
    state = decoder.initial_state(1, HEIGHT, WIDTH)
    addresses = []
    for _ in range(5):
        _, state = decoder.decode(block, state)
        memory = (*state.convolutions.past, state.convolutions.scratch)
        addresses.append([tensor.data_ptr() for tensor in memory])
    assert addresses[1:] == [addresses[0]] * 4


def test_every_causal_convolution_reads_the_same_memory():
    decoder, latents = make_decoder(), make_latents(3)
    state = decoder.initial_state(1, HEIGHT, WIDTH)
    inputs: set[int] = set()
    causal = [m for m in decoder.decoder.modules() if isinstance(m, torch.nn.Conv3d)]
    causal = [m for m in causal if m.kernel_size[0] == TIME_KERNEL]
    for conv in causal:
        conv.register_forward_pre_hook(lambda _, x: inputs.add(x[0].untyped_storage().data_ptr()))
    decoder.decode(latents, state)
    assert len(causal) == len(state.convolutions.past)
    assert inputs == {state.convolutions.scratch.untyped_storage().data_ptr()}


def test_a_steady_latent_joins_and_copies_no_video():
    decoder, latents = make_decoder(), make_latents(2)
    decoder.fold_upsampling()
    _, state = decoder.decode(latents[:, :1], decoder.initial_state(1, HEIGHT, WIDTH))
    with Work() as work:
        decoder.decode(latents[:, 1:], state)
    results = len(decoder.upsamplings()) + 2  # of up-sampling in space, and in time
    assert work.ops["empty"] == results
    assert not any(work.ops[name] for name in ("zeros", "cat", "stack", "repeat_interleave"))


def test_larger_windows_than_planned_are_allocated():
    decoder, latents = make_decoder(torch.float64), make_latents(4).double()
    expected, _ = decoder.decode(latents, decoder.initial_state(1, HEIGHT, WIDTH))
    state = decoder.initial_state(1, HEIGHT, WIDTH)
    planned = state.convolutions.scratch.numel()
    actual, state = decoder.decode(latents, state, latents_at_once=3)
    assert state.convolutions.scratch.numel() == planned
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_the_norm_kernel_is_used_for_every_channels_last_norm():
    decoder, latents = make_decoder(), make_latents(2).expand(2, -1, -1, -1, -1)
    use_channels_last(decoder)
    expected, _ = decoder.decode(latents, decoder.initial_state(2, HEIGHT, WIDTH))
    calls = []

    def kernel(*args):
        calls.append(args[0].shape)
        plain_kernel(*args)

    tuning.use_norm_kernel(decoder, kernel)
    actual, _ = decoder.decode(latents, decoder.initial_state(2, HEIGHT, WIDTH))
    norms = [n for n in decoder.modules() if isinstance(n, ChannelNorm) and n.gamma.ndim == 4]
    assert len(calls) == 2 * len(norms)
    torch.testing.assert_close(actual, expected, rtol=0, atol=5e-6)
    tuning.use_norm_kernel(decoder, None)
    again, _ = decoder.decode(latents, decoder.initial_state(2, HEIGHT, WIDTH))
    assert torch.equal(again, expected)


def test_other_layouts_and_wider_numbers_take_the_plain_norm():
    decoder, latents = make_decoder(), make_latents(2)
    tuning.use_norm_kernel(decoder, failing_kernel)
    decoder.decode(latents, decoder.initial_state(1, HEIGHT, WIDTH))
    use_channels_last(decoder.double())
    decoder.decode(latents.double(), decoder.initial_state(1, HEIGHT, WIDTH))


def test_a_kernel_is_measured_against_the_formula():
    assert tuning.largest_error(plain_kernel, CPU) <= tuning.PROBE_TOLERANCE
    assert tuning.largest_error(wrong_kernel, CPU) > 0.5


@pytest.mark.parametrize(
    ("kernel", "message"),
    [(failing_kernel, "no such architecture"), (wrong_kernel, "is wrong by 1")],
)
def test_a_kernel_that_fails_is_left_out_with_a_warning(kernel, message, caplog):
    with caplog.at_level(logging.WARNING):
        assert tuning.proven(kernel, CPU) is None
    assert message in caplog.text


def test_a_kernel_that_agrees_is_used_in_silence(caplog):
    with caplog.at_level(logging.WARNING):
        assert tuning.proven(plain_kernel, CPU) is plain_kernel
    assert not caplog.text


def test_on_a_cpu_only_up_sampling_is_folded():
    decoder = make_decoder()
    tuning.tune(decoder, CPU)
    assert all(u.is_folded for u in decoder.upsamplings())
    assert all(n.kernel is None for n in decoder.modules() if isinstance(n, ChannelNorm))
    assert decoder.decoder.conv1.weight.is_contiguous()
    tuning.tune(make_taehv(), CPU)


@pytest.mark.parametrize("make", [make_decoder, make_taehv])
def test_on_a_gpu_weights_are_channels_last_and_only_networks_with_norms_get_a_kernel(
    make, monkeypatch
):
    asked = []
    monkeypatch.setattr(tuning, "find_norm_kernel", lambda device: asked.append(device))
    decoder, gpu = make(), torch.device("cuda", 1)
    tuning.tune(decoder, gpu)
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    convs = [m for m in decoder.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d)]
    assert all(c.weight.is_contiguous(memory_format=layouts[c.weight.ndim]) for c in convs)
    assert asked == ([gpu] if make is make_decoder else [])


def run(program: str, **environment: str) -> str:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


INTERPRETED = """
import torch
from hallo_live_core.config import VideoVAEConfig
from hallo_live_core.models.video_vae import tuning
from hallo_live_core.models.video_vae.decoder import WanVideoDecoder
from hallo_live_core.models.video_vae.layers import use_channels_last
from hallo_live_core.models.video_vae.norm_triton import norm_silu

cpu = torch.device("cpu")
print("bf16", tuning.largest_error(norm_silu, cpu))
decoder = WanVideoDecoder(VideoVAEConfig(decoder_dim=4, num_res_blocks=0)).requires_grad_(False)
use_channels_last(decoder)
latents = torch.randn(2, 2, 48, 2, 3)
expected, _ = decoder(latents, decoder.initial_state(2, 2, 3))
tuning.use_norm_kernel(decoder, norm_silu)
actual, _ = decoder(latents, decoder.initial_state(2, 2, 3))
print("float32", float((actual - expected).abs().max()))
"""


def test_the_triton_kernel_computes_the_formula():
    """Interpreted: same program, no GPU."""
    lines = run(INTERPRETED, TRITON_INTERPRET="1").split("\n")
    errors = {name: float(value) for name, value in (line.split() for line in lines if line)}
    assert errors["bf16"] <= tuning.PROBE_TOLERANCE
    assert errors["float32"] <= 2e-6


COMPILED = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from hallo_live_core.models.video_vae.norm_triton import _norm_silu

pointers = dict.fromkeys(("x", "gamma", "out"), "*bf16")
counts = dict.fromkeys(("num_pixels", "pixels_per_clip", "gap"), "i32")
scalars = dict.fromkeys(("smallest", "root"), "fp32")
sizes = {"channels": 512, "block_channels": 512, "block_pixels": 8}
signature = pointers | counts | scalars | dict.fromkeys(sizes, "constexpr")
aligned = {(place,): [["tt.divisibility", 16]] for place in range(6)}
source = ASTSource(fn=_norm_silu, signature=signature, constexprs=sizes, attrs=aligned)
ptx = compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
print("ld.global.v4" in ptx, "st.global.v4" in ptx)
"""


def test_the_triton_kernel_compiles_for_a_gpu_and_moves_16_bytes_at_a_time():
    assert run(COMPILED).split() == ["True", "True"]


@pytest.mark.parametrize(
    ("version", "said"),
    [(None, False), (90701, False), (90800, True), (91002, True), (91400, True), (91501, False)],
)
def test_a_cudnn_with_faults_is_named(version, said, caplog):
    tuning.warn_of_cudnn(version)
    assert ("install cuDNN 9.15" in caplog.text) is said
    if version == 91002:
        assert "cuDNN 9.10 has faults" in caplog.text
