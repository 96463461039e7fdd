"""What only a GPU can show: every fast way makes the clip of the plain one, and waits for nothing.

`make gpu` runs these; elsewhere they are left out. Tiny models, so that a small card will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.parity import distance, distances
from hallo_live_core import HalloLive, LatentBlock, Placement, Request
from hallo_live_core.config import FULL, LIGHT, Acceleration, Profile, VideoVAEConfig
from hallo_live_core.models.dit import sdpa
from hallo_live_core.models.dit.kernels import ATTENTIONS, Abilities, choose_attention
from hallo_live_core.models.dit.scaled_linear import (
    ScaledLinear,
    multiplies_in_8_bits,
    rounded_rows,
)
from hallo_live_core.models.video_vae.decoder import WanVideoDecoder
from hallo_live_core.models.video_vae.layers import SMALLEST_NORM, ChannelNorm
from hallo_live_core.models.video_vae.tuning import find_norm_kernel, tune

GPU, OTHER = torch.device("cuda", 0), torch.device("cuda", 1)
PROMPT = "A woman in a kitchen says, <S>Coffee first.<E> <AUDCAP>A warm voice.<ENDAUDCAP>"
REQUEST = Request(prompt=PROMPT, seconds=3, seed=3, height=32, width=64)
PLAIN = Acceleration("sdpa")
ROUNDING = 1e-3
"""Relative; float32 on both sides, perhaps by other kernels in another order."""

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # PyTorch's own, about versions and devices
]
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


def load(
    models,
    how: Acceleration = PLAIN,
    *,
    on: Placement | None = None,
    profile: Profile = FULL,
    dtype: torch.dtype = torch.float32,
) -> HalloLive:
    on = replace(on or Placement.on(GPU), dtype=dtype, decoder_dtype=dtype)
    return HalloLive.load(models, placement=on, acceleration=how, profile=profile)


def clip(engine: HalloLive) -> tuple[list[LatentBlock], Tensor, Tensor]:
    """Latents, frames and samples."""
    blocks: list[LatentBlock] = []
    chunks = list(engine.stream(REQUEST, on_block=blocks.append))
    frames = torch.cat([chunk.frames for chunk in chunks])
    return blocks, frames, torch.cat([chunk.samples for chunk in chunks])


def assert_same(found, expected) -> None:
    assert max(max(pair) for pair in distances(found[0], expected[0])) < ROUNDING
    off = (found[1].int() - expected[1].int()).abs()
    assert off.float().mean() < 0.5
    assert distance(found[2], expected[2]) < 0.02


@pytest.fixture(scope="module")
def plain(tiny_models):
    """The clip that all others must equal."""
    return clip(load(tiny_models))


@pytest.mark.parametrize(
    "how",
    [
        Acceleration(),
        Acceleration("sdpa", graphs=True),
        Acceleration("sdpa", audio_beside=True),
        Acceleration("sdpa", audio_beside=True, graphs=True),
        Acceleration("sdpa", compile_blocks=True),
        Acceleration("sdpa", compile_blocks=True, graphs=True),
    ],
    ids=["auto", "graphs", "beside", "beside in graphs", "compiled", "compiled in graphs"],
)
def test_a_faster_way_makes_the_same_clip_every_time(tiny_models, plain, how):
    engine = load(tiny_models, how)
    for _ in range(3):  # graphs are recorded in the first two, and only replayed in the third
        assert_same(clip(engine), plain)


@pytest.mark.parametrize("graphs", [False, True], ids=["plain", "graphs"])
def test_decoding_beside_the_passes_makes_the_same_clip(tiny_models, plain, graphs):
    beside = replace(Placement.on(GPU), beside=True)
    engine = load(tiny_models, Acceleration("sdpa", graphs=graphs), on=beside)
    for _ in range(3):
        assert_same(clip(engine), plain)


@two_gpus
def test_decoders_on_a_second_gpu_make_the_same_clip(tiny_models, plain):
    engine = load(tiny_models, on=Placement.on(GPU, decoder=OTHER))
    for _ in range(2):
        assert_same(clip(engine), plain)


@two_gpus
def test_two_gpus_that_share_the_transformer_make_the_same_clip(tiny_models, plain):
    engine = load(tiny_models, on=Placement.on(GPU).shared_with([OTHER]))
    for _ in range(2):
        assert_same(clip(engine), plain)


@pytest.mark.parametrize("how", [PLAIN, Acceleration("sdpa", graphs=True)], ids=["plain", "graphs"])
def test_after_the_first_blocks_the_host_waits_for_nothing(tiny_models, how):
    engine = load(tiny_models, how)
    for _ in range(2):
        clip(engine)

    def from_the_second(block: LatentBlock) -> None:
        if block.index == 1:
            torch.cuda.set_sync_debug_mode("error")

    try:
        chunks = list(engine.stream(REQUEST, on_block=from_the_second))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sum(len(chunk.frames) for chunk in chunks) == 69


def test_the_light_profile_stays_near(tiny_models):
    wide = clip(load(tiny_models, dtype=torch.bfloat16))[0]
    light = clip(load(tiny_models, dtype=torch.bfloat16, profile=LIGHT))[0]
    assert 0 < max(max(pair) for pair in distances(light, wide)) < 0.5


def kernels() -> Iterator[str]:
    if torch.cuda.is_available():
        yield from (name for name in ATTENTIONS if Abilities.of(GPU).runs(name))


@pytest.mark.parametrize("name", [*kernels()])
@pytest.mark.parametrize(
    ("queries", "keys"), [(2976, 2976), (2976, 14_880), (150, 14_880), (30, 2976), (2976, 512)]
)
def test_every_attention_kernel_gives_softmax(name, queries, keys):
    """Lengths of the published model, of which none but the prompt's is a multiple of 128."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 128, device=GPU) for n in (queries, keys, keys))
    half = [x.bfloat16() for x in (q, k, v)]
    expected = sdpa(*(x.double() for x in half))
    assert distance(choose_attention(name, GPU)(*half), expected) < 0.01


