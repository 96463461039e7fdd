"""A light that jumps with a tone that follows it, as latents; and how to measure them again.

A light has a hue, and at moments that nothing foretells it jumps to one near either end of the
scale, as a coin falls. Its colour is the prompt's: two of the picture's channels, in which hues are
points on a half circle. The sound is a tone whose pitch is the hue, in two of its own channels. So
the same number, here called place, can be read from either stream, and compared. The picture runs
ahead of the sound, as lips do: the end of a block shows what will be heard in the next one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hallo_live_core.config import StreamConfig, TransformerConfig

from ..data.ode_pairs import ClipSize
from ..draws import Draws
from ..types import Latents

COLOURS = ("red", "green", "blue", "white")
PLACES = ("in the dark", "on a stage", "above the sea", "behind a window")
LEAD = 2
"""The picture runs this many latents ahead of the sound."""

SIDES = (0.15, 0.85)
"""Where a light rests, of 0..1."""

JITTER = 0.05
"""Standard deviation of a place around its side."""

JUMP_EVERY = 4
"""Video latents, on average; a jump ends on either side, so that half of them cross over."""

AMPLITUDE = 3.0
"""Radius of the half circles; latents then have about half the spread of real ones."""

GRAIN = 0.1
"""Standard deviation of what is neither light nor tone."""

CHANNELS_VIDEO, CHANNELS_AUDIO, TEXT_DIM = 48, 20, 64
"""As the tiny models that `hallo-live make-tiny` writes, so that they can decode and encode."""

FREQUENCIES = 64
"""Width of the embedding of timesteps."""

BASIS_SEED = 7
"""Fixes the directions of colours and tones in the channels."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What clips show: places 0..1 seen [b, f] and heard [b, f], brightness [b, f], colour [b]."""

    seen: Tensor
    heard: Tensor
    brightness: Tensor
    colour: Tensor

    @property
    def places(self) -> Tensor:
        """One row per clip, for comparing sets of clips: [b, 2 f]."""
        return torch.cat([self.seen, self.heard], dim=1)


def toy_config(*, dim: int = 64, num_layers: int = 2) -> TransformerConfig:
    """A transformer for this world, with the latent channels of the published one.

    One latent is one token: four together hold more noise than so narrow a network can carry. The
    sound's half is narrower, because its convolutions would take most of the time.
    """
    return TransformerConfig(
        video=_stream(dim, CHANNELS_VIDEO, patch=(1, 1, 1), num_heads=2),
        audio=_stream(dim // 2, CHANNELS_AUDIO, patch=(1,), num_heads=1),
        num_layers=num_layers,
    )


def _stream(dim: int, channels: int, *, patch: tuple[int, ...], num_heads: int) -> StreamConfig:
    return StreamConfig(
        in_channels=channels,
        patch=patch,
        dim=dim,
        ffn_dim=2 * dim,
        num_heads=num_heads,
        freq_dim=FREQUENCIES,
        text_dim=TEXT_DIM,
    )


def toy_prompts() -> list[str]:
    """Every colour in every place."""
    return [
        f"A {colour} light flickers {place}. <AUDCAP>A tone that follows it.<ENDAUDCAP>"
        for colour in COLOURS
        for place in PLACES
    ]


def make_clips(prompts: list[str], size: ClipSize, seed: int, *, lead: int = 0) -> Latents:
    """Clips of the world: video [b, f, c, h, w], audio [b, a, c].

    lead: by how many video latents the picture runs ahead of the sound, as lips do.
    """
    draws = Draws(seed, 0, tuple(range(len(prompts))))
    path = draw_path(draws, size.video_latents + lead)
    seen = path[:, lead:]
    heard = path[:, : size.video_latents].repeat_interleave(
        size.audio_latents // size.video_latents, dim=1
    )
    colours = torch.tensor([colour_of(prompt) for prompt in prompts])
    video = _picture(seen, colours, size)
    audio = _tone(heard)
    video = video + GRAIN * draws.normal("picture", *video.shape[1:])
    audio = audio + GRAIN * draws.normal("sound", *audio.shape[1:])
    return Latents(video, audio)


def draw_path(draws: Draws, length: int) -> Tensor:
    """Places [b, length]: constant between jumps."""
    jumps = draws.integers("jumps", 0, JUMP_EVERY, length) == 0
    sides = torch.tensor(SIDES)[draws.integers("sides", 0, 2, length)]
    places = sides + JITTER * draws.normal("places", length)
    index = torch.arange(length).expand_as(jumps)
    latest = torch.where(jumps, index, 0).cummax(dim=1).values
    return places.gather(1, latest)


def measure(clips: Latents) -> Measured:
    """Read places, brightness and colour from latents."""
    video, audio = clips.video.float().mean(dim=(-2, -1)).cpu(), clips.audio.float().cpu()
    hues, tones = _bases()
    light = torch.einsum("bfc,kdc->bfkd", video, hues)
    colour = light.norm(dim=-1).mean(dim=1).argmax(dim=1)
    own = light[torch.arange(len(light)), :, colour]
    per_latent = audio.shape[1] // video.shape[1]
    tone = torch.einsum("bac,dc->bad", audio, tones).unflatten(1, (-1, per_latent)).mean(2)
    return Measured(_place(own), _place(tone), own.norm(dim=-1), colour)


def colour_of(prompt: str) -> int:
    """Number of the colour that a prompt names."""
    return next(i for i, colour in enumerate(COLOURS) if f" {colour} " in prompt)


def _point(place: Tensor) -> Tensor:
    """Places 0..1 to points on a half circle, [..., 2]."""
    return AMPLITUDE * torch.stack([(math.pi * place).cos(), (math.pi * place).sin()], dim=-1)


def _place(point: Tensor) -> Tensor:
    """The other way round."""
    return torch.atan2(point[..., 1], point[..., 0]).clamp(0, math.pi) / math.pi


def _picture(seen: Tensor, colours: Tensor, size: ClipSize) -> Tensor:
    light = torch.einsum("bfd,bdc->bfc", _point(seen), _bases()[0][colours])
    return light[..., None, None].expand(-1, -1, -1, size.height, size.width)


def _tone(heard: Tensor) -> Tensor:
    return _point(heard) @ _bases()[1]


def _bases() -> tuple[Tensor, Tensor]:
    """Orthonormal directions in the channels: two of each colour [k, 2, c], two of tones [2, c]."""
    generator = torch.Generator().manual_seed(BASIS_SEED)
    hues = torch.randn(CHANNELS_VIDEO, 2 * len(COLOURS), generator=generator)
    tones = torch.randn(CHANNELS_AUDIO, 2, generator=generator)
    return torch.linalg.qr(hues)[0].T.unflatten(0, (-1, 2)), torch.linalg.qr(tones)[0].T
