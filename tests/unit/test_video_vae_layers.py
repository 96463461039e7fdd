"""Building blocks of the video VAE against their formulas."""

import itertools
import math

import pytest
import torch
from torch.nn import functional

from hallo_live_core.models.video_vae.latents import (
    LATENT_MEAN,
    LATENT_STD,
    Z_DIM,
    LatentScale,
)
from hallo_live_core.models.video_vae.layers import (
    AttentionBlock,
    ChannelNorm,
    as_images,
    as_video,
)
from hallo_live_core.models.video_vae.resample import (
    Shortcut,
    add_duplicated_,
    average_down,
    patchify,
    unpatchify,
)


def test_the_norm_scales_each_pixel_to_the_root_of_its_channels():
    norm = ChannelNorm(16)
    y = norm(torch.randn(2, 16, 3, 4, 5))
    torch.testing.assert_close(y.norm(dim=1), torch.full((2, 3, 4, 5), 4.0))


def test_the_norm_of_nothing_is_nothing():
    assert not ChannelNorm(4)(torch.zeros(1, 4, 1, 2, 2)).any()


def test_the_norm_computes_in_float32_and_rounds_once_after_the_silu():
    torch.manual_seed(0)
    norm, exact = ChannelNorm(64, dtype=torch.bfloat16), ChannelNorm(64, dtype=torch.float64)
    x = torch.randn(1, 64, 1, 8, 8, dtype=torch.bfloat16)
    out = torch.empty_like(x)
    norm.silu_into(x, out)
    wide = torch.empty_like(x, dtype=torch.float64)
    exact.silu_into(x.double(), wide)
    half_step = 2.0**-8  # of bf16, which has 8 significant bits
    assert ((out.double() - wide).abs() <= wide.abs() * half_step * 1.01 + 1e-30).all()


def test_attention_sees_one_frame_only():
    torch.manual_seed(0)
    block = AttentionBlock(8, ops=torch.nn)
    x = torch.randn(2, 8, 3, 4, 5)
    changed = x.clone()
    changed[:, :, 1] += 1
    difference = (block(x) - block(changed)).abs().amax(dim=(0, 1, 3, 4))
    assert difference[0] == 0 and difference[2] == 0 and difference[1] > 0


def test_attention_weighs_all_pixels_of_a_frame():
    torch.manual_seed(0)
    block = AttentionBlock(8, ops=torch.nn)
    x = torch.randn(1, 8, 1, 2, 3)
    pixels = block.norm(x[:, :, 0]).flatten(2)[0].T
    weight, bias = block.to_qkv.weight[:, :, 0, 0], block.to_qkv.bias
    q, k, v = (pixels @ weight.T + bias).split(8, dim=1)
    mixed = ((q @ k.T) / math.sqrt(8)).softmax(dim=1) @ v
    out = mixed @ block.proj.weight[:, :, 0, 0].T + block.proj.bias
    torch.testing.assert_close(block(x), x + out.T.reshape(1, 8, 1, 2, 3))


def test_frames_become_images_and_back():
    x = torch.randn(2, 3, 4, 5, 6)
    images = as_images(x)
    assert images.shape == (8, 3, 5, 6)
    assert torch.equal(images[5], x[1, :, 1])
    assert torch.equal(as_video(images, batch=2), x)


@pytest.mark.parametrize(("batch", "frames"), [(2, 4), (1, 4), (2, 1), (1, 1)])
def test_channels_last_frames_become_images_without_a_copy(batch, frames):
    x = torch.randn(batch, 3, frames, 5, 6).to(memory_format=torch.channels_last_3d)
    images = as_images(x)
    assert images.data_ptr() == x.data_ptr()
    assert images.is_contiguous(memory_format=torch.channels_last)
    beside = torch.cat((images, images), dim=1)  # where the layout must be told from strides
    assert beside.is_contiguous(memory_format=torch.channels_last)


def test_patchify_counts_columns_slower_than_rows():
    video = torch.arange(2 * 2 * 2).view(1, 2, 1, 2, 2)  # colour, row, column
    channels = patchify(video).flatten().tolist()
    expected = [
        video[0, c, 0, row, col].item() for c in range(2) for col in (0, 1) for row in (0, 1)
    ]
    assert channels == expected


