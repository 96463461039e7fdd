"""Light decoders against a plain whole-clip reference, and streamed against whole."""

import re

import pytest
import torch
from torch.nn import functional

from hallo_live_core.errors import ShapeError
from hallo_live_core.models.video_vae.latents import LatentScale
from hallo_live_core.models.video_vae.layers import use_channels_last
from hallo_live_core.models.video_vae.taehv import TAEHV, TAEHVConfig

BASE = TAEHVConfig(widths=(8, 6, 4, 4))
SUPER = TAEHVConfig(widths=(8, 6, 4, 4), wide_kernels=True)
HEIGHT, WIDTH = 2, 3


def make_decoder(config: TAEHVConfig) -> TAEHV:
    torch.manual_seed(3)
    return TAEHV(config, dtype=torch.float64).requires_grad_(False)


def make_latents(num: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(
        batch, num, 48, HEIGHT, WIDTH, generator=generator, dtype=torch.float64
    ).mul_(2)


class Reference:
    """One clip [t, c, h, w] at a time, all frames in parallel, straight from the description."""

    def __init__(self, weights: dict[str, torch.Tensor]):
        self.weights = weights

    def conv(self, name, x, groups=1):
        weight = self.weights[f"decoder.{name}.weight"]
        bias = self.weights.get(f"decoder.{name}.bias")
        return functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=groups)

    def with_previous(self, x):
        previous = torch.cat((torch.zeros_like(x[:1]), x[:-1]))
        return torch.cat((x, previous), dim=1)

    def memory(self, n, x):
        y = self.conv(f"{n}.conv.0", self.with_previous(x)).relu()
        y = self.conv(f"{n}.conv.2", y).relu()
        return (self.conv(f"{n}.conv.4", y) + x).relu()

    def wide_memory(self, n, x):
        y = self.with_previous(x)
        y = self.conv(f"{n}.conv.1", self.conv(f"{n}.conv.0", y, groups=y.shape[1])).relu()
        return self.conv(f"{n}.conv.3", y) + x

    def grow(self, n, x, factor):
        y = self.conv(f"{n}.conv", x)
        frames = [part for image in y for part in image.chunk(factor, dim=0)]
        return torch.stack(frames)

    def double(self, x):
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    def base(self, x):
        x = self.conv(1, 3 * torch.tanh(x / 3)).relu()
        for blocks, grow, factor, conv in (
            ((3, 4, 5), 7, 1, 8),
            ((9, 10, 11), 13, 2, 14),
            ((15, 16, 17), 19, 2, 20),
        ):
            for n in blocks:
                x = self.memory(n, x)
            x = self.conv(conv, self.grow(grow, self.double(x), factor))
        return self.conv(22, x.relu())

    def super(self, x):
        x = self.conv(0, x)
        for blocks, conv, grow, factor in (
            ((1, 2, 3), 4, 7, 1),
            ((8, 9, 10), 11, 14, 2),
            ((15, 16, 17), 18, 21, 2),
        ):
            for n in blocks:
                x = self.wide_memory(n, x)
            x = functional.pixel_shuffle(self.conv(conv, x).relu(), 2)
            x = self.grow(grow, x, factor)
        return self.conv(22, x)

    def video(self, latents, wide):
        images = torch.stack([self.super(z) if wide else self.base(z) for z in latents])
        rows = images.unflatten(2, (3, 2, 2))  # colour, row, column
        b, t, c, _, _, h, w = rows.shape
        picture = rows.permute(0, 1, 2, 5, 3, 6, 4).reshape(b, t, c, 2 * h, 2 * w)
        return picture[:, 3:].clamp(0, 1) * 2 - 1


@pytest.mark.parametrize("config", [BASE, SUPER], ids=["base", "super"])
def test_a_light_decoder_equals_the_plain_reference(config):
    decoder, latents = make_decoder(config), make_latents(3, batch=2)
    if config.wide_kernels:
        decoder.decoder[22].bias += 0.5  # random weights alone hardly leave the clamped range
    video, _ = decoder.decode(latents, decoder.initial_state(2, HEIGHT, WIDTH))
    expected = Reference(decoder.state_dict()).video(latents, config.wide_kernels)
    assert video.shape == (2, 9, 3, HEIGHT * 16, WIDTH * 16)
    assert (expected.abs() < 1).double().mean() > 0.3
    torch.testing.assert_close(video, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", [BASE, SUPER], ids=["base", "super"])
@pytest.mark.parametrize("cuts", [(1, 1, 1, 1), (2, 2), (3, 1)])
def test_a_clip_cut_anywhere_gives_the_same_video(config, cuts):
    decoder, latents = make_decoder(config), make_latents(4)
    whole, _ = decoder.decode(latents, decoder.initial_state(1, HEIGHT, WIDTH))
    state, parts = decoder.initial_state(1, HEIGHT, WIDTH), []
    for part in latents.split(cuts, dim=1):
        video, state = decoder.decode(part, state)
        parts.append(video)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-12)


def test_the_first_latent_is_one_frame_and_every_other_four():
    decoder = make_decoder(BASE)
    first, state = decoder.decode(make_latents(1), decoder.initial_state(1, HEIGHT, WIDTH))
    later, _ = decoder.decode(make_latents(2), state)
    assert (first.shape[1], later.shape[1]) == (1, 8)


def test_weights_for_the_big_vaes_latents_get_them():
    latents = make_latents(2)
    plain = make_decoder(BASE)
    other = make_decoder(TAEHVConfig(widths=BASE.widths, normalised_latents=False))
    raw = LatentScale.on(torch.device("cpu"), torch.float64).restore(latents)
    expected, _ = plain.decode(raw, plain.initial_state(1, HEIGHT, WIDTH))
    actual, _ = other.decode(latents, other.initial_state(1, HEIGHT, WIDTH))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", [BASE, SUPER], ids=["base", "super"])
def test_layouts_give_the_same_video(config):
    decoder, latents = make_decoder(config), make_latents(3)
    expected, _ = decoder.decode(latents, decoder.initial_state(1, HEIGHT, WIDTH))
    use_channels_last(decoder)
    state = decoder.initial_state(1, HEIGHT, WIDTH)
    assert state.convolutions.memory_format == torch.channels_last_3d
    actual, _ = decoder.decode(latents, state)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_the_size_of_a_state_is_known_before_it_is_made():
    decoder = make_decoder(BASE)
    state = decoder.initial_state(2, HEIGHT, WIDTH, dtype=torch.float16)
    assert state.nbytes == decoder.state_nbytes(2, HEIGHT, WIDTH, torch.float16)


def test_layers_without_a_number_of_their_own_weigh_nothing():
    names = {re.sub(r"\.(weight|bias)$", "", name) for name in make_decoder(BASE).state_dict()}
    assert not names & {f"decoder.{n}" for n in (0, 2, 6, 12, 18, 21)}


def test_latents_in_the_order_of_comfyui_are_refused():
    decoder = make_decoder(BASE)
    with pytest.raises(ShapeError, match="swap axes 1 and 2"):
        decoder.decode(
            torch.zeros(1, 48, 2, HEIGHT, WIDTH), decoder.initial_state(1, HEIGHT, WIDTH)
        )
