"""Weights of full-size networks by the rule `fill_v1`, which replaces huge golden files."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import torch

from .harness import Golden

KEYS = Path(__file__).parents[1] / "keys"


def published_shapes(name: str) -> dict[str, list[int]]:
    """Names and shapes of a published file."""
    return json.loads((KEYS / f"{name}.json").read_text())["tensors"]


def filled(golden: Golden, name: str) -> dict[str, torch.Tensor]:
    """The state dict that the golden file's `weights` entry describes, float32, verified."""
    rule = golden.meta["config"]["weights"]
    assert rule["rule"] == "fill_v1"
    tensors = dict(_fill(name, rule["seed"]))
    for key, scale in rule.get("scale", {}).items():
        tensors[key] = tensors[key] * scale
    tensors = {key: torch.from_numpy(value.astype(np.float32)) for key, value in tensors.items()}
    total = sum(float(t.double().sum()) for t in tensors.values())
    squares = sum(float(t.double().square().sum()) for t in tensors.values())
    assert len(tensors) == rule["check"]["n_tensors"]
    assert math.isclose(total, rule["check"]["sum"], rel_tol=1e-9)
    assert math.isclose(squares, rule["check"]["sum_sq"], rel_tol=1e-9)
    return tensors


@cache
def _fill(name: str, seed: int) -> tuple[tuple[str, np.ndarray], ...]:
    shapes = {k: s for k, s in published_shapes(name).items() if "num_batches_tracked" not in k}
    return tuple(
        (key, _value(key, np.random.RandomState(seed + i).standard_normal(shapes[key])))
        for i, key in enumerate(sorted(shapes))
    )


def _value(key: str, r: np.ndarray) -> np.ndarray:
    if key.endswith("running_var"):
        return 1 + 0.25 * r**2
    if key.endswith("running_mean"):
        return 0.1 * r
    if r.ndim >= 2:
        return r * np.sqrt(2 / np.prod(r.shape[1:]))
    return 1 + 0.1 * r if key.endswith("weight") else 0.1 * r
