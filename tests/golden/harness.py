"""Reads golden files: a JSON with `kind` and configuration beside a safetensors with tensors."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file

from .facts import Facts

AREAS = ("core", "vae", "train", "rewards")
DEFAULT_ROOT = Path(__file__).parent / "data"

RESULTS = ("out.", "cache.", "mask.")
"""Names of the tensors that a check must look at, all of them."""

FOR_INFORMATION = "out.wave_blockwise_"
"""What the reference's seam-ridden block mode gives; nobody should reproduce it."""


@dataclass(frozen=True)
class Golden:
    """One golden file. Floating tensors come out in float64, integers as stored."""

    path: Path
    used: set[str] = field(default_factory=set)

    @cached_property
    def meta(self) -> Facts:
        return Facts(json.loads(self.path.read_text()))

    @property
    def kind(self) -> str:
        return self.meta["kind"]

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        stored = load_file(self.path.with_suffix(".safetensors"))
        if shared := self.meta.get("weights_of"):  # only in the committed subset, to keep it small
            other = load_file(self.path.with_name(f"{shared}.safetensors"))
            stored |= {k: v for k, v in other.items() if k.startswith("sd.")}
        return {k: v.double() if v.is_floating_point() else v for k, v in stored.items()}

    def __getitem__(self, name: str) -> torch.Tensor:
        self.used.add(name)
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def overlooked(self, prefixes: tuple[str, ...] = RESULTS) -> list[str]:
        """Results, or tensors with other prefixes, that no check has looked at."""
        return [
            name
            for name in self.tensors
            if name.startswith(prefixes)
            and not name.startswith(FOR_INFORMATION)
            and name not in self.used
        ]

    def group(self, prefix: str) -> dict[str, torch.Tensor]:
        """All tensors below `prefix.`, without the prefix; `group("sd")` is the state dict."""
        prefix += "."
        return {k[len(prefix) :]: self[k] for k in self.tensors if k.startswith(prefix)}


def golden_root() -> Path:
    return Path(os.environ.get("HALLO_LIVE_GOLDEN", DEFAULT_ROOT))


def golden_files() -> list[Golden]:
    root = golden_root()
    return [Golden(p) for area in AREAS for p in sorted((root / area).glob("*.json"))]


def assert_rel_l2(actual: torch.Tensor, expected: torch.Tensor, name: str, tol: float = 2e-6):
    """Relative L2 of the whole tensor; 2e-6 is what the core's README accepts in float64."""
    assert actual.shape == expected.shape, f"{name}: {tuple(actual.shape)} {tuple(expected.shape)}"
    error = (actual.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30)
    assert error <= tol, f"{name}: relative L2 {error:.2e} > {tol:.0e}"


def assert_max_abs(actual: torch.Tensor, expected: torch.Tensor, name: str, tol: float):
    """Largest absolute difference, as the decoders' README states its tolerances."""
    assert actual.shape == expected.shape, f"{name}: {tuple(actual.shape)} {tuple(expected.shape)}"
    error = (actual.double() - expected.double()).abs().max()
    assert error <= tol, f"{name}: max abs {error:.2e} > {tol:.0e}"
