"""The options that say which model runs where; shared by the commands that make clips."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from ..devices import Placement
from ..engine import DECODERS, HalloLive


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Register the options that `placement` and `load_engine` read."""
    parser.add_argument("--models", type=Path, required=True, help="folder with the weight files")
    parser.add_argument("--decoder", choices=DECODERS, default=DECODERS[0], help="video decoder")
    parser.add_argument(
        "--device", default="auto", help="of the transformer: auto, cpu, cuda:0 ..."
    )
    parser.add_argument("--decode-device", help="of both decoders; default: as --device")
    parser.add_argument("--text-device", help="of the text encoder; default: as --device")
    parser.add_argument(
        "--raw-weights", action="store_true", help="not the EMA, if a file has both"
    )


def placement(options: argparse.Namespace) -> Placement:
    """Which part goes where.

    Raises:
        RequestError: a device does not exist.
    """
    return Placement.on(
        options.device, decoder=options.decode_device, text_encoder=options.text_device
    )


def load_engine(options: argparse.Namespace, on: Placement) -> HalloLive:
    """Load the model that the options name.

    Raises:
        CheckpointError: a file is missing or does not fit.
    """
    return HalloLive.load(
        options.models, placement=on, decoder=options.decoder, ema=not options.raw_weights
    )


def parse_size(text: str) -> tuple[int, int]:
    """`512x992` -> (height, width) in pixels."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 512x992")
    return int(match[1]), int(match[2])
