"""A LoRA merged into a state dict, by what the loaders use one weight at a time."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from hallo_live_core.checkpoints.lora import Lora, changed, changes_of


def merge_lora(
    weights: Mapping[str, Tensor], lora: Lora, strength: float, source: str = "The LoRA"
) -> dict[str, Tensor]:
    """Names and all other tensors stay as they are; nothing is written into tensors."""
    changes = changes_of(weights, lora, source) if strength else {}
    return {
        name: changed(tensor, [(changes[name], strength)]) if name in changes else tensor
        for name, tensor in weights.items()
    }
