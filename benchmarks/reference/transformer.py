"""One call of the student, written down as spec 01 §3 to §6 says it, for comparison of speed.

Plain on purpose: every projection by itself, rotation in complex float64, past and present keys put
together by `cat`, prompt and timesteps taken in anew by every call. No mask: what a block may see
is what it is given. It shares no code with the product, only the published names of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from hallo_live_core.config import StreamConfig, TransformerConfig

Pair = tuple[Tensor, Tensor]
ROPE_BASE = 10_000.0


@dataclass
class Past:
    """Keys and values of the clean video blocks so far, a list entry per layer and block."""

    video_self: list[list[Pair]] = field(default_factory=list)
    video_cross: list[list[Pair]] = field(default_factory=list)


@dataclass
class Stream:
    """What one stream brings to every layer of one call."""

    name: str
    config: StreamConfig
    tokens: Tensor  # [b, l, dim]
    time: Tensor  # [b, latents, 6, dim]
    embedding: Tensor  # [b, latents, dim]
    text: Tensor  # [b, text_len, dim]
    turns: Tensor  # complex [l, d/2]


class ReferenceTransformer:
    """weights: under their published names, all on one device and in one dtype."""

    def __init__(self, weights: Mapping[str, Tensor], config: TransformerConfig) -> None:
        self.weights, self.config = weights, config

    def empty_past(self) -> Past:
        layers = range(self.config.num_layers)
        return Past([[] for _ in layers], [[] for _ in layers])

    def __call__(
        self,
        video: Tensor,
        audio: Tensor,
        times: Pair,
        text: Pair,
        past: Past,
        first_latent: int,
        *,
        remember: bool = False,
    ) -> Pair:
        """Flow of video [b, f, c, h, w] and audio [b, a, c]; times: [b, f] and [b, a], 0..1000."""
        v = self._video_stream(video, times[0], text[0], first_latent)
        a = self._audio_stream(audio, times[1], text[1])
        for layer in range(self.config.num_layers):
            self._layer(layer, v, a, past, remember)
        picture = rearrange(
            self._head(v),
            "b (f h w) (p q c) -> b f c (h p) (w q)",
            f=video.shape[1],
            h=video.shape[3] // v.config.patch[1],
            p=v.config.patch[1],
            q=v.config.patch[2],
        )
        return picture, self._head(a)

    # -- the way in and out (spec 01 §3) ------------------------------------------------------

    def _video_stream(self, video: Tensor, times: Tensor, text: Tensor, first: int) -> Stream:
        name, config = "video_model", self.config.video
        weight, bias = self._pair(f"{name}.patch_embedding")
        x = rearrange(video, "b f c h w -> b c f h w")
        x = functional.conv3d(x, weight, bias, stride=config.patch)
        turns = video_turns(x.shape[2:], config.head_dim, first).to(x.device)
        return self._stream(
            name, config, rearrange(x, "b d f h w -> b (f h w) d"), times, text, turns
        )

    def _audio_stream(self, audio: Tensor, times: Tensor, text: Tensor) -> Stream:
        name, config = "audio_model", self.config.audio
        weight, bias = self._pair(f"{name}.patch_embedding.0")
        z = functional.silu(functional.conv1d(audio.transpose(1, 2), weight, bias, padding=3))
        w1, w2, w3 = (self.weights[f"{name}.patch_embedding.2.w{i}.weight"] for i in (1, 2, 3))
        gated = functional.silu(functional.conv1d(z, w1, padding=3)) * functional.conv1d(
            z, w3, padding=3
        )
        x = functional.conv1d(gated, w2, padding=3).transpose(1, 2)
        scale = self.config.audio_rope_scale
        turns = audio_turns(x.shape[1], config.head_dim, scale).to(x.device)
        return self._stream(name, config, x, times, text, turns)

    def _stream(
        self,
        name: str,
        config: StreamConfig,
        tokens: Tensor,
        times: Tensor,
        text: Tensor,
        turns: Tensor,
    ) -> Stream:
        waves = sinusoid(times, config.freq_dim).to(tokens.dtype)
        embedding = self._mlp(f"{name}.time_embedding", waves, functional.silu)
        time = self._linear(f"{name}.time_projection.1", functional.silu(embedding))
        padded = functional.pad(text, (0, 0, 0, config.text_len - text.shape[1]))
        inside = self._mlp(f"{name}.text_embedding", padded, tanh_gelu)
        return Stream(name, config, tokens, time.unflatten(-1, (6, -1)), embedding, inside, turns)

    def _head(self, s: Stream) -> Tensor:
        shift, scale = (s.embedding.unsqueeze(2) + self.weights[f"{s.name}.head.modulation"]).chunk(
            2, dim=2
        )
        return self._linear(f"{s.name}.head.head", modulate(s.tokens, shift, scale, s.config.eps))

    # -- a layer (spec 01 §4) -----------------------------------------------------------------

    def _layer(self, layer: int, v: Stream, a: Stream, past: Past, remember: bool) -> None:
        changes = {s.name: self._modulation(layer, s) for s in (v, a)}
        v.tokens = self._look(layer, v, changes[v.name], past.video_self[layer], remember)
        a.tokens = self._look(layer, a, changes[a.name], [], False)
        heard = self._fusion_keys(layer, v, a)
        seen = self._fusion_keys(layer, a, v)
        v.tokens = self._meet(layer, v, heard, [], False)
        a.tokens = self._meet(layer, a, seen, past.video_cross[layer], remember)
        v.tokens = self._think(layer, v, changes[v.name])
        a.tokens = self._think(layer, a, changes[a.name])

    def _modulation(self, layer: int, s: Stream) -> tuple[Tensor, ...]:
        table = self.weights[f"{s.name}.blocks.{layer}.modulation.modulation"]
        return (s.time + table).chunk(6, dim=2)

    def _look(
        self, layer: int, s: Stream, change: tuple[Tensor, ...], past: list[Pair], remember: bool
    ) -> Tensor:
        name = f"{s.name}.blocks.{layer}.self_attn"
        x = modulate(s.tokens, change[0], change[1], s.config.eps)
        q = rotate(
            self._heads(s, self._normed(f"{name}.norm_q", self._linear(f"{name}.q", x))), s.turns
        )
        k = rotate(
            self._heads(s, self._normed(f"{name}.norm_k", self._linear(f"{name}.k", x))), s.turns
        )
        v = self._heads(s, self._linear(f"{name}.v", x))
        answer = attend(q, *with_past(past, (k, v), remember))
        return gated(s.tokens, change[2], self._linear(f"{name}.o", answer))

    def _fusion_keys(self, layer: int, s: Stream, other: Stream) -> Pair:
        """Keys and values that stream `s` makes of the tokens of the other stream."""
        name = f"{s.name}.blocks.{layer}.cross_attn"
        weight, bias = self._pair(f"{name}.pre_attn_norm_fusion")
        x = functional.layer_norm(other.tokens, weight.shape, weight, bias, s.config.eps)
        k = self._normed(f"{name}.norm_k_fusion", self._linear(f"{name}.k_fusion", x))
        v = self._heads(s, self._linear(f"{name}.v_fusion", x))
        return rotate(self._heads(s, k), other.turns), v

    def _meet(self, layer: int, s: Stream, other: Pair, past: list[Pair], remember: bool) -> Tensor:
        block = f"{s.name}.blocks.{layer}"
        name = f"{block}.cross_attn"
        weight, bias = self._pair(f"{block}.norm3")
        x = functional.layer_norm(s.tokens, weight.shape, weight, bias, s.config.eps)
        q = self._heads(s, self._normed(f"{name}.norm_q", self._linear(f"{name}.q", x)))
        k = self._heads(s, self._normed(f"{name}.norm_k", self._linear(f"{name}.k", s.text)))
        v = self._heads(s, self._linear(f"{name}.v", s.text))
        told = attend(q, k, v)
        met = attend(rotate(q, s.turns), *with_past(past, other, remember))
        return s.tokens + self._linear(f"{name}.o", told + met)

    def _think(self, layer: int, s: Stream, change: tuple[Tensor, ...]) -> Tensor:
        x = modulate(s.tokens, change[3], change[4], s.config.eps)
        return gated(s.tokens, change[5], self._mlp(f"{s.name}.blocks.{layer}.ffn", x, tanh_gelu))

    # -- weights ------------------------------------------------------------------------------

    def _pair(self, name: str) -> Pair:
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, *self._pair(name))

    def _mlp(self, name: str, x: Tensor, activation) -> Tensor:
        return self._linear(f"{name}.2", activation(self._linear(f"{name}.0", x)))

    def _normed(self, name: str, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype != torch.float64 else x
        eps = self.config.video.eps
        scale = (wide.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
        return (wide * scale).to(x.dtype) * self.weights[f"{name}.weight"]

    @staticmethod
    def _heads(s: Stream, x: Tensor) -> Tensor:
        return x.unflatten(-1, (s.config.num_heads, -1))


# -- formulas -------------------------------------------------------------------------------------


def tanh_gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[b, l, n, d] each to [b, l, n * d]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def with_past(past: list[Pair], now: Pair, remember: bool) -> Pair:
    """All that may be seen: the clean blocks before and this one, which may join them."""
    seen = [*past, now]
    if remember:
        past.append(now)
    return torch.cat([k for k, _ in seen], dim=1), torch.cat([v for _, v in seen], dim=1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """shift, scale: [b, latents, 1, dim], each for an equal share of the tokens."""
    normed = functional.layer_norm(x, x.shape[-1:], eps=eps).unflatten(1, (shift.shape[1], -1))
    return (normed * (1 + scale) + shift).flatten(1, 2)


def gated(x: Tensor, gate: Tensor, change: Tensor) -> Tensor:
    return x + (change.unflatten(1, (gate.shape[1], -1)) * gate).flatten(1, 2)


def sinusoid(times: Tensor, width: int) -> Tensor:
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float64, device=times.device) / half
    angles = times.double().unsqueeze(-1) * ROPE_BASE**-exponents
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """x: [b, l, n, d]; turns: complex [l, d/2]."""
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns[:, None]).flatten(-2).to(x.dtype)


def turns_of(positions: Tensor, width: int) -> Tensor:
    """Complex [positions, width / 2]."""
    frequencies = ROPE_BASE ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.outer(positions.double(), frequencies)
    return torch.polar(torch.ones_like(angles), angles)


def video_turns(grid: tuple[int, ...], head_dim: int, first_latent: int) -> Tensor:
    """Complex [f * h * w, head_dim / 2]: time, then height, then width."""
    frames, height, width = grid
    side = 2 * (head_dim // 6)
    time = turns_of(torch.arange(first_latent, first_latent + frames), head_dim - 2 * side)
    rows, columns = turns_of(torch.arange(height), side), turns_of(torch.arange(width), side)
    parts = (
        time[:, None, None].expand(frames, height, width, -1),
        rows[None, :, None].expand(frames, height, width, -1),
        columns[None, None].expand(frames, height, width, -1),
    )
    return torch.cat(parts, dim=-1).reshape(frames * height * width, -1)


def audio_turns(latents: int, head_dim: int, scale: float) -> Tensor:
    """Complex [latents, head_dim / 2]: only the share of time turns."""
    side = 2 * (head_dim // 6)
    time = turns_of(scale * torch.arange(latents), head_dim - 2 * side)
    still = torch.ones(latents, side, dtype=time.dtype)
    return torch.cat([time, still], dim=-1)
