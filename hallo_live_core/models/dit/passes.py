"""The three ways to run the transformer, each a value: at once, block by block, as teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...config import BlockSizes
from ...functional.rope import RotaryTables
from ...state.session import SessionState, Text, TimeRows, TimeRuns


@dataclass(frozen=True, slots=True)
class MaskedPass:
    """Student, whole clip at once, block-causal; for training with known clips (spec 01 §6.2).

    video_timesteps: [b, f]; audio_timesteps: [b, a], both in 0..1000.
    zero_padding: the reference's visible zero keys at the end of a clip, for comparison only.
    """

    text: Text
    video_timesteps: Tensor
    audio_timesteps: Tensor
    blocks: BlockSizes
    zero_padding: bool = False
    rotary: RotaryTables | None = None


@dataclass(frozen=True, slots=True)
class CachedPass:
    """Student, one block of a running stream: its latents now, the past from caches (spec 01 §6.3).

    The audio always starts at latent 0: history, block and look-ahead. Timesteps come as runs of
    values that the session knows, embedded already, or, at the price of embedding them here, as
    [b, f] and [b, a].
    """

    state: SessionState
    first_video: int
    video_times: TimeRuns | TimeRows | Tensor
    audio_times: TimeRuns | TimeRows | Tensor


@dataclass(frozen=True, slots=True)
class TeacherPass:
    """Teacher or critic: everybody sees everything (spec 01 §6.1, §7).

    timesteps: [b], shared by both streams.
    first_frame_clean: tokens of the first video latent are told timestep 0.
    skip_layer: a layer, counted from 0, that is left out; None leaves none out.
    ragged: sizes of samples that were padded to one size (`stack_ragged`).
    """

    text: Text
    timesteps: Tensor
    first_frame_clean: bool = False
    skip_layer: int | None = None
    ragged: RaggedSizes | None = None
    rotary: RotaryTables | None = None


@dataclass(frozen=True, slots=True)
class RaggedSizes:
    """Sizes of the samples of a padded batch: (f, h, w) and audio latents of each."""

    video: tuple[tuple[int, int, int], ...]
    audio: tuple[int, ...]

    def valid_audio(self, latents: Tensor) -> Tensor:
        """bool [b, a], True where a sample has a latent."""
        ends = torch.tensor(self.audio, device=latents.device)
        return torch.arange(latents.shape[1], device=latents.device) < ends[:, None]

    def valid_video(self, latents: Tensor, patch: tuple[int, ...]) -> Tensor:
        """bool [b, l], True where a sample has a token."""
        device = latents.device
        whole = (latents.shape[1], *latents.shape[3:])
        valid = torch.ones(len(self.video), 1, 1, 1, dtype=torch.bool, device=device)
        for axis in range(3):
            shape = [1, 1, 1, 1]
            shape[axis + 1] = -1
            ends = torch.tensor([size[axis] // patch[axis] for size in self.video], device=device)
            positions = torch.arange(whole[axis] // patch[axis], device=device).reshape(shape)
            valid = valid & (positions < ends[:, None, None, None])
        return valid.flatten(1)


def stack_ragged(videos: list[Tensor], audios: list[Tensor]) -> tuple[Tensor, Tensor, RaggedSizes]:
    """Pad samples [f, c, h, w] and [a, c] of different sizes with zeros to one batch."""
    sizes = RaggedSizes(
        tuple((v.shape[0], v.shape[2], v.shape[3]) for v in videos),
        tuple(a.shape[0] for a in audios),
    )
    frames, height, width = (max(size[axis] for size in sizes.video) for axis in range(3))
    video = videos[0].new_zeros(len(videos), frames, videos[0].shape[1], height, width)
    audio = audios[0].new_zeros(len(audios), max(sizes.audio), audios[0].shape[1])
    for i, (v, a) in enumerate(zip(videos, audios, strict=True)):
        video[i, : v.shape[0], :, : v.shape[2], : v.shape[3]] = v
        audio[i, : a.shape[0]] = a
    return video, audio, sizes


def unstack_ragged(video: Tensor, audio: Tensor, sizes: RaggedSizes) -> list[tuple[Tensor, Tensor]]:
    """Undo `stack_ragged`: one (video, audio) per sample, cut to its size."""
    return [
        (video[i, :f, :, :h, :w], audio[i, :a])
        for i, ((f, h, w), a) in enumerate(zip(sizes.video, sizes.audio, strict=True))
    ]
