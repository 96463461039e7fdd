"""The options that say how the transformer's work is carried out."""

from __future__ import annotations

import argparse

from ..config import Acceleration
from ..models.dit.kernels import ATTENTIONS, AUTO

COMPILES = ("off", "blocks")


def add_acceleration_options(parser: argparse.ArgumentParser) -> None:
    """Register the options that `acceleration` reads."""
    parser.add_argument(
        "--attention",
        choices=ATTENTIONS,
        default=AUTO,
        help="kernel; auto: by what the GPU can do and what is installed",
    )
    parser.add_argument(
        "--compile",
        choices=COMPILES,
        default=COMPILES[0],
        help="blocks: torch.compile for each layer; the first clip of a size waits for it",
    )
    parser.add_argument(
        "--audio-beside", action="store_true", help="a CUDA stream of its own for the audio's half"
    )
    parser.add_argument(
        "--cuda-graphs",
        action="store_true",
        help="record each pass once and replay it; worth it from the second clip on",
    )


def acceleration(options: argparse.Namespace) -> Acceleration:
    """What the options ask for."""
    return Acceleration(
        attention=options.attention,
        compile_blocks=options.compile == COMPILES[1],
        audio_beside=options.audio_beside,
        graphs=options.cuda_graphs,
    )
