"""The order of the training loop, and one update of one network (spec 06 §5, §11).

No networks, no files, no processes: a plan says what happens in an iteration, and whoever runs it
does that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from hallo_live_core.errors import RequestError
from hallo_live_core.functional.precision import at_least_float32

Event = Literal[
    "update_generator", "update_ema", "update_critic", "advance", "create_ema", "save", "stop"
]
"""`advance` counts the step; what follows it belongs to the new count."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """The published values of stage 2.

    generator_every: iterations per generator update; the critic is updated in each.
    ema_start_step: None means no average.
    """

    generator_every: int = 5
    ema_start_step: int | None = 200
    save_every: int = 500
    max_steps: int = 6000

    def __post_init__(self) -> None:
        for name in ("generator_every", "save_every", "max_steps"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} must be at least 1", found=getattr(self, name))


def plan_iteration(step: int, settings: LoopSettings, *, has_ema: bool) -> tuple[Event, ...]:
    """What happens in the iteration that begins at `step`, in order.

    The generator comes before the critic, and its average after its own update. What comes after
    `advance` is decided by the new count.
    """
    events: list[Event] = []
    if step % settings.generator_every == 0:
        events.append("update_generator")
        if has_ema:
            events.append("update_ema")
    events.append("update_critic")
    events.append("advance")
    start = settings.ema_start_step
    if start is not None and step + 1 >= start and not has_ema:
        events.append("create_ema")
    if (step + 1) % settings.save_every == 0:
        events.append("save")
    if step + 1 >= settings.max_steps:
        events.append("stop")
    return tuple(events)


@dataclass(frozen=True, slots=True)
class Update:
    """What became of an update: the gradient's norm before clipping, and whether it was applied.

    norms: of each group of the optimiser by name, picture and sound.
    """

    norm: float
    applied: bool
    norms: Mapping[str, float]


def update(
    optimizer: torch.optim.Optimizer,
    micro_batches: Iterable[Callable[[], None]],
    max_norm: float,
) -> Update:
    """Clear gradients, gather those of the micro-batches, clip, step.

    A norm that is not finite leaves the parameters as they are.

    micro_batches: each goes backward with its share (1 / number of them) of the loss; the last one
        also exchanges gradients between processes.
    """
    optimizer.zero_grad(set_to_none=True)
    for backward in micro_batches:
        backward()
    groups = optimizer.param_groups
    parameters = [p for group in groups for p in group["params"]]
    norms = {
        group.get("name", str(i)): float(gradient_norm(group["params"]))
        for i, group in enumerate(groups)
    }
    norm = float(clip_gradients(parameters, max_norm))
    applied = math.isfinite(norm)
    if applied:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return Update(norm, applied, norms)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients by min(1, max_norm / (norm + 1e-6)); returns the norm before, 0-d.

    One norm over both streams. Sharded gradients give the norm of the whole.
    """
    return _whole(nn.utils.clip_grad_norm_(parameters, max_norm))


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Norm over all gradients, 0-d; of sharded ones that of the whole."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return _whole(nn.utils.get_total_norm(gradients))


def _whole(norm: Tensor) -> Tensor:
    whole = getattr(norm, "full_tensor", None)
    return norm if whole is None else whole()


def create_ema(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The average as it starts: a copy of all parameters, also frozen ones, in float32 or wider."""
    return {
        name: p.detach().to(at_least_float32(p.dtype), copy=True) for name, p in parameters.items()
    }


@torch.no_grad()
def update_ema(ema: Mapping[str, Tensor], parameters: Mapping[str, Tensor], decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * parameter, in place; shards are averaged as shards."""
    for name, average in ema.items():
        average.lerp_(parameters[name].detach().to(average), 1 - decay)
