"""Whether a take is worth finishing, from its first block: a second of picture and sound.

A second tells little. The lip-sync judge needs 51 frames at 25 fps, more than two blocks, so lips
cannot be judged yet. What can be seen is whether the take has failed altogether: no sound at all,
a picture that is blank or stands still, or nobody in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..rewards.base import Reward, Watch
from ..rewards.clip import SILENCE
from ..rewards.sync.detect import MIN_SIDE, detect_faces
from ..rewards.sync.judge import SyncJudge

BLANK_SPREAD = 4.0
"""Standard deviation of the grey levels of 8-bit frames under which there is nothing to see."""

STILL_CHANGE = 0.1
"""Mean change between first and last frame, in grey levels, under which nothing moves."""

CLIPPED_LEVEL, CLIPPED_SHARE = 0.999, 0.2
"""Sound is overdriven when a fifth of its samples are at full scale."""

LOOKS = 3
"""Frames in which a face is searched: first, middle, last."""


def first_block_faults(
    frames: Tensor, samples: Tensor, judges: Sequence[Reward] = ()
) -> tuple[str, ...]:
    """Why a take cannot become good, in words; empty if nothing speaks against it.

    Args:
        frames: uint8 [f, h, w, 3] of the first block.
        samples: float32 [s], mono.
        judges: with the lip-sync judge among them its detector looks for a face as well.
    """
    faults = [*_sound_faults(samples), *_picture_faults(frames)]
    sync = next((judge for judge in judges if isinstance(judge, SyncJudge)), None)
    if sync is not None and not _has_face(frames, sync):
        faults.append("no face in the first second")
    return tuple(faults)


def _sound_faults(samples: Tensor) -> list[str]:
    if not len(samples):  # the decoder may hold the newest sound back
        return []
    loud = samples.abs()
    if not bool(samples.isfinite().all()):
        return ["the sound holds values that are not numbers"]
    if float(loud.max()) < SILENCE:
        return ["the first second is silent"]
    if float((loud >= CLIPPED_LEVEL).float().mean()) > CLIPPED_SHARE:
        return ["the sound is overdriven"]
    return []


def _picture_faults(frames: Tensor) -> list[str]:
    if float(frames[-1].float().std()) < BLANK_SPREAD:
        return ["the picture is blank"]
    change = (frames[-1].float() - frames[0].float()).abs().mean()
    if len(frames) > 1 and float(change) < STILL_CHANGE:
        return ["the picture stands still"]
    return []


def _has_face(frames: Tensor, judge: SyncJudge) -> bool:
    """Whether a face is seen in any of a few frames; frames too small to search count as yes."""
    if min(frames.shape[1:3]) < MIN_SIDE:
        return True
    looks = torch.linspace(0, len(frames) - 1, LOOKS).long()
    found = detect_faces(judge.detector, frames[looks], Watch(judge.name))
    return any(len(faces) for faces in found)
