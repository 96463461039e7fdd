# pyright: reportGeneralTypeIssues=false
# (of `Arriving` fields it does not see that they have no default)
"""The values that travel between the parts: request, text, latents, media."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Request:
    """One clip to make. `HalloLive.check` refuses what cannot work before anything runs.

    seconds is rounded up to whole blocks of one second; n blocks give 24 n - 3 frames, because
    the first latent of a clip is a single frame. lookahead counts audio latents of 32 ms that
    the picture may hear ahead of its block (0 in every published configuration). height and
    width are pixels. correlated_noise draws the initial noise of both streams from the same
    seed, as the research code does (spec 02 §2). first_frame is the normalised latent
    [1, 1, c, height / 16, width / 16] of a picture that the clip begins with (spec 02 §6).

    seconds = 0 goes on until somebody ends it. window_blocks bounds what the stream remembers
    (`functional.window`): that many blocks, the first sink_blocks always among them; 0: all of it,
    as published, or 5 where there is no end. Once the window moves, the picture follows the sound
    at 25 fps; constant_rate keeps 24 and lets them drift by 40 ms a second. looks_back makes a
    stream run through what it remembers again when its prompt changes.

    opening_latents: video latents of a shorter first block, so that the first frame is there
    earlier; 0 for blocks of one size, as the model was trained.
    """

    prompt: str = ""
    seconds: float = 5.0
    seed: int = 0
    lookahead: int = 0
    height: int = 512
    width: int = 992
    correlated_noise: bool = False
    first_frame: Tensor | None = field(default=None, compare=False, repr=False)
    window_blocks: int = 0
    sink_blocks: int = 1
    constant_rate: bool = False
    looks_back: bool = False
    opening_latents: int = 0


@dataclass(frozen=True, slots=True)
class TextContext:
    """Text embeddings of both streams, float [b, text_len, text_dim], zero rows beyond the prompt.

    All pipelines use the same embedding twice (spec 01 §3); `shared` builds that.
    """

    video: Tensor
    audio: Tensor

    @classmethod
    def shared(cls, embedding: Tensor) -> TextContext:
        """The same [b, text_len, text_dim] embedding for picture and sound."""
        return cls(video=embedding, audio=embedding)


@dataclass(frozen=True, slots=True)
class LatentBlock:
    """One finished block of clean, normalised latents.

    video: [b, f, c, h, w]; audio: [b, a, c]; audio_ahead: [b, L, c], the provisional look-ahead
    after the block, for use as right context only.
    """

    index: int
    first_video_latent: int
    first_audio_latent: int
    video: Tensor
    audio: Tensor
    audio_ahead: Tensor
    is_last: bool


class OnItsWay(Protocol):
    """A tensor that is being copied to the CPU."""

    def result(self) -> Tensor:
        """The tensor, once it is there."""
        ...


class Arriving:
    """A field that may be given a tensor on its way; whoever reads it waits for it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, chunk: object, owner: type | None = None) -> Tensor:
        if chunk is None:  # the class itself has no value: dataclasses take that for "no default"
            raise AttributeError(self._name)
        value = vars(chunk)[self._name]
        return value if isinstance(value, Tensor) else value.result()

    def __set__(self, chunk: object, value: Tensor | OnItsWay) -> None:
        vars(chunk)[self._name] = value


@dataclass(frozen=True)
class MediaChunk:
    """What one decoded video latent brings: its frames, and what sound has become ready with it.

    frames: uint8 [f, h, w, 3] RGB on the CPU (f may be 0); samples: float32 [s] mono on the CPU
    (s may be 0). Both may still be on their way from the GPU when the chunk is handed out; reading
    them waits. The times are those of the first frame and the first sample, in seconds.
    """

    block: int
    frames: Arriving = Arriving()
    samples: Arriving = Arriving()
    first_frame: int
    first_sample: int
    frame_time: Fraction
    sample_time: Fraction
    is_last: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands; handed to the progress callback after every pass and every latent.

    stage is "denoise" or "decode"; done and total count passes plus latents of the whole run.
    num_blocks and total are 0 where the run has no end.
    """

    stage: str
    block: int
    num_blocks: int
    done: int
    total: int


class ProgressCallback(Protocol):
    """Called with the state of the run; may raise to stop it."""

    def __call__(self, progress: Progress, /) -> None:
        """Take note of where the run stands."""
        ...


CancelCheck = Callable[[], bool]
"""Asked between passes and between latents; True stops the run with `Cancelled`."""
