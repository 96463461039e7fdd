"""The published video decoders at full size, without memory: names, counts, cost, no surprises."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from hallo_live_core.config import VideoVAEConfig
from hallo_live_core.models.video_vae import weights
from hallo_live_core.models.video_vae.decoder import WanVideoDecoder
from hallo_live_core.models.video_vae.encoder import WanVideoEncoder
from hallo_live_core.models.video_vae.layers import use_channels_last
from hallo_live_core.models.video_vae.taehv import TAEHV, TAEW2_2, TAEW2_2_SUPER
from hallo_live_core.models.video_vae.tuning import use_norm_kernel

from ..device_work import Work, watch_triton

KEYS = Path(__file__).parents[1] / "keys"
META = torch.device("meta")
HEIGHT, WIDTH = 32, 62  # latents of 512 x 992
MIB = 2**20
TERA = 1e12
GIGA = 1e9


def published(file: str, *names: str) -> dict[str, torch.Tensor]:
    entry = json.loads((KEYS / file).read_text())
    for name in names:
        entry = entry[name]
    return {name: torch.empty(shape, device=META) for name, shape in entry["tensors"].items()}


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def elements(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def latents(num: int = 1) -> torch.Tensor:
    return torch.empty(1, num, 48, HEIGHT, WIDTH, device=META)


@pytest.fixture(scope="module")
def decoder() -> WanVideoDecoder:
    return WanVideoDecoder(VideoVAEConfig(), device=META, dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def encoder() -> WanVideoEncoder:
    return WanVideoEncoder(VideoVAEConfig(), device=META, dtype=torch.bfloat16)


class NoFloat64(TorchDispatchMode):
    """Fails when an operation makes a float64 tensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            assert not isinstance(leaf, torch.Tensor) or leaf.dtype != torch.float64, func
        return out


def test_names_and_shapes_are_the_published_ones(decoder, encoder):
    file = published("wan22_vae.json")
    assert weights.config_from_state_dict(file) == VideoVAEConfig()
    assert shapes(weights.to_module(file, "decoder")) == shapes(decoder.state_dict())
    assert shapes(weights.to_module(file, "encoder")) == shapes(encoder.state_dict())
    assert shapes(file) == shapes(encoder.state_dict() | decoder.state_dict())


def test_there_are_as_many_elements_as_published(decoder, encoder):
    assert elements(encoder) + elements(decoder) == 704_688_668
    assert elements(encoder.conv1) == 9_312
    assert elements(decoder.conv2) == 2_352
    assert elements(encoder.encoder) == pytest.approx(149.63e6, rel=1e-4)
    assert elements(decoder.decoder) == pytest.approx(555.05e6, rel=1e-4)


def test_the_state_has_the_published_slots_and_size(decoder, encoder):
    state = decoder.initial_state(1, HEIGHT, WIDTH)
    assert len(state.convolutions.past) == 32
    assert state.nbytes / MIB == pytest.approx(1_729, abs=0.5)
    state = encoder.initial_state(1, 512, 992)
    assert len(state.convolutions.past) == 24
    assert state.nbytes / MIB == pytest.approx(570, abs=1)


@pytest.mark.parametrize(
    ("height", "width", "mib"), [(16, 31, 432), (30, 52, 1_359), (44, 80, 3_067)]
)
def test_the_state_is_known_for_other_sizes(decoder, height, width, mib):
    nbytes = decoder.state_nbytes(1, height, width, torch.bfloat16)
    assert nbytes / MIB == pytest.approx(mib, abs=1)


def test_decoding_costs_what_was_counted(decoder):
    state = decoder.initial_state(1, HEIGHT, WIDTH)
    with torch.no_grad():
        with FlopCounterMode(display=False) as first:
            video, state = decoder.decode(latents(), state)
        assert video.shape == (1, 1, 3, 512, 992)
        with FlopCounterMode(display=False) as later:
            video, state = decoder.decode(latents(), state)
        assert video.shape == (1, 4, 3, 512, 992)
    assert first.get_total_flops() / TERA == pytest.approx(11.58, rel=0.01)
    assert later.get_total_flops() / TERA == pytest.approx(37.39, rel=0.01)


@pytest.fixture(scope="module")
def tuned() -> WanVideoDecoder:
    """The decoder as `tune` leaves it on CUDA."""
    decoder = WanVideoDecoder(VideoVAEConfig(), device=META, dtype=torch.bfloat16)
    use_channels_last(decoder)
    decoder.fold_upsampling()
    return decoder


