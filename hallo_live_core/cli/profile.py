"""The options that trade quality for memory, shared by the commands that load or plan."""

from __future__ import annotations

import argparse

from ..config import LIGHT, Profile
from ..engine import DECODERS


def add_profile_options(parser: argparse.ArgumentParser) -> None:
    """Register the options that `profile` and `decoder` read."""
    full, light = DECODERS
    parser.add_argument(
        "--decoder",
        choices=DECODERS,
        help=f"of the picture; {light}: 200 times less work, softer; default: {full}",
    )
    parser.add_argument(
        "--fp8-weights",
        action="store_true",
        help="matrices of the transformer in 8 bits: half the memory",
    )
    parser.add_argument(
        "--fp8-cache", action="store_true", help="what the transformer remembers in 8 bits"
    )
    parser.add_argument(
        "--sage-attention",
        action="store_true",
        help="8-bit attention, by the package of that name: less time",
    )
    parser.add_argument(
        "--light",
        action="store_true",
        help=f"--fp8-weights --fp8-cache --decoder {DECODERS[1]}; for 24 GB add --text-device cpu",
    )


def profile(options: argparse.Namespace) -> Profile:
    """What the transformer gives up."""
    return Profile(
        fp8_weights=options.fp8_weights or (options.light and LIGHT.fp8_weights),
        fp8_cache=options.fp8_cache or (options.light and LIGHT.fp8_cache),
        sage_attention=options.sage_attention,
    )


def decoder(options: argparse.Namespace) -> str:
    """The video decoder: the one that was named, else the light one with --light."""
    return options.decoder or DECODERS[1 if options.light else 0]
