"""Where the noise of a clip comes from: keyed generators, so that a seed means one clip.

Every draw has a CPU generator of its own, keyed by (seed, sample, stream, block, step). So a clip
does not depend on the batch it is made in, on the device, or on how much is drawn before it, and a
longer clip with the same seed begins like the shorter one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .blocks import Block, ClipPlan


class NoiseSource(Protocol):
    """Hands out the noise of a clip; tests and training inject recorded noise through it."""

    def initial_video(self, block: Block, /) -> Tensor:
        """What the picture of a block starts from, [b, f, c, h, w]."""
        ...

    def initial_audio(self, block: Block, /) -> Tensor:
        """What the sound of a block starts from, without look-ahead, [b, a, c]."""
        ...

    def fresh(self, block: Block, step: int, /) -> tuple[Tensor, Tensor]:
        """What is added after a step: picture [b, f, c, h, w], sound of the window [b, a, c]."""
        ...


@dataclass(frozen=True, slots=True)
class ClipShape:
    """Sizes of a batch of clips: `video` is (c, h, w) of one video latent."""

    plan: ClipPlan
    video: tuple[int, int, int]
    audio_channels: int
    batch: int = 1


class SeededNoise:
    """Noise that follows from a seed; sample s of a batch is what seed + s gives alone."""

    def __init__(
        self, shape: ClipShape, seed: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.shape, self.seed, self.device, self.dtype = shape, seed, device, dtype

    def initial_video(self, block: Block) -> Tensor:
        """See `NoiseSource`."""
        return self.draw(f"video/{block.index}/initial", block.num_video, *self.shape.video)

    def initial_audio(self, block: Block) -> Tensor:
        """See `NoiseSource`."""
        key = f"audio/{block.index}/initial"
        return self.draw(key, block.num_audio, self.shape.audio_channels)

    def fresh(self, block: Block, step: int) -> tuple[Tensor, Tensor]:
        """See `NoiseSource`."""
        key = f"{block.index}/step {step}"
        return (
            self.draw(f"video/{key}", block.num_video, *self.shape.video),
            self.draw(f"audio/{key}", block.window, self.shape.audio_channels),
        )

    def draw(self, key: str, *size: int) -> Tensor:
        """Values of one key for every sample, [b, *size]."""
        seeds = range(self.seed, self.seed + self.shape.batch)
        return self.place(torch.stack([keyed_noise(seed, key, *size) for seed in seeds]))

    def place(self, noise: Tensor) -> Tensor:
        """To dtype and device; from pinned memory, so that the host does not wait for the copy."""
        noise = noise.to(self.dtype)
        if self.device.type == "cuda":
            noise = noise.pin_memory()
        return noise.to(self.device, non_blocking=True)


class CorrelatedNoise(SeededNoise):
    """As the reference draws initial noise: both streams from generators of the SAME seed.

    Nearly all sound values then equal the first picture values (spec 02 §2). Noise added between
    steps stays independent.
    """

    def __init__(
        self, shape: ClipShape, seed: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(shape, seed, device=device, dtype=dtype)
        self._video = self._whole_clip(shape.plan.video_latents, *shape.video)
        self._audio = self._whole_clip(shape.plan.audio_latents, shape.audio_channels)

    def initial_video(self, block: Block) -> Tensor:
        """See `NoiseSource`."""
        return self.place(self._video[:, block.first_video : block.end_video])

    def initial_audio(self, block: Block) -> Tensor:
        """See `NoiseSource`."""
        return self.place(self._audio[:, block.first_audio : block.end_audio])

    def _whole_clip(self, *size: int) -> Tensor:
        seeds = range(self.seed, self.seed + self.shape.batch)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return torch.stack([torch.randn(*size, generator=g) for g in generators])


def keyed_noise(seed: int, key: str, *size: int) -> Tensor:
    """Normal values, float32 on the CPU, unrelated to those of any other (seed, key)."""
    return torch.randn(*size, generator=keyed_generator(seed, key))


def keyed_generator(seed: int, key: str) -> torch.Generator:
    """A generator on the CPU, unrelated to that of any other (seed, key)."""
    digest = hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def audio_window(noise: NoiseSource, plan: ClipPlan, block: Block) -> Tensor:
    """Initial noise of a block's audio window: its own and its look-ahead, [b, window, c].

    The look-ahead starts from the noise of the blocks that follow; past the end of the clip the
    block's own noise is repeated from its beginning (spec 02 §3, item 2).
    """
    own = noise.initial_audio(block)
    parts, length, index = [own], own.shape[1], block.index
    while length < block.window:
        index += 1
        parts.append(noise.initial_audio(plan.block(index)) if index < plan.num_blocks else own)
        length += parts[-1].shape[1]
    return torch.cat(parts, dim=1)[:, : block.window]