def test_folded_up_sampling_saves_what_was_predicted(tuned):
    """5/9 of the 5.1 TFLOP of three convolutions, less a row and a column of spare positions."""
    _, state = tuned.decode(latents(), tuned.initial_state(1, HEIGHT, WIDTH))
    with FlopCounterMode(display=False) as counter:
        tuned.decode(latents(), state)
    assert counter.get_total_flops() / TERA == pytest.approx(37.39 - 2.8, rel=0.01)
    extra = elements(tuned) - elements(WanVideoDecoder(VideoVAEConfig(), device=META))
    assert extra * 2 / 1e6 == pytest.approx(33, abs=0.5)  # megabytes in 16 bit


def steady_work(decoder: WanVideoDecoder, *, kernel: bool) -> Work:
    _, state = decoder.decode(latents(), decoder.initial_state(1, HEIGHT, WIDTH))
    work = Work()
    use_norm_kernel(decoder, watch_triton(work, "norm_silu") if kernel else None)
    with work:
        decoder.decode(latents(), state)
    use_norm_kernel(decoder, None)
    return work


def test_a_steady_latent_stays_within_its_budget(tuned):
    """Bytes that elementwise work reads and writes, and kernels that a host launches.

    At 4.3 TB/s 20.6 GB are 4.8 ms; the convolutions' 34.6 TFLOP take 44 ms at 790 TFLOP/s.
    """
    work = steady_work(tuned, kernel=True)
    assert work.ops["norm_silu"] == 29
    assert work.elementwise_nbytes / GIGA <= 20.6
    assert work.kernels <= 200
    plain = steady_work(tuned, kernel=False)
    assert plain.elementwise_nbytes / GIGA <= 62.7
    assert plain.kernels <= 405


def test_the_unfolded_decoder_moves_more(decoder):
    work = steady_work(decoder, kernel=False)
    assert work.elementwise_nbytes / GIGA == pytest.approx(65.3, abs=0.1)


@pytest.mark.parametrize("kernel", [False, True])
def test_the_channels_last_layout_survives_until_frames_become_pictures(tuned, kernel):
    strayed = steady_work(tuned, kernel=kernel).strayed
    assert strayed == ["_to_copy (1, 3, 4, 512, 992)", "clamp_ (1, 4, 3, 512, 992)"]


def test_encoding_costs_what_was_counted(encoder):
    state = encoder.initial_state(1, 512, 992)
    video = torch.empty(1, 5, 3, 512, 992, device=META)
    with torch.no_grad():
        with FlopCounterMode(display=False) as first:
            _, state = encoder.encode_next(video[:, :1], state)
        with FlopCounterMode(display=False) as later:
            latent, _ = encoder.encode_next(video[:, 1:], state)
    assert latent.shape == (1, 1, 48, HEIGHT, WIDTH)
    assert first.get_total_flops() / TERA == pytest.approx(2.37, rel=0.01)
    assert later.get_total_flops() / TERA == pytest.approx(7.10, rel=0.01)


def test_decoding_reads_nothing_back_and_makes_no_float64(decoder):
    state = decoder.initial_state(1, HEIGHT, WIDTH)
    with torch.no_grad(), NoFloat64():  # a host read raises on the meta device
        for _ in range(2):
            _, state = decoder.decode(latents(), state)


@pytest.mark.parametrize(
    ("name", "config", "parameters", "teraflops", "mib"),
    [
        ("taew2_2", TAEW2_2, 9_923_532, 0.179, 20.3),
        ("taew2_2_super", TAEW2_2_SUPER, 18_993_420, 0.246, 40.7),
    ],
)
def test_light_decoders_are_the_published_ones(name, config, parameters, teraflops, mib):
    file = published("taew2_2.json", name)
    assert weights.taehv_config_from_state_dict(file) == config
    light = TAEHV(config, device=META, dtype=torch.bfloat16)
    assert shapes(weights.taehv_to_module(file)) == shapes(light.state_dict())
    assert elements(light) == parameters
    state = light.initial_state(1, HEIGHT, WIDTH)
    assert state.nbytes / MIB == pytest.approx(mib, abs=0.05)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, NoFloat64():
        light.decode(latents(), state)
    assert counter.get_total_flops() / TERA == pytest.approx(teraflops, rel=0.01)


def test_the_light_decoder_keeps_its_layout_and_stays_within_its_budget():
    light = TAEHV(TAEW2_2, device=META, dtype=torch.bfloat16)
    use_channels_last(light)
    _, state = light.decode(latents(), light.initial_state(1, HEIGHT, WIDTH))
    with torch.no_grad(), Work() as work:
        light.decode(latents(), state)
    assert work.kernels <= 122
    assert work.elementwise_nbytes / GIGA <= 1.12
    assert not [name for name in work.strayed if name.startswith(("cat", "convolution", "copy_"))]
