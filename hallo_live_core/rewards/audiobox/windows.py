"""How AudioBox cuts sound into windows and knows which of their frames are padding (spec 08 §3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..clip import JUDGE_SAMPLE_RATE

WINDOW = 10 * JUDGE_SAMPLE_RATE
"""Samples of a window. The last one is padded to it: the group norm of the first layer runs over
the whole window, so that a shorter one would be scored differently."""


def split(samples: Tensor, window: int = WINDOW) -> tuple[Tensor, Tensor]:
    """Consecutive windows of a waveform [s], the last zero padded.

    Returns the windows [w, window] and how many samples of each are real, int64 [w].
    """
    count = max(1, -(-samples.shape[0] // window))
    padded = functional.pad(samples, (0, count * window - samples.shape[0]))
    valid = (samples.shape[0] - window * torch.arange(count)).clamp(max=window)
    return padded.view(count, window), valid


def valid_frames(valid_samples: Tensor, num_frames: int, window: int = WINDOW) -> Tensor:
    """How many of a window's frames hear at least one real sample, int64 [w].

    A frame answers for ``window // num_frames`` samples; what is over at the end belongs to none.
    """
    per_frame = window // num_frames
    heard = valid_samples.clamp(max=per_frame * num_frames)
    return torch.div(heard + per_frame - 1, per_frame, rounding_mode="floor")