def test_unpatchify_undoes_patchify():
    video = torch.randn(2, 3, 2, 4, 6)
    assert torch.equal(unpatchify(patchify(video)), video)


def average_by_the_formula(x, channels, time, space):
    batch, c, t, h, w = x.shape
    x = functional.pad(x, (0, 0, 0, 0, -t % time, 0))
    t = x.shape[2] // time
    n = c * time * space * space // channels
    out = torch.zeros(batch, channels, t, h // space, w // space, dtype=x.dtype)
    cells = itertools.product(range(c), range(time), range(space), range(space))
    for e, (channel, dt, dy, dx) in enumerate(cells):
        out[:, e // n] += x[:, channel, dt::time, dy::space, dx::space] / n
    return out


@pytest.mark.parametrize(
    ("c", "channels", "time", "space", "frames"),
    [(4, 4, 1, 2, 3), (4, 8, 2, 2, 4), (4, 8, 2, 2, 1), (8, 4, 1, 1, 2), (3, 6, 2, 2, 3)],
)
def test_the_shortcut_that_shrinks_averages_neighbours(c, channels, time, space, frames):
    x = torch.randn(2, c, frames, 4, 6, dtype=torch.float64)
    expected = average_by_the_formula(x, channels, time, space)
    torch.testing.assert_close(average_down(x, channels, time=time, space=space), expected)


def duplicates_by_the_formula(x, channels, time, space):
    batch, c, t, h, w = x.shape
    out = torch.zeros(batch, channels, t * time, h * space, w * space, dtype=x.dtype)
    r = channels * time * space * space // c
    cells = itertools.product(range(channels), range(time), range(space), range(space))
    for e, (channel, dt, dy, dx) in enumerate(cells):
        out[:, channel, dt::time, dy::space, dx::space] = x[:, e // r]
    return out


WIDTHS = [(8, 8, 2), (8, 4, 1), (8, 4, 2), (4, 8, 1), (4, 8, 2), (8, 2, 1), (4, 3, 1), (4, 3, 2)]


@pytest.mark.parametrize(("c", "channels", "time"), WIDTHS)
def test_the_shortcut_that_grows_repeats_its_input(c, channels, time):
    x = torch.randn(2, c, 3, 2, 3, dtype=torch.float64)
    y = torch.randn(2, channels, 3 * time, 4, 6, dtype=torch.float64)
    expected = y + duplicates_by_the_formula(x, channels, time, 2)
    assert torch.equal(add_duplicated_(y, Shortcut(x, channels, time, False)), expected)


@pytest.mark.parametrize(("c", "channels", "time"), WIDTHS)
def test_the_first_latent_keeps_only_the_last_of_its_repeated_frames(c, channels, time):
    x = torch.randn(1, c, 1, 2, 3, dtype=torch.float64)
    y = torch.randn(1, channels, 1, 4, 6, dtype=torch.float64)
    expected = y + duplicates_by_the_formula(x, channels, time, 2)[:, :, time - 1 :]
    assert torch.equal(add_duplicated_(y, Shortcut(x, channels, time, True)), expected)


def test_there_are_48_means_and_deviations():
    assert len(LATENT_MEAN) == len(LATENT_STD) == Z_DIM == 48
    assert LATENT_MEAN[0] == -0.2289 and LATENT_MEAN[-1] == -0.0667
    assert LATENT_STD[0] == 0.4765 and LATENT_STD[-1] == 0.7744
    assert min(LATENT_STD) > 0


def test_latents_are_scaled_per_channel_and_back():
    scale = LatentScale.on(torch.device("cpu"), torch.float64)
    raw = torch.randn(1, 2, 48, 3, 4, dtype=torch.float64)
    normalised = scale.normalise(raw)
    expected = (raw[0, 1, 19] - 0.5109) / 0.6804
    torch.testing.assert_close(normalised[0, 1, 19], expected)
    torch.testing.assert_close(scale.restore(normalised), raw)


def test_latents_are_scaled_in_float32_whatever_the_network_computes_in():
    scale = LatentScale.on(torch.device("cpu"), torch.bfloat16)
    assert scale.restore(torch.zeros(1, 1, 48, 1, 1, dtype=torch.bfloat16)).dtype == torch.float32
