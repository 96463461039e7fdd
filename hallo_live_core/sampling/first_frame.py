"""A clip that begins with a given picture (spec 02 §6).

The picture is one clean latent. In block 0 it stands in place of the first video latent: in every
step's input, told timestep 0, in the block's output and in the clean-context pass. The published
student was not trained for that; the teacher was.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ShapeError
from ..functional.blocks import Block
from ..functional.first_frame import check_first_frame, fit_picture
from ..models.dit import DualStreamDiT
from ..models.video_vae.encoder import WanVideoEncoder
from ..state.session import SessionShape, SessionState, TimeRuns

CLEAN = 0.0
"""Timestep told for the given latent."""


@torch.inference_mode()
def first_frame_latent(
    encoder: WanVideoEncoder,
    picture: Tensor,
    height: int,
    width: int,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The normalised latent [1, 1, c, h / 16, w / 16] of a picture fitted to `height` x `width`.

    picture: as in `fit_picture`. device, dtype: what the encoder computes on and in; by default
    those of its weights.

    Raises:
        ShapeError: no picture, or a size that is no multiple of 16.
    """
    state = encoder.initial_state(1, height, width, device=device, dtype=dtype)
    fitted = fit_picture(picture, height, width)
    return encoder.encode(fitted[None, None].to(state.device), state).normalised


@torch.no_grad()
def pin_first_frame(
    model: DualStreamDiT, state: SessionState, shape: SessionShape, latent: Tensor
) -> None:
    """Let the clip of a session opened for `shape` begin with `latent`, [b or 1, 1, c, h, w].

    Raises:
        ShapeError: it is not one normalised latent of this clip, or has values that are no numbers.
    """
    check_first_frame(latent, (model.config.video.in_channels, shape.height, shape.width))
    if latent.shape[0] not in (1, shape.batch):
        raise ShapeError(
            "There are not as many first frames as clips",
            found=f"{latent.shape[0]} and {shape.batch}",
        )
    history = state.audio_history
    state.first_frame = latent.to(history).expand(shape.batch, -1, -1, -1, -1)
    if CLEAN not in state.video_times.timesteps:
        known = (*state.video_times.timesteps, CLEAN)
        place = {"device": history.device, "dtype": history.dtype}
        state.video_times = model.embed_times(known, **place)[0]


def given_latent(state: SessionState, block: Block) -> Tensor | None:
    """The latent that the block begins with, or None."""
    return state.first_frame if block.index == 0 else None


def block_times(first_frame: Tensor | None, timestep: float, num_latents: int) -> TimeRuns:
    """Timesteps of the video latents of a block, of which the first may be a given one."""
    if first_frame is None:
        return ((timestep, num_latents),)
    return ((CLEAN, 1), (timestep, num_latents - 1))