def test_products_in_8_bits_are_near_those_of_widened_weights():
    if not multiplies_in_8_bits(GPU, torch.bfloat16):
        pytest.skip("this GPU has no 8-bit products with a scale per row")
    torch.manual_seed(0)
    place = {"device": GPU, "dtype": torch.bfloat16}
    layer = ScaledLinear(3072, 9216, **place).requires_grad_(False)
    values, layer.weight_scale = rounded_rows(layer.weight)
    layer.weight = torch.nn.Parameter(values, requires_grad=False)
    for rows in (30, 150, 2976):
        x = torch.randn(1, rows, 3072, **place)
        layer.in_8_bits = False
        widened = layer(x)
        layer.in_8_bits = True
        assert 0 < distance(layer(x), widened) < 0.05


@pytest.mark.parametrize("channels", [48, 256, 512, 1024])
def test_the_fused_norm_is_the_plain_one(channels):
    kernel = find_norm_kernel(GPU)
    if kernel is None:
        pytest.skip("no Triton")
    torch.manual_seed(0)
    last = {"memory_format": torch.channels_last_3d}
    x = torch.randn(2, channels, 3, 6, 10, device=GPU).bfloat16().contiguous(**last)
    norm = ChannelNorm(channels, device=GPU, dtype=torch.bfloat16).requires_grad_(False)
    norm.gamma.normal_()
    windows = [
        torch.zeros(2, channels, 5, 6, 10, device=GPU).to(x).contiguous(**last) for _ in "ab"
    ]
    norm.silu_into(x, windows[0][:, :, 2:])
    kernel(x, norm.gamma, windows[1][:, :, 2:], SMALLEST_NORM)
    assert distance(windows[1], windows[0]) < 2**-8
    assert not windows[1][:, :, :2].any()


def test_the_tuned_video_decoder_is_the_plain_one():
    torch.manual_seed(0)
    config = VideoVAEConfig(decoder_dim=32)
    plain = WanVideoDecoder(config, device=GPU).requires_grad_(False)
    tuned = WanVideoDecoder(config, device=GPU).requires_grad_(False)
    tuned.load_state_dict(plain.state_dict())
    tune(tuned, GPU)
    latents = torch.randn(1, 4, 48, 4, 6, device=GPU)
    videos = [d.decode(latents, d.initial_state(1, 4, 6))[0] for d in (plain, tuned)]
    assert distance(videos[1], videos[0]) < 5e-3  # convolutions in TF32
