"""Audio latents -> waveform while they are still being made, without seams (spec 04 §7).

The decoder is cheap beside the picture's, so nothing is carried inside the networks: every push
decodes again what the new latents can change. Three things hide the seams. Rendering starts
`context` latents before the first sample that is handed out, more than the convolutions reach.
The last `hold_back` latents wait until their future is known. And where two renderings meet, one
fades into the other, because attention has seen more of the clip the second time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import RequestError, ShapeError
from ..models.audio_vae.audio_decoder import AudioDecoder

HOLD_BACK = 8
"""Latents (256 ms) that wait for their future: 3 % error where renderings meet; 4 give 8 %."""
CONTEXT = 20
"""Latents before the first new sample; the part after the middle reaches 16 in float32."""
HISTORY = 250
"""Past latents that attention sees: 8 s, the length of clips that the VAE was trained on."""
CROSSFADE_SAMPLES = 512


@dataclass(slots=True)
class AudioState:
    """What a stream remembers.

    latents: the last `history` of the clip, [b, n, latent_dim], of which `waiting` at the end
    were not handed out yet. tail: how the previous push rendered the first of the waiting ones,
    [b, s] with s <= crossfade.
    """

    latents: Tensor
    tail: Tensor
    waiting: int = 0
    finished: bool = False


class AudioStream:
    """Decodes one clip, push by push; the samples of all pushes join to the clip's sound."""

    def __init__(
        self,
        decoder: AudioDecoder,
        *,
        hold_back: int = HOLD_BACK,
        context: int = CONTEXT,
        history: int = HISTORY,
        crossfade: int = CROSSFADE_SAMPLES,
    ) -> None:
        if min(hold_back, context, crossfade) < 0 or history < hold_back + context:
            raise RequestError(
                "An audio stream must remember at least the latents that it decodes again",
                found=f"hold_back={hold_back}, context={context}, history={history}, "
                f"crossfade={crossfade}",
                fix="set history to at least hold_back + context, and nothing below zero",
            )
        self._decoder = decoder
        self._hold_back, self._context = hold_back, context
        self._history, self._crossfade = history, crossfade
        self._state: AudioState | None = None

    @torch.no_grad()
    def push(self, latents: Tensor, *, ahead: Tensor | None = None, last: bool = False) -> Tensor:
        """Add latents and return the samples that have become ready: float32 [b, samples].

        Args:
            latents: [b, a, latent_dim], those after the previous push, on the decoder's device.
            ahead: [b, L, latent_dim], provisional latents after these. They are a future to look
                at, so that L fewer have to wait, but never become sound.
            last: nothing follows: hand out everything and ignore `ahead`. Once all has been
                pushed, the samples number `samples_per_latent` for each latent.

        Raises:
            ShapeError: the latents do not fit the decoder, `ahead` or earlier pushes.
            RequestError: the clip has ended already.
        """
        state = self._state or self._begin(latents)
        if state.finished:
            raise RequestError(
                "This audio stream has ended", fix="start a new AudioStream for each clip"
            )
        future = latents[:, :0] if ahead is None or last else ahead
        for given in (latents, future):
            self._check(given, state)

        known = torch.cat([state.latents, latents.to(state.latents)], dim=1)
        pending = state.waiting + latents.shape[1]
        waiting = 0 if last else min(pending, max(0, self._hold_back - future.shape[1]))
        ready, tail = self._render(known, future, state.tail, pending, waiting)
        self._state = AudioState(
            latents=known[:, -self._history :], tail=tail, waiting=waiting, finished=last
        )
        return ready

    def _render(
        self, known: Tensor, future: Tensor, tail: Tensor, pending: int, waiting: int
    ) -> tuple[Tensor, Tensor]:
        """Samples of the pending latents up to the waiting ones, and the start of what follows."""
        if pending == waiting:
            return tail[:, :0], tail
        features = self._decoder.middle(torch.cat([known, future.to(known)], dim=1))
        first = known.shape[1] - pending
        begin = max(0, first - self._context)
        wave = self._decoder.render(features[..., begin:]).float()
        rate = self._decoder.samples_per_latent
        wave = wave[:, (first - begin) * rate :]
        end = (pending - waiting) * rate
        ready = fade(tail, wave[:, :end])
        return ready, wave[:, end : end + self._crossfade]

    def _begin(self, latents: Tensor) -> AudioState:
        nothing = latents.new_zeros(len(latents), 0, dtype=torch.float32)
        return AudioState(latents=latents[:, :0], tail=nothing)

    def _check(self, latents: Tensor, state: AudioState) -> None:
        fits = (len(state.latents), self._decoder.latent_dim)
        if latents.dim() != 3 or (latents.shape[0], latents.shape[2]) != fits:
            raise ShapeError(
                f"Audio latents of this stream are [{fits[0]}, latents, {fits[1]}]",
                found=tuple(latents.shape),
            )


def fade(old: Tensor, new: Tensor) -> Tensor:
    """`new` [b, s], begun as `old` [b, o]: one fades into the other over their common length."""
    length = min(old.shape[1], new.shape[1])
    if length == 0:
        return new
    ramp = (torch.arange(length, device=new.device, dtype=new.dtype) + 0.5) / length
    weight = torch.sin(ramp * (torch.pi / 2)).square()  # both slopes are zero at both ends
    return torch.cat([torch.lerp(old[:, :length], new[:, :length], weight), new[:, length:]], 1)
