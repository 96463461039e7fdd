"""`hallo-live convert` and `hallo-live make-tiny`: commands about weight files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.convert import convert, convert_to_fp8
from ..checkpoints.tiny import write_tiny_models
from ..checkpoints.tiny_judges import write_tiny_judges
from ..errors import RequestError
from .loading import add_lora_option
from .report import table

if TYPE_CHECKING:
    from argparse import _SubParsersAction  # pyright: ignore[reportPrivateUsage]

JUDGES_FOLDER = "judges"
"""Below ComfyUI's `models`."""


def add_convert_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `convert`."""
    parser = commands.add_parser(
        "convert", help="write one bf16 safetensors student from any published checkpoint"
    )
    parser.add_argument("source", type=Path, help=".pt, .pth or .safetensors")
    parser.add_argument("target", type=Path, help="the .safetensors to write")
    parser.add_argument("--raw", action="store_true", help="take the raw weights, not the EMA")
    parser.add_argument(
        "--fp8",
        action="store_true",
        help="the matrices of the blocks in scaled fp8, as ComfyUI reads it; prints how far each "
        "is off",
    )
    parser.add_argument(
        "--keep-audio", action="store_true", help="with --fp8: the audio stream stays in bf16"
    )
    add_lora_option(parser)
    parser.set_defaults(run=_convert)


def add_make_tiny_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `make-tiny`."""
    parser = commands.add_parser(
        "make-tiny", help="write the built-in tiny, untrained model: noise that moves and sounds"
    )
    parser.add_argument("directory", type=Path, help="where the files go")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights")
    parser.add_argument(
        "--comfyui",
        action="store_true",
        help="DIRECTORY is a ComfyUI: put the files into the folders under its models/",
    )
    parser.add_argument(
        "--judges",
        action="store_true",
        help="also write tiny, untrained judges, for trying `score`",
    )
    parser.set_defaults(run=_make_tiny)


def _convert(options: argparse.Namespace) -> int:
    ema = not options.raw
    if options.fp8:
        errors = convert_to_fp8(
            options.source,
            options.target,
            ema=ema,
            keep_audio=options.keep_audio,
            loras=options.lora,
        )
        sys.stdout.write(f"relative error per layer\n{table(error_rows(errors))}\n")
    elif options.keep_audio:
        raise RequestError("Without --fp8 everything stays in bf16", fix="leave out --keep-audio")
    else:
        convert(options.source, options.target, ema=ema, loras=options.lora)
    sys.stdout.write(f"wrote {options.target}\n")
    return 0


def error_rows(errors: Mapping[str, float]) -> list[tuple[str, str]]:
    """One row per layer, then their mean and the worst."""
    rows = [(layer, f"{error:.4%}") for layer, error in errors.items()]
    if errors:
        worst = max(errors, key=lambda layer: errors[layer])
        mean = sum(errors.values()) / len(errors)
        rows += [
            (f"mean of {len(errors)} layers", f"{mean:.4%}"),
            ("worst", f"{errors[worst]:.4%} {worst}"),
        ]
    return rows


def _make_tiny(options: argparse.Namespace) -> int:
    directory = write_tiny_models(options.directory, seed=options.seed, comfyui=options.comfyui)
    if options.judges:
        folder = directory / JUDGES_FOLDER if options.comfyui else directory
        write_tiny_judges(folder, seed=options.seed)
    sys.stdout.write(f"wrote the tiny model to {directory}\n")
    return 0
