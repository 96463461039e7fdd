"""LoRA files of the transformer: small low-rank changes W + strength * (alpha / rank) * up @ down.

Names of layers may be the published ones (``video_model.blocks.3.ffn.0``) or ours
(``blocks.3.video.ffn.0``), behind the prefixes that trainers and other packs put there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, shortened
from ..functional.precision import at_least_float32
from ..models.dit.weights import module_name
from .files import DOWNLOAD_AGAIN, read_file
from .identify import some

PREFIXES = ("base_model.model.", "base_model.", "diffusion_model.", "transformer.", "model.")
"""What PEFT and other packs put before the name of a layer, once or one after the other."""

PART = re.compile(
    r"(?P<layer>.+)\.(?:lora_(?P<half>A|B|down|up)(?:\.default)?(?:\.weight)?|(?P<alpha>alpha))"
)
HALVES = {"A": "down", "down": "down", "B": "up", "up": "up"}
ALPHA = "lora_alpha"
"""In a header or in PEFT's settings: alpha of all layers that bring none."""

PEFT_NAME, PEFT_SETTINGS = "adapter_model", "adapter_config.json"
"""What PEFT calls its files; settings beside a file of another name are another file's."""

UNKNOWN_RULES = ("use_dora", "use_rslora", "alpha_pattern")
"""Entries of PEFT's settings that ask for another formula."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """The change of one weight. up: [out, rank]; down: [rank, in]."""

    up: Tensor
    down: Tensor
    alpha: float

    @property
    def scale(self) -> float:
        """What the product is multiplied with, besides the strength."""
        return self.alpha / self.down.shape[0]


Steps = Sequence[tuple[LowRank, float]]
"""Changes of one weight, and their strengths."""

LoraFiles = Sequence[tuple[Path, float]]
"""Files, and their strengths."""

Lora = dict[str, LowRank]
"""Changes by the names that `DualStreamDiT` has for the weights."""


def load_lora(path: Path) -> Lora:
    """The LoRA in a file; alpha may also stand in its header or in PEFT's settings beside it.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else or more.
    """
    path = Path(path)
    file = read_file(path)
    settings: dict[str, Any] = dict(file.metadata)
    if ALPHA not in settings and path.stem == PEFT_NAME:
        settings |= _peft_settings(path.with_name(PEFT_SETTINGS))
    return read_lora(file.tensors, file.name, settings)


def read_lora(
    tensors: Mapping[str, Tensor], source: str, settings: Mapping[str, Any] | None = None
) -> Lora:
    """The LoRA in these tensors; `settings` may bring alpha. Without any, alpha is the rank.

    Raises:
        CheckpointError: a name is unknown, half of a change is missing, or the halves do not fit.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    unknown: list[str] = []
    for name, tensor in tensors.items():
        match = PART.fullmatch(name)
        layer = None if match is None else _layer(match["layer"])
        if match is None or layer is None:
            unknown.append(name)
        else:
            parts.setdefault(layer, {})[HALVES.get(match["half"], "alpha")] = tensor
    if unknown or not parts:
        raise CheckpointError(
            f"{source} is not a LoRA of this transformer",
            found=f"{len(unknown)} of {len(tensors)} names are unknown: {some(unknown)}",
            fix="use a LoRA of Hallo-Live or Ovi with lora_A and lora_B, or lora_down and lora_up",
        )
    given = _number((settings or {}).get(ALPHA), source)
    return {layer: _low_rank(layer, part, given, source) for layer, part in parts.items()}


def check_lora(lora: Lora, shapes: Mapping[str, Sequence[int]], source: str) -> None:
    """Refuse changes of weights that a network, given by names and shapes, does not have.

    Raises:
        CheckpointError: names the first of them, and their number.
    """
    bad = [
        f"{name} [{change.up.shape[0]}, {change.down.shape[1]}]"
        for name, change in lora.items()
        if tuple(shapes.get(name, ())) != (change.up.shape[0], change.down.shape[1])
    ]
    if bad:
        raise CheckpointError(
            f"{source} was made for a transformer of another size",
            found=f"{len(bad)} of {len(lora)} changes do not fit: {some(bad)}",
            fix="use a LoRA of the model that is loaded",
        )


def changed(weight: Tensor, steps: Steps) -> Tensor:
    """A changed copy of a weight [out, in], computed in float32 and rounded once to its dtype."""
    wide = weight.to(at_least_float32(weight.dtype))
    for change, strength in steps:
        product = change.up.to(wide) @ change.down.to(wide)
        wide = torch.add(wide, product, alpha=strength * change.scale)
    return wide.to(weight.dtype)


def changes_of(weights: Mapping[str, Tensor], lora: Lora, source: str) -> dict[str, LowRank]:
    """The changes by the names that these weights have, published ones or ours.

    Raises:
        CheckpointError: the LoRA does not fit.
    """
    names = {module_name(name) or name: name for name in weights}
    check_lora(lora, {ours: weights[name].shape for ours, name in names.items()}, source)
    return {names[ours]: change for ours, change in lora.items()}


def load_steps(weights: Mapping[str, Tensor], loras: LoraFiles) -> dict[str, Steps]:
    """What several LoRA files do to these weights, by the names the weights have.

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit.
    """
    steps: dict[str, list[tuple[LowRank, float]]] = {}
    for path, strength in loras:
        for name, change in changes_of(weights, load_lora(path), Path(path).name).items():
            if strength:
                steps.setdefault(name, []).append((change, strength))
    return dict(steps)


def merge_into(module: nn.Module, loras: LoraFiles) -> None:
    """Merge LoRA files into a loaded network, one weight at a time: none is held twice.

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit.
    """
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, steps in load_steps(parameters, loras).items():
            parameters[name].data = changed(parameters[name].data, steps)


def _layer(name: str) -> str | None:
    """The weight of ours that a name in a file means, None if there is no such kind of name."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    return module_name(f"{name}.weight")


def _low_rank(layer: str, part: Mapping[str, Tensor], given: float | None, source: str) -> LowRank:
    up, down = part.get("up"), part.get("down")
    if up is None or down is None:
        found = f"{layer} without {'its upper' if up is None else 'its lower'} half"
        raise CheckpointError(f"{source} is incomplete", found=found, fix=DOWNLOAD_AGAIN)
    if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0] or not len(down):
        raise CheckpointError(
            f"{source} holds halves that do not fit together",
            found=f"{layer}: {list(up.shape)} and {list(down.shape)}",
            fix=DOWNLOAD_AGAIN,
        )
    own = part.get("alpha")
    if own is not None and own.numel() != 1:
        raise _no_number(source, layer)
    alpha = given if own is None else _number(own.item(), source)
    return LowRank(up, down, float(len(down)) if alpha is None else alpha)


def _number(value: object, source: str) -> float | None:
    if value is None:
        return None
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _no_number(source, value)
    return number


def _no_number(source: str, found: object) -> CheckpointError:
    return CheckpointError(
        f"{source} holds an alpha that is not a number", found=shortened(found), fix=DOWNLOAD_AGAIN
    )


def _peft_settings(path: Path) -> dict[str, Any]:
    """What PEFT wrote beside its file; nothing if there is none."""
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        unknown = [rule for rule in UNKNOWN_RULES if settings.get(rule)]
        found = {ALPHA: settings[ALPHA]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be understood", found=error, fix=DOWNLOAD_AGAIN
        ) from error
    if unknown:
        raise CheckpointError(
            "This kind of LoRA is not supported",
            found=f"{', '.join(unknown)} in {path.name}",
            fix="train one without that, or merge it with PEFT",
        )
    return found
