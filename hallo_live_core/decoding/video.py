"""Latents to pictures, one latent at a time, ready for a file or a screen (spec 03 §5, §8)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import ShapeError
from ..models.video_vae.interface import StreamState, VideoDecoder

WHITE = 255
"""Largest value of a colour in 8 bits."""


class VideoStream:
    """One clip on its way through a video decoder.

    The past of the clip is in `state`; the decoder keeps nothing, so that many streams can share
    it. device, dtype: where and in what the decoder computes; those of its weights if not given.
    """

    def __init__(
        self,
        decoder: VideoDecoder,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.state: StreamState | None = None
        self._decoder = decoder
        self._device = device
        self._dtype = dtype

    def each(self, latents: Tensor) -> Iterator[Tensor]:
        """Decode the next latents of the clip one by one, so that the caller can stop between.

        latents: normalised [b, n, 48, h, w], on any device. Yields uint8 [b, f, H, W, 3] per latent
        on the decoder's device: one frame for the first latent of the clip, four for every other.

        Raises:
            ShapeError: latents of another shape, or of another batch or size than those before.
        """
        if latents.ndim != 5:
            raise ShapeError(
                "Video latents must be [batch, latents, channels, height, width]",
                found=tuple(latents.shape),
            )
        if self.state is None:
            batch, _, _, height, width = latents.shape
            self.state = self._decoder.initial_state(
                batch, height, width, device=self._device, dtype=self._dtype
            )
        for latent in latents.to(self.state.device).split(1, dim=1):
            yield self._next(latent, self.state)

    def push(self, latents: Tensor) -> Tensor:
        """Decode the next latents of the clip: [b, n, 48, h, w] -> uint8 [b, frames, H, W, 3]."""
        return torch.cat(list(self.each(latents)), dim=1)

    @torch.no_grad()
    def _next(self, latent: Tensor, state: StreamState) -> Tensor:
        video, self.state = self._decoder.decode(latent, state)
        return to_uint8(video)


def to_uint8(video: Tensor) -> Tensor:
    """RGB in [-1, 1], [b, f, 3, h, w] -> uint8 [b, f, h, w, 3], to the nearest value.

    The reference cuts decimals off, which darkens every picture by half a step and turns noise
    around a whole number into banding (spec 03 §12).
    """
    levels = video.float().add(1).mul_(WHITE / 2).round_().clamp_(0, WHITE)
    return levels.to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous()


class PendingCopy:
    """A tensor on its way to the CPU; `result` waits for it, from any thread, any number of times.

    arrived: recorded behind the copy; None where the tensor is there already.
    """

    def __init__(self, host: Tensor, arrived: torch.cuda.Event | None) -> None:
        self._host = host
        self._arrived = arrived

    def result(self) -> Tensor:
        """The tensor on the CPU."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host


def copy_to_host(tensor: Tensor) -> PendingCopy:
    """Start to copy to the CPU; the device can work on meanwhile, and nobody waits here."""
    if not tensor.is_cuda:
        return PendingCopy(tensor.cpu(), arrived=None)
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    with torch.cuda.device(tensor.device):
        host.copy_(tensor, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
    return PendingCopy(host, arrived)
