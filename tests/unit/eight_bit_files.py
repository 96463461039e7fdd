"""A small transformer with random weights, as files in full width and in 8 bits."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from hallo_live_core.checkpoints.convert import convert_to_fp8
from hallo_live_core.config import StreamConfig, TransformerConfig
from hallo_live_core.models.dit.fusion import DualStreamDiT
from hallo_live_core.models.dit.weights import to_published

SIZES = {"dim": 128, "ffn_dim": 32, "num_heads": 1, "freq_dim": 4, "text_dim": 6}
SMALL = TransformerConfig(
    video=StreamConfig(in_channels=48, patch=(1, 2, 2), **SIZES),
    audio=StreamConfig(in_channels=20, patch=(1,), **SIZES),
    num_layers=2,
)


def random_weights() -> dict[str, torch.Tensor]:
    """bf16 weights by their published names, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    shapes = to_published(DualStreamDiT(SMALL, device="meta").state_dict())
    return {
        k: torch.randn(t.shape, generator=generator).mul(0.02).bfloat16() for k, t in shapes.items()
    }


def write_full(folder: Path) -> Path:
    """`random_weights` as a file."""
    path = folder / "full.safetensors"
    save_file(random_weights(), path)
    return path


def write_small(full: Path) -> Path:
    """The same beside it, in 8 bits."""
    path = full.with_name("small.safetensors")
    convert_to_fp8(full, path)
    return path
