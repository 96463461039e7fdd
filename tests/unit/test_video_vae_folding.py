"""Doubling folded into a convolution: exact algebra, reversible, and any host's layers."""

import pytest
import torch
from torch.nn import functional

from hallo_live_core.config import VideoVAEConfig
from hallo_live_core.models.video_vae.decoder import WanVideoDecoder
from hallo_live_core.models.video_vae.folding import (
    fold_conv,
    fold_kernel,
    phase,
    unfold_conv,
    unfold_kernel,
)
from hallo_live_core.models.video_vae.layers import use_channels_last

EXACT = {"rtol": 0, "atol": 1e-12}
TINY = VideoVAEConfig(encoder_dim=4, decoder_dim=4, num_res_blocks=1)


class HostConv2d(torch.nn.Conv2d):
    """A layer class such as a host with its own memory manager has."""


def make_conv(kind=torch.nn.Conv2d) -> torch.nn.Conv2d:
    torch.manual_seed(1)
    return kind(3, 5, 3, padding=1, dtype=torch.float64).requires_grad_(False)


def make_decoder(dtype=torch.float64) -> WanVideoDecoder:
    torch.manual_seed(1)
    return WanVideoDecoder(TINY, dtype=dtype).requires_grad_(False)


def make_latents(num: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, num, 48, 2, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 2), (5, 7)])
def test_four_phases_are_the_doubled_picture_convolved(size):
    conv = make_conv()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    doubled = functional.interpolate(x, scale_factor=2, mode="nearest")
    phases = fold_conv(conv)(x)[:, :, None]
    expected = conv(doubled)[:, :, None]
    for row in (0, 1):
        for column in (0, 1):
            part = phase(phases, row, column)
            torch.testing.assert_close(part, expected[..., row::2, column::2], **EXACT)


def test_unfolding_gives_the_kernel_back():
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64)
    assert fold_kernel(weight).shape == (20, 3, 2, 2)
    torch.testing.assert_close(unfold_kernel(fold_kernel(weight)), weight, **EXACT)


def test_sums_of_taps_are_rounded_once():
    weight = torch.randn(4, 4, 3, 3).to(torch.bfloat16)
    assert torch.equal(fold_kernel(weight), fold_kernel(weight.double()).to(torch.bfloat16))


def test_a_hosts_layer_stays_a_hosts_layer():
    conv = make_conv(HostConv2d)
    conv.eval()
    folded = fold_conv(conv)
    assert isinstance(folded, HostConv2d)
    assert not folded.training and not folded.weight.requires_grad
    assert torch.equal(unfold_conv(folded).bias, conv.bias)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("at_once", [1, 3])
def test_a_folded_decoder_makes_the_same_video(channels_last, at_once):
    decoder, latents = make_decoder(), make_latents(4, batch=2)
    expected, _ = decoder(latents, decoder.initial_state(2, 2, 3))
    decoder.fold_upsampling()
    if channels_last:
        use_channels_last(decoder)
    actual, _ = decoder(latents, decoder.initial_state(2, 2, 3), latents_at_once=at_once)
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize(
    "config",
    [
        VideoVAEConfig(decoder_dim=6, multipliers=(1, 2, 4), temporal_downsample=(True, True)),
        VideoVAEConfig(decoder_dim=2, multipliers=(1, 2, 2, 4), num_res_blocks=1),
    ],
)
def test_a_folded_decoder_of_another_size_makes_the_same_video(config):
    torch.manual_seed(3)
    decoder = WanVideoDecoder(config, dtype=torch.float64).requires_grad_(False)
    latents = make_latents(2)
    expected, _ = decoder(latents, decoder.initial_state(1, 2, 3))
    decoder.fold_upsampling()
    actual, _ = decoder(latents, decoder.initial_state(1, 2, 3))
    torch.testing.assert_close(actual, expected, **EXACT)


def test_unfolding_gives_the_published_weights_back():
    decoder = make_decoder()
    published = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    decoder.fold_upsampling()
    decoder.fold_upsampling()  # once is enough
    folded = decoder.state_dict()
    assert folded.keys() == published.keys()
    changed = {name for name in published if folded[name].shape != published[name].shape}
    assert {name.rsplit(".", 1)[0] for name in changed} == {
        f"decoder.upsamples.{level}.upsamples.2.resample.1" for level in range(3)
    }
    decoder.unfold_upsampling()
    for name, tensor in decoder.state_dict().items():
        torch.testing.assert_close(tensor, published[name], **EXACT)


def test_folding_keeps_the_layout_of_the_weights():
    decoder = make_decoder()
    use_channels_last(decoder)
    decoder.fold_upsampling()
    weight = decoder.get_parameter("decoder.upsamples.0.upsamples.2.resample.1.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
