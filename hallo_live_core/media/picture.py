"""Reads a picture file for the first frame of a clip."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import HalloLiveError, MediaError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""What Pillow decodes by itself; other formats of its would start other programs."""

MAX_PIXELS = 80_000_000
"""Larger pictures are refused: a small file can unpack to any size."""


def read_picture(path: str | Path) -> Tensor:
    """The picture in a file, upright as its EXIF says: uint8 [h, w, 3], or 4 if transparent.

    Of an animation the first frame. Samples of 16 bits become 8.

    Raises:
        MediaError: the file is missing, no picture, damaged or too large.
        HalloLiveError: Pillow is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise MediaError(f"There is no file {path}", fix="check the path to the picture")
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise HalloLiveError("Reading pictures needs Pillow", fix="pip install pillow") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, and of sizes checked below
            with Image.open(path, formats=FORMATS) as image:
                _check_size(path, *image.size)
                return _pixels(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise MediaError(
            f"{path.name} is not a picture", fix=f"choose a file of {', '.join(FORMATS)}"
        ) from error
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path.name} is too large", found=error, fix="scale it down") from error
    except HalloLiveError:
        raise
    except Exception as error:  # decoders raise almost anything on damaged files
        raise MediaError(
            f"{path.name} cannot be read as a picture",
            found=error,
            fix="save it again with an image editor, or choose another one",
        ) from error


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise MediaError(
            f"{path.name} is too large",
            found=f"{width} x {height} pixels",
            fix=f"scale it down to at most {MAX_PIXELS // 10**6} million pixels",
        )


def _pixels(image: Image) -> Tensor:
    if image.mode.startswith("I"):  # 16 bits, which Pillow's own conversion would clip
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return torch.from_numpy(grey)[..., None].repeat(1, 1, 3)
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return torch.from_numpy(np.array(image))
