"""A picture that a clip begins with: how it is fitted, and where its latent stands (spec 02 §6)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ShapeError

LATENT_AXES = 5

RGB, RGBA = 3, 4
"""Channels of a picture without and with transparency."""

LARGEST_BYTE = 255

CROP_RULE = (
    "The picture is cut around its centre to the clip's shape and then scaled to its size; "
    "nothing is stretched, transparent parts become white."
)
"""What `fit_picture` does, for those who choose a picture."""


def fit_picture(picture: Tensor, height: int, width: int) -> Tensor:
    """A picture as large as the clip: [h, w, 3 or 4] to float32 [3, height, width] in [-1, 1].

    picture: RGB or RGBA, uint8 in 0..255 or float in 0..1. Of what the clip's shape leaves over the
    same is cut off on either side; scaling is bicubic and antialiased, at the right size nothing
    is scaled.

    Raises:
        ShapeError: not [h, w, 3 or 4], empty, or with values that are no numbers.
    """
    if picture.ndim != 3 or picture.shape[2] not in (RGB, RGBA) or not picture.numel():
        raise ShapeError(
            "A picture must be RGB or RGBA, [height, width, 3 or 4]",
            found=list(picture.shape),
            fix="convert it to RGB",
        )
    x = _centre(picture, height, width)
    if x.is_floating_point() and not x.isfinite().all():
        raise ShapeError("The picture has values that are not numbers", fix="choose another one")
    x = x.float() if x.is_floating_point() else x.float().div_(LARGEST_BYTE)
    x = _on_white(x).movedim(-1, 0)
    if x.shape[1:] != (height, width):
        x = functional.interpolate(
            x[None], (height, width), mode="bicubic", antialias=True, align_corners=False
        )[0]
    return x.clamp(0, 1) * 2 - 1


def check_first_frame(latent: Tensor, size: tuple[int, int, int]) -> None:
    """A first frame must be one video latent of `size`, (c, h, w): [b, 1, c, h, w].

    Raises:
        ShapeError: it is not, or has values that are not numbers.
    """
    channels, height, width = size
    if latent.ndim != LATENT_AXES or latent.shape[1:3] != (1, channels):
        raise ShapeError(
            f"A first frame must be one latent of {channels} channels",
            found=f"[b, f, c, h, w] = {list(latent.shape)}",
            fix="encode one picture with the Wan2.2 VAE",
        )
    if latent.shape[3:] != (height, width):
        raise ShapeError(
            "The first frame has another size than the clip",
            found=f"{latent.shape[3]} x {latent.shape[4]} instead of {height} x {width} latents",
            fix="encode the picture at the clip's height and width",
        )
    if not latent.isfinite().all():
        raise ShapeError("The first frame has values that are not numbers", fix="encode it again")


def start_with(first_frame: Tensor | None, video: Tensor) -> Tensor:
    """Video latents [b, f, c, h, w] with the given one in the first place."""
    return video if first_frame is None else torch.cat([first_frame, video[:, 1:]], dim=1)


def _centre(picture: Tensor, height: int, width: int) -> Tensor:
    """The largest middle part with the shape of the clip."""
    rows, columns = picture.shape[:2]
    kept_rows = max(1, min(rows, round(columns * height / width)))
    kept_columns = max(1, min(columns, round(rows * width / height)))
    top, left = (rows - kept_rows) // 2, (columns - kept_columns) // 2
    return picture[top : top + kept_rows, left : left + kept_columns]


def _on_white(picture: Tensor) -> Tensor:
    """float [h, w, 3 or 4] to [h, w, 3]."""
    if picture.shape[2] == RGB:
        return picture
    colour, alpha = picture[..., :RGB], picture[..., RGB:]
    return colour * alpha + (1 - alpha)
