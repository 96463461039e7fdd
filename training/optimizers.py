"""AdamW in full width or with moments in 8 bits, and what a checkpoint has to hold of either.

8-bit moments are other people's work: torchao or bitsandbytes, whichever is installed and works on
the device. Each keeps its state in its own way, so nothing here knows its names: a state is made
by a step, taken apart into plain tensors, and put back into what a step made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from .config_reader import RecipeError
from .parallel import is_sharded
from .trainable import AdamWSettings, parameter_groups

LIBRARIES = {"torchao": "torchao.optim", "bitsandbytes": "bitsandbytes.optim"}
"""Packages with an `AdamW8bit`, and where they have it; the first that works is taken."""

TRIAL = 4096
"""Elements of the parameter that shows whether a package works; both keep smaller ones wide."""

BLOCK = 256
"""Elements of a moment that share one float32 scale, in both packages."""

Make = Callable[..., torch.optim.Optimizer]


def build_optimizer(
    parameters: Mapping[str, nn.Parameter], settings: AdamWSettings
) -> torch.optim.Optimizer:
    """AdamW over the groups; decay applies to all, norms and biases too, as in the reference.

    Raises:
        RecipeError: moments in 8 bits are wanted and cannot be had.
    """
    groups = parameter_groups(parameters, settings)
    make: Make = torch.optim.AdamW
    if settings.kind == "adamw_8bit":
        make = _find_8_bit(next(iter(parameters.values())))
        for group in groups:
            group["lr"] = torch.tensor(group["lr"]) if _is_torchao(make) else group["lr"]
    return make(
        groups,
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )


def moment_nbytes(settings: AdamWSettings, elements: int) -> float:
    """Bytes of both moments of so many elements (arithmetic)."""
    wide = torch.float32.itemsize
    return 2 * elements * (wide if settings.kind == "adamw" else 1 + wide / BLOCK)


def moments(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """All that an optimiser remembers, by name of the parameter: live tensors, numbers copied."""
    return {
        f"{name}.{key}": tensor
        for name, parameter in parameters.items()
        for entry, value in optimizer.state.get(parameter, {}).items()
        for key, tensor in _parts(entry, value)
    }


def create_moments(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> None:
    """Let an optimiser make its state, by a step; what it does to the parameters counts too."""
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def restore_numbers(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
) -> None:
    """Set what `moments` could only copy: counters that are no tensors."""
    for name, parameter in parameters.items():
        state = optimizer.state.get(parameter, {})
        for entry, value in state.items():
            if isinstance(value, int | float):
                state[entry] = type(value)(tensors[f"{name}.{entry}"].item())


def _parts(entry: str, value: Any) -> Iterable[tuple[str, Tensor]]:  # noqa: ANN401 - of a package
    """Plain tensors of one entry of a state; tensors that are made of others are taken apart."""
    if isinstance(value, int | float):
        yield entry, torch.tensor(value, dtype=torch.float64)
    elif hasattr(value, "__tensor_flatten__") and not is_sharded(value):
        inner, _ = value.__tensor_flatten__()
        for name in inner:
            yield from _parts(f"{entry}.{name}", getattr(value, name))
    elif isinstance(value, Tensor):
        yield entry, value


def _is_torchao(make: Make) -> bool:
    """It takes a group's rate as a tensor only."""
    return make.__module__.startswith("torchao")


def _find_8_bit(like: Tensor) -> Make:
    """The first package that can keep moments in 8 bits on the device of `like`.

    Raises:
        RecipeError: there is none, or the weights are cut into pieces.
    """
    if is_sharded(like):
        raise RecipeError(
            "Moments in 8 bits are for whole networks",
            found="sharding is on",
            fix="set the optimizers' kind to adamw, or parallel.shard=no",
        )
    problems = []
    for package, module in LIBRARIES.items():
        try:
            make: Make = import_module(module).AdamW8bit
        except (ImportError, AttributeError):
            problems.append(f"{package} is not installed")
            continue
        problem = _try(make, like.device)
        if problem is None:
            return make
        problems.append(f"{package} does not work on {like.device.type}: {problem}")
    raise RecipeError(
        "Moments in 8 bits need a package that works on this device",
        found="; ".join(problems),
        fix="pip install torchao or bitsandbytes, or set the optimizers' kind to adamw",
    )


def _try(make: Make, device: torch.device) -> str | None:
    """Why a package fails on a device, found out by two steps; None if it does not."""
    weight = nn.Parameter(torch.ones(TRIAL, device=device))
    try:
        rate = torch.tensor(1e-2) if _is_torchao(make) else 1e-2
        optimizer = make([{"params": [weight], "lr": rate}], lr=1e-2)
        for _ in range(2):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        learned = bool(((weight < 1) & weight.isfinite()).all())
    except Exception as error:  # whatever a foreign package throws is its answer
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None if learned else "a trial step does not learn"
