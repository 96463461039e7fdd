"""Rotary position embedding: three axes for video, one scaled axis for audio (spec 01 §5).

Tables are built in float64 on the CPU and stored as cos/sin pairs, float32 unless asked otherwise;
a table in half precision would move 28 % of the rotated values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import TransformerConfig
from ..errors import PositionError
from .precision import at_least_float32

ROPE_BASE = 10_000.0


@dataclass(frozen=True, slots=True)
class RotaryTables:
    """Rotations of every token of a clip; row 0 is position 0.

    video: [f * tokens_per_latent, d/2, 2], in the order (frame, row, column).
    audio: [a, d/2, 2]. The last axis is (cos, sin).
    """

    video: Tensor
    audio: Tensor
    tokens_per_latent: int

    def video_rows(self, first_latent: int, num_latents: int) -> Tensor:
        """Rotations of some video latents, [num_latents * tokens_per_latent, d/2, 2], a view."""
        start = first_latent * self.tokens_per_latent
        end = start + num_latents * self.tokens_per_latent
        return _rows(self.video, start, end, "video token")

    def audio_rows(self, num_latents: int) -> Tensor:
        """Rotations of the first audio latents, [num_latents, d/2, 2], a view."""
        return _rows(self.audio, 0, num_latents, "audio latent")

    @property
    def nbytes(self) -> int:
        """Bytes of both tables."""
        return self.video.nbytes + self.audio.nbytes


def axis_widths(head_dim: int) -> tuple[int, int, int]:
    """How a head is split between time, height and width; 128 gives (44, 42, 42)."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def rotary_angles(positions: int, width: int, *, scale: float = 1.0) -> Tensor:
    """Angles of positions 0, 1, ...: float64 [positions, width / 2] on the CPU."""
    frequencies = ROPE_BASE ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    index = torch.arange(positions, dtype=torch.float64)
    return torch.outer(scale * index, frequencies)


def video_table(
    grid: tuple[int, int, int], head_dim: int, *, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Rotations of a grid (frames, rows, columns) of tokens, [tokens, head_dim / 2, 2].

    Only the few positions of each axis are computed on the CPU, since a prompt waits for this.
    """
    parts: list[Tensor] = []
    for axis, (positions, width) in enumerate(zip(grid, axis_widths(head_dim), strict=True)):
        turns = cos_sin(rotary_angles(positions, width)).to(dtype).to(device)
        shape = [1, 1, 1, *turns.shape[1:]]
        shape[axis] = positions
        parts.append(turns.reshape(shape).expand(*grid, *turns.shape[1:]))
    return torch.cat(parts, dim=3).flatten(0, 2)


def audio_angles(latents: int, head_dim: int, scale: float) -> Tensor:
    """Angles of audio latents, float64 [latents, head_dim / 2]; only the time group turns."""
    turning = rotary_angles(latents, axis_widths(head_dim)[0], scale=scale)
    still = torch.zeros(latents, head_dim // 2 - turning.shape[-1], dtype=torch.float64)
    return torch.cat([turning, still], dim=-1)


def earlier_in_time(head_dim: int, latents: int, dtype: torch.dtype) -> Tensor:
    """What turns a rotated video key into that of the same token `latents` earlier.

    Returns [1, head_dim / 2, 2] for `rotate`, at least float32, on the CPU; rows and columns stay.
    """
    back = -rotary_angles(latents + 1, axis_widths(head_dim)[0])[-1:]
    still = torch.zeros(1, head_dim // 2 - back.shape[-1], dtype=torch.float64)
    return cos_sin(torch.cat([back, still], dim=-1)).to(at_least_float32(dtype))


def cos_sin(angles: Tensor) -> Tensor:
    """[..., k] angles to [..., k, 2] pairs (cos, sin), in the dtype of the angles."""
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotary_tables(
    config: TransformerConfig,
    *,
    grid: tuple[int, int, int],
    audio_latents: int,
    device: torch.device,
    dtype: torch.dtype,
) -> RotaryTables:
    """Tables of a clip whose tokens form `grid` = (frames, rows, columns).

    dtype is that of the activations: the tables are float32, or float64 for float64.

    Raises:
        PositionError: more latents than the network has positions for.
    """
    frames, height, width = grid
    longest = max(*grid, audio_latents)
    if longest > config.rope_rows:
        raise PositionError(
            "A position lies beyond the rotary tables",
            found=f"{frames} video latents ({height} x {width}), {audio_latents} audio latents",
            fix=f"stay within {config.rope_rows}: make the clip shorter",
        )
    head_dim, dtype = config.video.head_dim, at_least_float32(dtype)
    audio = cos_sin(audio_angles(audio_latents, head_dim, config.audio_rope_scale))
    video = video_table(grid, head_dim, device=device, dtype=dtype)
    return RotaryTables(video, audio.to(dtype).to(device), tokens_per_latent=height * width)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn interleaved pairs (x0, x1), (x2, x3), ... of every head.

    x: [b, l, n, d]; table: [l, d/2, 2], or [1, d/2, 2] for all. Returns [b, l, n, d] in float32, or
    in float64 when x is: the caller rounds, so that a cache can be written in the same kernel.

    A pair is a complex number, and its turn a product. That is one kernel where kernels are called
    one by one; a compiler, which would fuse the turn with what is around it, knows no complex
    numbers, and gets the same product in real ones.
    """
    dtype = at_least_float32(x.dtype)
    pairs = x.to(dtype).reshape(*x.shape[:-1], -1, 2)
    turns = table.to(dtype).unsqueeze(-3)
    if torch.compiler.is_compiling():
        (a, b), (cos, sin) = pairs.unbind(-1), turns.unbind(-1)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
    turned = torch.view_as_complex(pairs) * torch.view_as_complex(turns)
    return torch.view_as_real(turned).flatten(-2)


def _rows(table: Tensor, start: int, end: int, what: str) -> Tensor:
    if end > table.shape[0]:
        raise PositionError(
            f"A {what} lies beyond the rotary table",
            found=f"position {end - 1}, table of {table.shape[0]}",
            fix="open the session for a longer clip",
        )
    return table[start:end]
