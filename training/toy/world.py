"""Moving blobs with a tone that follows them, as latents; and how to measure them again.

A blob of light moves sideways over a dark field, by a path that turns at random moments. Its
colour is the prompt's. The sound is a tone whose pitch is the blob's place: a point on a half
circle in two of the sound's channels. So place can be read from either stream, and compared.
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
MOTION_KNOTS = 4
"""Places that a path goes through, evenly spaced in time."""

BLOB_WIDTH = 0.22
"""Standard deviation of a blob, as a share of the picture's width."""

AMPLITUDE = 2.0
"""Height of a blob, so that its latents have about the spread of real ones."""

GRAIN = 0.1
"""Standard deviation of what is neither blob nor tone."""

CHANNELS_VIDEO, CHANNELS_AUDIO, TEXT_DIM = 48, 20, 64
"""As the tiny models that `hallo-live make-tiny` writes, so that they can decode and encode."""

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
    def features(self) -> Tensor:
        """One row per clip, for comparing sets of clips: [b, 3 f]."""
        return torch.cat([self.seen, self.heard, self.brightness / AMPLITUDE], dim=1)


def toy_config(*, dim: int = 80, num_layers: int = 2) -> TransformerConfig:
    """A transformer for this world, with the latent channels of the published one.

    One latent is one token: four together hold more noise than so narrow a network can carry.
    """
    shared = {"dim": dim, "ffn_dim": 2 * dim, "num_heads": 1, "freq_dim": 64, "text_dim": TEXT_DIM}
    return TransformerConfig(
        video=StreamConfig(in_channels=CHANNELS_VIDEO, patch=(1, 1, 1), **shared),
        audio=StreamConfig(in_channels=CHANNELS_AUDIO, patch=(1,), **shared),
        num_layers=num_layers,
    )


def toy_prompts() -> list[str]:
    """Every colour in every place."""
    return [
        f"A {colour} light moves {place}. <AUDCAP>A tone that follows it.<ENDAUDCAP>"
        for colour in COLOURS
        for place in PLACES
    ]


def make_clips(prompts: list[str], size: ClipSize, seed: int, *, lead: float = 0.0) -> Latents:
    """Clips of the world: video [b, f, c, h, w], audio [b, a, c].

    lead: by how many video latents the picture runs ahead of the sound, as lips do.
    """
    draws = Draws(seed, 0, tuple(range(len(prompts))))
    knots = draws.normal("path", MOTION_KNOTS + 2).sigmoid()
    seen_at = torch.arange(size.video_latents) + lead
    heard_at = torch.arange(size.audio_latents) * (size.video_latents / size.audio_latents)
    seen, heard = (along(knots, when / (size.video_latents - 1)) for when in (seen_at, heard_at))
    colours = torch.tensor([colour_of(prompt) for prompt in prompts])
    video = _picture(seen, colours, size)
    audio = _tone(heard)
    video = video + GRAIN * draws.normal("picture", *video.shape[1:])
    audio = audio + GRAIN * draws.normal("sound", *audio.shape[1:])
    return Latents(video, audio)


def along(knots: Tensor, when: Tensor) -> Tensor:
    """Places [b, t] on smooth paths through `knots` [b, k + 2] at times 0..1 [t]."""
    position = (when * (knots.shape[1] - 2)).clamp(0, knots.shape[1] - 1.001)
    index = position.floor().long()
    share = (1 - torch.cos(math.pi * (position - index))) / 2
    return knots[:, index] * (1 - share) + knots[:, index + 1] * share


def measure(clips: Latents) -> Measured:
    """Read places, brightness and colour from latents."""
    video, audio = clips.video.float().cpu(), clips.audio.float().cpu()
    colours, tones = _bases()
    light = torch.einsum("bfchw,kc->bfkhw", video, colours)
    colour = light.amax(dim=(-2, -1)).mean(dim=1).argmax(dim=1)
    own = light[torch.arange(len(light)), :, colour]
    weight = own.clamp_min(0) ** 2
    across = torch.linspace(0, 1, video.shape[-1])
    seen = (weight.sum(-2) * across).sum(-1) / weight.sum(dim=(-2, -1)).clamp_min(1e-6)
    x, y = (torch.einsum("bac,c->ba", audio, tone) for tone in tones)
    per_latent = audio.shape[1] // video.shape[1]
    x, y = (v.unflatten(1, (-1, per_latent)).mean(-1) for v in (x, y))
    heard = torch.atan2(y, x).clamp(0, math.pi) / math.pi
    return Measured(seen, heard, own.amax(dim=(-2, -1)), colour)


def colour_of(prompt: str) -> int:
    """Number of the colour that a prompt names."""
    return next(i for i, colour in enumerate(COLOURS) if f" {colour} " in prompt)


def _picture(seen: Tensor, colours: Tensor, size: ClipSize) -> Tensor:
    across = torch.linspace(0, 1, size.width)
    down = torch.linspace(0, 1, size.height)
    row = torch.exp(-(((across - seen[..., None]) / BLOB_WIDTH) ** 2) / 2)
    column = torch.exp(-(((down - 0.5) / (2 * BLOB_WIDTH)) ** 2) / 2)
    light = AMPLITUDE * column[:, None] * row[:, :, None, :]
    return torch.einsum("bfhw,bc->bfchw", light, _bases()[0][colours])


def _tone(heard: Tensor) -> Tensor:
    tones = _bases()[1]
    x, y = torch.cos(math.pi * heard), torch.sin(math.pi * heard)
    return AMPLITUDE * (x[..., None] * tones[0] + y[..., None] * tones[1])


def _bases() -> tuple[Tensor, Tensor]:
    """Orthonormal directions of the colours [k, c] and of the two tone axes [2, c]."""
    generator = torch.Generator().manual_seed(BASIS_SEED)
    colours = torch.randn(CHANNELS_VIDEO, len(COLOURS), generator=generator)
    tones = torch.randn(CHANNELS_AUDIO, 2, generator=generator)
    return torch.linalg.qr(colours)[0].T, torch.linalg.qr(tones)[0].T
