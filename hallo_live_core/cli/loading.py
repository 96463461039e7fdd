"""The options that say which model runs where; shared by the commands that make clips."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import replace
from pathlib import Path

from ..devices import Placement
from ..engine import HalloLive
from ..errors import RequestError
from ..types import Request
from .acceleration import acceleration, add_acceleration_options
from .preflight import Choice, check_memory
from .profile import add_profile_options, decoder, profile

SPLITS = ("off", "sequence")
"""How several devices share the transformer."""


def add_model_options(parser: argparse.ArgumentParser, *, models_required: bool = True) -> None:
    """Register the options that `placement` and `load_engine` read."""
    parser.add_argument(
        "--models", type=Path, required=models_required, help="folder with the weight files"
    )
    parser.add_argument(
        "--device", default="auto", help="of the transformer: auto (default), cpu, cuda:0 ..."
    )
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default=SPLITS[0],
        help="sequence: the devices of --device cuda:0,cuda:1 share the picture's tokens",
    )
    parser.add_argument("--decode-device", help="of both decoders; default: as --device")
    parser.add_argument(
        "--decode-beside",
        action="store_true",
        help="decode while the next block is denoised, on the same GPU too: shorter waits",
    )
    parser.add_argument("--text-device", help="of the text encoder; default: as --device")
    parser.add_argument(
        "--raw-weights",
        action="store_true",
        help="take the raw weights, not the EMA, if a file has both",
    )
    add_lora_option(parser)
    add_acceleration_options(parser)
    add_profile_options(parser)


def add_lora_option(parser: argparse.ArgumentParser) -> None:
    """Register `--lora`, a list of files and strengths."""
    parser.add_argument(
        "--lora",
        type=parse_lora,
        action="append",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="merge a LoRA into the transformer; strength 1 if not given; may be repeated",
    )


def placement(options: argparse.Namespace) -> Placement:
    """Which part goes where.

    Raises:
        RequestError: a device does not exist, or devices and split do not fit.
    """
    first, *others = options.device.split(",")
    if others and options.split == SPLITS[0]:
        raise RequestError(
            "Several devices are named, but not how they share the work",
            found=f"--device {options.device}",
            fix=f"add --split {SPLITS[1]}, or name one device",
        )
    on = Placement.on(first, decoder=options.decode_device, text_encoder=options.text_device)
    on = replace(on, beside=options.decode_beside)
    return on if options.split == SPLITS[0] else on.shared_with(others)


def load_engine(
    options: argparse.Namespace, on: Placement, request: Request | None = None
) -> HalloLive:
    """Load the model that the options name, if memory suffices for clips like `request`.

    Raises:
        CheckpointError: a file is missing or does not fit.
        RequestError: the device cannot do what is asked of it, or has too little free memory.
    """
    choice = Choice(options.models, on, profile(options), decoder(options))
    if request is not None:
        check_memory(request, choice)
    return HalloLive.load(
        options.models,
        placement=on,
        decoder=choice.decoder,
        ema=not options.raw_weights,
        loras=options.lora,
        acceleration=acceleration(options),
        profile=choice.profile,
    )


def parse_lora(text: str) -> tuple[Path, float]:
    """`style.safetensors:0.5` -> file and strength; colons elsewhere belong to the name."""
    name, _, number = text.rpartition(":")
    try:
        strength = float(number)
    except ValueError:
        return Path(text), 1.0
    if not name:
        return Path(text), 1.0
    if not math.isfinite(strength):
        raise argparse.ArgumentTypeError(f"{number} is no strength; use a number such as 0.8")
    return Path(name), strength


def add_size_option(parser: argparse.ArgumentParser, words: str) -> None:
    """Register --size, the published one by default; words: its help."""
    defaults = Request()
    parser.add_argument(
        "--size",
        type=parse_size,
        default=(defaults.height, defaults.width),
        metavar="HxW",
        help=words,
    )


def parse_size(text: str) -> tuple[int, int]:
    """`512x992` -> (height, width) in pixels."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 512x992")
    return int(match[1]), int(match[2])
