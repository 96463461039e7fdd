"""The option that lets clips begin with a picture."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from torch import Tensor

from ..devices import Placement
from ..engine import load_first_frame
from ..functional.first_frame import CROP_RULE
from ..media.picture import read_picture
from ..types import Request

UNTRAINED = "The published model was not trained to begin with a given picture."


def add_image_option(parser: argparse.ArgumentParser) -> None:
    """Register `--image`."""
    parser.add_argument(
        "--image",
        type=Path,
        metavar="FILE",
        help=f"picture that the clip begins with. {CROP_RULE} {UNTRAINED}",
    )


def read_image(options: argparse.Namespace) -> Tensor | None:
    """The picture that the options name, [h, w, 3 or 4], before anything is loaded.

    Raises:
        MediaError: it cannot be read.
    """
    return None if options.image is None else read_picture(options.image)


def encode_image(
    options: argparse.Namespace, picture: Tensor, request: Request, on: Placement
) -> Tensor:
    """Its latent at the request's size, for `Request.first_frame`; says what to expect of it.

    Raises:
        CheckpointError: the file with the encoder is missing or does not fit.
    """
    sys.stderr.write(f"Note: {UNTRAINED}\n")
    return load_first_frame(options.models, picture, request, placement=on)
