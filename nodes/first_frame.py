"""The picture that a clip begins with, from an IMAGE or from the LATENT of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io

from ..hallo_live_core import (
    CROP_RULE,
    SPATIAL_COMPRESSION,
    Request,
    RequestError,
    check_first_frame,
    first_frame_latent,
)
from . import host
from .latents import VIDEO_AXES, VIDEO_CHANNELS, is_nested
from .sockets import LoadedVae

IMAGE_AXES = 4


def first_frame_input() -> io.Input:
    """The socket; stands last."""
    return io.MultiType.Input(
        "first_frame",
        types=[io.Image, io.Latent],
        optional=True,
        tooltip=(
            f"A picture that the clip begins with. {CROP_RULE} Or its LATENT from VAE Encode with "
            "the Wan2.2 VAE, at the clip's width and height. The published model was not trained "
            "to begin with a given picture."
        ),
    )


def with_first_frame(request: Request, given: Any, vae: LoadedVae | None) -> Request:
    """The request with the latent of what is given: an IMAGE, a LATENT, or None.

    Raises:
        RequestError, ShapeError: no picture, more than one, or a latent that does not fit.
        CheckpointError: the video VAE's file has no encoder.
    """
    if given is None:
        return request
    if isinstance(given, dict) and "samples" in given:
        return replace(request, first_frame=_of_latent(given, request))
    if isinstance(given, torch.Tensor):
        return replace(request, first_frame=_of_image(given, request, vae))
    raise RequestError(
        "first_frame takes a picture",
        found=type(given).__name__,
        fix="connect an IMAGE, or the LATENT of VAE Encode with the Wan2.2 VAE",
    )


def _of_latent(given: dict[str, Any], request: Request) -> torch.Tensor:
    raw = given["samples"]
    if is_nested(raw):  # core's convention for joint models: picture first
        raw = raw.unbind()[0]
    latent = raw.transpose(1, 2) if raw.ndim == VIDEO_AXES else raw
    height, width = request.height // SPATIAL_COMPRESSION, request.width // SPATIAL_COMPRESSION
    check_first_frame(latent, (VIDEO_CHANNELS, height, width))
    _check_single(len(latent))
    return host.normalised_latents(raw).transpose(1, 2)


def _of_image(image: torch.Tensor, request: Request, vae: LoadedVae | None) -> torch.Tensor:
    if vae is None:
        raise RequestError(
            "A picture as first_frame needs the VAE",
            fix="connect vae, or give the LATENT of VAE Encode with the Wan2.2 VAE",
        )
    if image.ndim == IMAGE_AXES:
        _check_single(len(image))
        image = image[0]
    encoder, size = vae.encoder, (request.height, request.width)
    with host.loaded([encoder], encoder.model.working_nbytes(1, *size, vae.dtype)):
        return first_frame_latent(
            encoder.model, image, *size, device=encoder.load_device, dtype=vae.dtype
        )


def _check_single(count: int) -> None:
    if count != 1:
        raise RequestError(
            "first_frame takes one picture",
            found=count,
            fix="choose one, for example with ImageFromBatch",
        )
