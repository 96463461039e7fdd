"""`hallo-live budget`: what a clip takes of a GPU's memory, by arithmetic, on any machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..config import FULL, LIGHT, Profile
from ..devices import Placement
from ..engine import DECODERS
from ..engine.memory import TEXT, MemoryBudget
from ..engine.planning import planned_memory
from ..errors import GIGA
from ..types import Request
from .loading import add_size_option

if TYPE_CHECKING:
    from argparse import _SubParsersAction  # pyright: ignore[reportPrivateUsage]

COLUMNS: tuple[tuple[str, Profile, str], ...] = (
    ("full", FULL, DECODERS[0]),
    ("--fp8-weights", Profile(fp8_weights=True), DECODERS[0]),
    ("--fp8-cache", Profile(fp8_cache=True), DECODERS[0]),
    (f"--decoder {DECODERS[1]}", FULL, DECODERS[1]),
    ("both fp8", LIGHT, DECODERS[0]),
    ("--light", LIGHT, DECODERS[1]),
)
"""Title, profile and decoder of each column."""

GPU = torch.device("cuda", 0)
GIBI = 2**30
"""Cards are sold by this; everything here is told in units of 10^9."""

DEFAULT_CARD = 24
"""GiB."""

LARGEST_CARD = 10_000
"""GiB; what is beyond is a slip of the finger."""

ESTIMATE = " ~"


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `budget`."""
    defaults = Request()
    parser = commands.add_parser(
        "budget", help="memory of a clip for each profile, by arithmetic; needs no GPU"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=defaults.seconds,
        help=f"length of the clip; default: {defaults.seconds:g}",
    )
    parser.add_argument(
        "--lookahead",
        type=int,
        default=defaults.lookahead,
        help=f"audio latents the picture may hear ahead; default: {defaults.lookahead}",
    )
    add_size_option(parser, f"default: {defaults.height}x{defaults.width}")
    parser.add_argument("--models", type=Path, help="sizes of these files, not the published ones")
    parser.add_argument(
        "--vram",
        type=card_size,
        default=DEFAULT_CARD,
        help=f"size of the card in GB, as it is sold; default: {DEFAULT_CARD}",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    height, width = options.size
    request = Request(
        seconds=options.seconds, lookahead=options.lookahead, height=height, width=width
    )
    placement = Placement(GPU, GPU, GPU)
    budgets = [
        planned_memory(request, placement, profile=profile, decoder=decoder, models=options.models)
        for _, profile, decoder in COLUMNS
    ]
    titles = [title for title, _, _ in COLUMNS]
    rows = [*_needs(budgets), *_sums(budgets, card=round(options.vram * GIBI))]
    sys.stdout.write(
        f"{request.seconds:g} s of {height}x{width}, everything on one GPU, GB of 10^9 bytes.\n"
        "Arithmetic, not a measurement: ~ marks estimates; CUDA itself takes about 0.5 more.\n\n"
        f"{_table([('', *titles), *rows])}\n"
    )
    return 0


def card_size(text: str) -> float:
    """A card as it is sold, GiB."""
    size = float(text)
    if not 0 < size <= LARGEST_CARD:
        raise argparse.ArgumentTypeError(f"{text} is no size of a card; use a number such as 24")
    return size


Row = tuple[str, ...]


def _needs(budgets: Sequence[MemoryBudget]) -> list[Row]:
    """A row for everything that takes memory; all budgets have the same."""
    rows: list[Row] = []
    for needs in zip(*(budget.needs for budget in budgets), strict=True):
        mark = "" if needs[0].exact else ESTIMATE
        rows.append((needs[0].name + mark, *(_giga(need.nbytes) for need in needs)))
    return rows


def _sums(budgets: Sequence[MemoryBudget], *, card: int) -> list[Row]:
    totals = [budget.total_on(GPU) for budget in budgets]
    texts = [
        sum(need.nbytes for need in budget.needs if need.name.endswith(TEXT)) for budget in budgets
    ]
    aside = [total - text for total, text in zip(totals, texts, strict=True)]
    return [
        ("sum", *map(_giga, totals)),
        ("sum with --text-device cpu", *map(_giga, aside)),
        (f"left of {_giga(card)} with it", *(_giga(card - nbytes) for nbytes in aside)),
    ]


def _giga(nbytes: int) -> str:
    return f"{nbytes / GIGA:.2f}"


def _table(rows: Sequence[Row]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
