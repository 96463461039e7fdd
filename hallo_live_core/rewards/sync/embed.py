"""Runs SyncNet over the crops and the sound of one face, in pieces (spec 08 §2.5)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..base import Watch
from .mfcc import mfcc
from .syncnet import WINDOW_FRAMES, audio_windows, lip_input

FPS = 25
SAMPLES_PER_FRAME = 640
"""SyncNet lives at 25 fps and 16 kHz."""

INT16_SCALE = 32768

WINDOWS_PER_CHUNK = 32
"""Lip windows at once: bounds memory, some 200 MB for the widest layer."""


class Embedder(Protocol):
    """What is needed of `SyncNet`."""

    def embed_lips(self, crops: Tensor) -> Tensor:
        """[f, 3, 224, 224] BGR of 0..255 -> [f - 4, d]."""
        ...

    def embed_audio(self, windows: Tensor) -> Tensor:
        """[n, 13, 20] -> [n, d]."""
        ...


def num_windows(num_crops: int, num_samples: int) -> int:
    """Windows that are compared: one fewer than would be possible, as in the reference."""
    return max(0, min(num_crops, num_samples // SAMPLES_PER_FRAME) - WINDOW_FRAMES)


def to_int16_scale(sound: Tensor) -> Tensor:
    """Sound of -1..1 -> whole numbers as a 16-bit file holds them."""
    return (sound.double() * INT16_SCALE).round().clamp(-INT16_SCALE, INT16_SCALE - 1)


@torch.no_grad()
def embed(
    network: Embedder, crops: Tensor, sound: Tensor, *, like: Tensor, watch: Watch
) -> tuple[Tensor, Tensor]:
    """Embeddings of mouth and sound, [w, d] each.

    Args:
        network: its weights lie where `like` lies.
        crops: uint8 [f, 224, 224, 3] RGB at 25 fps.
        sound: [s] at 16 kHz on the scale of 16-bit integers, from the first crop on.
        like: device and dtype to compute in.
        watch: told after every chunk.
    """
    count = num_windows(len(crops), len(sound))
    coefficients = mfcc(sound).T.to(like.dtype).to(like.device)
    windows = audio_windows(coefficients)[:count]
    audio = torch.cat([network.embed_audio(part) for part in windows.split(WINDOWS_PER_CHUNK)])
    lips = []
    for start in range(0, count, WINDOWS_PER_CHUNK):
        end = min(start + WINDOWS_PER_CHUNK, count)
        part = crops[start : end + WINDOW_FRAMES - 1]
        lips.append(network.embed_lips(lip_input(part.to(like.device)).to(like)))
        watch.done("read lips", end, count)
    return torch.cat(lips), audio
