"""What a device would have to do, counted on tensors without memory: kernels and bytes."""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

VIEWS = {
    "view", "_unsafe_view", "expand", "transpose", "permute", "slice", "select", "unsqueeze",
    "squeeze", "split", "split_with_sizes", "unbind", "t", "detach", "alias", "as_strided",
    "unflatten", "chunk", "lift_fresh", "promote_types",
}  # fmt: skip
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty"}
MATRIX = {"convolution", "mm", "bmm", "addmm", "baddbmm"}
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def tensors_in(*trees: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(trees) if isinstance(leaf, torch.Tensor)]


def layout_of(weight: torch.Tensor) -> torch.memory_format | None:
    layout = CHANNELS_LAST.get(weight.ndim)
    return layout if layout and weight.is_contiguous(memory_format=layout) else None


def strays(t: torch.Tensor) -> bool:
    """Whether the channels of a pixel are not neighbours in memory, though there are several."""
    return t.ndim in CHANNELS_LAST and t.shape[1] > 1 and t.stride(1) != 1


class Work(TorchDispatchMode):
    """Counts operations by name, and the bytes that each kind reads and writes.

    What is only written (the target of a copy, an `out`) counts once, what is changed in place
    twice. Convolutions answer in the layout of their weights, as cuDNN's do and those of the meta
    device do not. `strayed` names results that lost the channels-last layout.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ops: Counter[str] = Counter()
        self.nbytes: Counter[str] = Counter()
        self.strayed: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.name().split("::")[1].split(".")[0]
        if name == "convolution" and (layout := layout_of(args[1])):
            out = out.contiguous(memory_format=layout)
        self.ops[name] += 1
        if name not in VIEWS:
            self.strayed += [f"{name} {tuple(t.shape)}" for t in tensors_in(out) if strays(t)]
        once = name == "copy_" or "out" in kwargs
        moved = tensors_in(args, kwargs) if once else tensors_in(args, kwargs, out)
        if name not in VIEWS | ALLOCATIONS:
            self.nbytes[name] += sum(t.nbytes for t in moved)
        return out

    @property
    def kernels(self) -> int:
        return sum(n for name, n in self.ops.items() if name not in VIEWS | ALLOCATIONS)

    @property
    def elementwise_nbytes(self) -> int:
        return sum(n for name, n in self.nbytes.items() if name not in MATRIX)


def watch_triton(work: Work, kernel):
    """A stand-in for a kernel that no dispatcher sees: it only counts, x and out once each."""

    def counted(x, gamma, out, smallest):
        work.ops[kernel] += 1
        work.nbytes[kernel] += x.nbytes + out.nbytes + gamma.nbytes

    return counted
