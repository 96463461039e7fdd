"""Adapters (LoRA): small trained changes of frozen weights, which several networks may share.

A layer with an adapter computes W x + b + (alpha / rank) * B A x. W and b belong to the base and
never change; A and B learn, in float32. B begins as zero, so the first answer is the base's own.
Teacher, critic and student of one file are three modules around the same tensors: the teacher is
the base without adapters.

Not peft: it wraps a network of its own for each adapter, switches adapters on that one network
where here three of them answer at once, and renames parameters; what is needed is below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from hallo_live_core.checkpoints.lora import LowRank, load_lora
from hallo_live_core.functional.noise import keyed_noise
from hallo_live_core.models.dit import DualStreamDiT

from .config_reader import RecipeError
from .trainable import ATTENTION, published_parameters

DOWN, UP = "lora_A", "lora_B"
SUFFIXES = (f".{DOWN}.weight", f".{UP}.weight")
"""What a layer's halves are called behind its name, here, in checkpoints and in LoRA files."""

FILE_PREFIX = "diffusion_model."
"""What stands before the names of layers in LoRA files, as other programs expect."""


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """Adapters of student and critic; nothing else of them learns.

    targets: parts of published names of linear layers. student, critic: LoRA files to begin with,
    for instance the student's of stage 1; without one, the base.
    """

    rank: int = 32
    alpha: float = 32.0
    targets: tuple[str, ...] = ATTENTION
    student: str = ""
    critic: str = ""

    def __post_init__(self) -> None:
        if self.rank < 1 or not (math.isfinite(self.alpha) and self.alpha > 0):
            found = f"rank {self.rank}, alpha {self.alpha}"
            raise RecipeError("Adapters need a rank from 1 and an alpha above 0", found=found)

    @property
    def scale(self) -> float:
        """What the product B A is multiplied with."""
        return self.alpha / self.rank

    def adapts(self, layer: str) -> bool:
        """Whether the linear layer of this published name gets an adapter."""
        return any(target in f"{layer}." for target in self.targets)


class AdaptedLinear(nn.Module):
    """A linear layer whose weights are another's, with an adapter of its own.

    A: [rank, in], normal values / sqrt(in); B: [out, rank], zero. Both float32, and rounded for use
    to what arrives.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.weight, self.bias, self.scale = base.weight, base.bias, scale
        like = {"dtype": torch.float32, "device": base.weight.device}
        self.lora_A = nn.Linear(base.in_features, rank, bias=False, **like)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False, **like)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out], in the dtype of x."""
        down, up = self.lora_A.weight.to(x), self.lora_B.weight.to(x)
        change = functional.linear(functional.linear(x, down), up)
        return functional.linear(x, self.weight, self.bias) + self.scale * change


def share(base: DualStreamDiT) -> DualStreamDiT:
    """Another network with the very same parameters: no tensor is copied, none learns."""
    network = DualStreamDiT(base.config, attention=base.attention, device=torch.device("meta"))
    network.requires_grad_(False)
    network.load_state_dict(base.state_dict(keep_vars=True), strict=True, assign=True)
    return network.eval()


def add_adapters(
    network: DualStreamDiT, settings: AdapterSettings, *, seed: int, name: str
) -> dict[str, nn.Parameter]:
    """Put adapters into a network; returns their halves by published name, in its order.

    seed, name: what A is drawn from, so that every process begins with the same. A network on the
    meta device gets no values.

    Raises:
        RecipeError: no layer is chosen.
    """
    linears = {own: m for own, m in network.named_modules() if isinstance(m, nn.Linear)}
    weights = {id(p): name for name, p in published_parameters(network).items()}
    for own, linear in linears.items():
        layer = weights[id(linear.weight)].removesuffix(".weight")
        if not settings.adapts(layer):
            continue
        adapted = AdaptedLinear(linear, settings.rank, settings.scale)
        if not linear.weight.is_meta:
            _begin(adapted, seed, f"{name}/{layer}")
        network.set_submodule(own, adapted)
    found = adapter_parameters(network)
    if not found:
        raise RecipeError(
            "No layer would get an adapter",
            found=f"adapters.targets {', '.join(settings.targets) or 'is empty'}",
            fix="use parts of names such as self_attn. or ffn.0",
        )
    return found


def adapter_parameters(network: DualStreamDiT) -> dict[str, nn.Parameter]:
    """The halves of all adapters by published name."""
    named = published_parameters(network).items()
    return {name: parameter for name, parameter in named if name.endswith(SUFFIXES)}


def begin_with(network: DualStreamDiT, path: Path) -> None:
    """Let the adapters of a network begin with those of a LoRA file.

    Raises:
        CheckpointError: the file cannot be used.
        RecipeError: it changes other layers than the adapters, or with another rank.
    """
    lora = {name.removesuffix(".weight"): change for name, change in load_lora(path).items()}
    adapted = {own: m for own, m in network.named_modules() if isinstance(m, AdaptedLinear)}
    differing = sorted(lora.keys() ^ adapted.keys())
    if differing:
        raise RecipeError(
            f"{path} does not change the layers that adapters.targets names",
            found=f"{len(differing)} layers are in one only, such as {differing[0]}",
            fix="use the targets it was trained with",
        )
    for own, layer in adapted.items():
        _begin_as(layer, lora[own], f"{path}, {own}")


def read_changes(tensors: Mapping[str, Tensor], alpha: float) -> dict[str, LowRank]:
    """Changes by published name of the weight, of halves as checkpoints hold them."""
    layers = [name.removesuffix(SUFFIXES[0]) for name in tensors if name.endswith(SUFFIXES[0])]
    return {
        f"{layer}.weight": LowRank(
            up=tensors[f"{layer}{SUFFIXES[1]}"], down=tensors[f"{layer}{SUFFIXES[0]}"], alpha=alpha
        )
        for layer in layers
    }


def as_lora_file(tensors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """The tensors of a LoRA file (`checkpoints.lora` reads it), of halves by published name."""
    named = {f"{FILE_PREFIX}{name}": tensor for name, tensor in tensors.items()}
    layers = [name.removesuffix(SUFFIXES[0]) for name in named if name.endswith(SUFFIXES[0])]
    return named | {f"{layer}.alpha": torch.tensor(alpha) for layer in layers}


@torch.no_grad()
def _begin(layer: AdaptedLinear, seed: int, key: str) -> None:
    rank, width = layer.lora_A.weight.shape
    layer.lora_A.weight.copy_(keyed_noise(seed, key, rank, width) / math.sqrt(width))
    layer.lora_B.weight.zero_()


@torch.no_grad()
def _begin_as(layer: AdaptedLinear, change: LowRank, source: str) -> None:
    if (
        change.down.shape != layer.lora_A.weight.shape
        or change.up.shape != layer.lora_B.weight.shape
    ):
        found = f"rank {len(change.down)} instead of {len(layer.lora_A.weight)}"
        raise RecipeError(f"{source} is of another size", found=found, fix="use its adapters.rank")
    layer.lora_A.weight.copy_(change.down)
    layer.lora_B.weight.copy_(change.up * (change.scale / layer.scale))
