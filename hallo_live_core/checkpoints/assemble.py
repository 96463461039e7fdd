"""Puts tensors into a module built without storage: one copy in memory, an exact fit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .identify import identify, some

Module = TypeVar("Module", bound=nn.Module)


def assemble(
    module: Module,
    tensors: dict[str, Tensor],
    *,
    source: str,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Module:
    """Assign `tensors` to a module built on the meta device; returns it, ready for inference.

    The dict is emptied on the way and each tensor converted and moved alone, so that no second
    copy of the model ever exists. What needs neither stays mapped to its file. `dtype` None keeps
    the stored one; integer tensors always keep theirs.

    Raises:
        CheckpointError: names or shapes differ in either direction.
    """
    check_fit(module, tensors, source)
    names_of: dict[int, tuple[Tensor, list[str]]] = {}
    for name, tensor in tensors.items():
        names_of.setdefault(id(tensor), (tensor, []))[1].append(name)
    tensors.clear()
    pending = list(names_of.values())[::-1]
    names_of.clear()
    ready: dict[str, Tensor] = {}
    while pending:
        tensor, names = pending.pop()
        placed = tensor.to(device, dtype if tensor.is_floating_point() else None)
        ready.update(dict.fromkeys(names, placed))
    module.load_state_dict(ready, strict=True, assign=True)
    return module.eval().requires_grad_(False)


@contextmanager
def reading(source: str, expected: str, names: Collection[str]) -> Iterator[None]:
    """Add file name, expectation and a guess at the content to errors raised inside.

    `names` are the tensor names of the file; `expected` is what the caller asked for.
    """
    names = list(names)
    try:
        yield
    except CheckpointError as error:
        if source in error.problem:
            raise
        guess = identify(names)
        problem, found, fix = f"{source}: {error.problem}", error.found, error.fix
        if guess not in (None, expected):
            problem, found = f"{source} is not {expected}", f"it seems to be {guess}"
        raise CheckpointError(problem, found=found, fix=fix or "choose the right file") from error


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors that do not fit a module exactly.

    Raises:
        CheckpointError: names or shapes differ in either direction.
    """
    expected = {name: tensor.shape for name, tensor in module.state_dict().items()}
    missing = [name for name in expected if name not in tensors]
    surplus = [name for name in tensors if name not in expected]
    reshaped = [
        f"{name} {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    problems = [
        f"{title}: {some(names)}"
        for title, names in (
            ("missing", missing),
            ("not expected", surplus),
            ("of another shape", reshaped),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{source} does not fit the {type(module).__name__}",
            found="; ".join(problems),
            fix="use a complete file of this model; was it edited or pruned?",
        )
