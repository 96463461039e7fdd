"""The latent of a picture, from a folder of published files."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..checkpoints import catalog
from ..checkpoints.load import load_video_encoder
from ..devices import Placement
from ..sampling.first_frame import first_frame_latent
from ..types import Request


def load_first_frame(
    models: Path, picture: Tensor, request: Request, *, placement: Placement
) -> Tensor:
    """For `Request.first_frame`: a picture [h, w, 3 or 4], fitted to the request's size.

    The encoder, a half of the Wan2.2 VAE's file, is loaded for this alone and let go again.

    Raises:
        CheckpointError: the file is missing, damaged or of another model.
        ShapeError: this is no picture (`fit_picture`).
    """
    file = catalog.locate(models, (catalog.VIDEO_VAE,))[catalog.VIDEO_VAE.key]
    encoder = load_video_encoder(file, dtype=placement.decoder_dtype, device=placement.decoder)
    return first_frame_latent(encoder, picture, request.height, request.width)
