"""One process or many: what accelerate found, and the few collective calls that training makes.

Networks are either whole on every process, and gradients are averaged once per update, or (FSDP2)
cut into pieces layer by layer. Nothing else in training knows which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hallo_live_core.errors import HalloLiveError
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.models.dit.visibility import Cached, Views

from .config_reader import RecipeError

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}
ENTRY_POINTS = ("settle", "embed_text", "embed_times")
"""Ways into the network besides `forward`; sharded weights must be gathered for them too."""


@dataclass(frozen=True, slots=True)
class ParallelSettings:
    """How networks are laid out.

    shard: cut networks into pieces (FSDP2); `auto` does what `accelerate launch` was told.
    shard_group: neighbouring processes that cut a network among them, those of one machine say;
    every such group holds a copy (hybrid sharding). 0: all processes are one group.
    checkpoint_activations: compute layers again in the backward pass of whole clips instead of
    keeping what they computed. Rollouts need it less: they go backward block by block.
    keep_gathered: keep a layer's weights between forward and backward; faster, more memory.
    frozen_on_host: sharded networks that do not learn wait in main memory, and each layer comes to
    the device for its turn: less memory there, slower.
    precision: of the computation; what learns is always stored in float32.
    """

    shard: Literal["auto", "yes", "no"] = "auto"
    shard_group: int = 0
    checkpoint_activations: bool = False
    keep_gathered: bool = False
    frozen_on_host: bool = False
    precision: Literal["float32", "bf16"] = "bf16"


class Processes:
    """This process among its peers. Made once, by the command.

    learns: whether whole networks are trained, or only asked; adapters learn on what is asked.
    """

    def __init__(
        self, settings: ParallelSettings, *, cpu: bool = False, learns: bool = True
    ) -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise HalloLiveError(
                "Training needs the package accelerate", fix='pip install "hallo-live[train]"'
            ) from error
        self.settings, self._learns = settings, learns
        self._accelerator = Accelerator(cpu=cpu)
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes
        plugin = getattr(self._accelerator.state, "fsdp_plugin", None)
        self.sharded = settings.shard == "yes" or (settings.shard == "auto" and plugin is not None)
        if self.sharded and not dist.is_initialized():
            raise RecipeError(
                "Sharding needs processes that know each other",
                fix="start with accelerate launch --config_file training/accelerate/..., "
                "or set parallel.shard=no",
            )
        if settings.frozen_on_host and not self.sharded:
            raise RecipeError(
                "Frozen networks wait in main memory only where networks are sharded",
                found="no sharding",
                fix="set parallel.frozen_on_host=false, or start with one of training/accelerate",
            )
        if self.count % self.pieces:
            raise RecipeError(
                "The processes cannot be divided into groups",
                found=f"{self.count} processes, parallel.shard_group={settings.shard_group}",
                fix="make the number of processes a multiple of the group's",
            )

    @property
    def pieces(self) -> int:
        """Into how many pieces a sharded network is cut."""
        return min(self.settings.shard_group or self.count, self.count)

    @property
    def is_main(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the computation.

        float32 on a CPU, and where what learns has no second copy of its weights to compute with.
        """
        as_stored = self._learns or self.device.type == "cpu"
        if as_stored and not self.sharded:
            return torch.float32
        return PRECISIONS[self.settings.precision]

    def wait(self) -> None:
        """Go on when all are here."""
        if self.count > 1:
            dist.barrier()

    def place(self, network: DualStreamDiT, *, learns: bool) -> DualStreamDiT:
        """Move a network to the device, cut into pieces where wanted.

        What learns becomes float32; what does not takes the dtype of the computation.
        """
        network.to(torch.float32 if learns else self.dtype).eval()
        if learns:
            self.recompute(network)
        if self.sharded:
            on_host = self.settings.frozen_on_host and not learns
            return self._sharded(network, on_host=on_host)
        network.to(self.device)
        return network

    def recompute(self, network: DualStreamDiT) -> None:
        """Where wanted, let layers of a network that learns compute again what they would keep."""
        if self.settings.checkpoint_activations:
            for block in network.layers:
                block.forward = recomputing(block.forward)

    def _sharded(self, network: DualStreamDiT, *, on_host: bool) -> DualStreamDiT:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import (
            CPUOffloadPolicy,
            MixedPrecisionPolicy,
            fully_shard,
            register_fsdp_forward_method,
        )

        shape = self._mesh_shape
        options: dict[str, Any] = {
            "mesh": init_device_mesh(
                self.device.type, shape, mesh_dim_names=("copies", "pieces")[-len(shape) :]
            ),
            "mp_policy": MixedPrecisionPolicy(
                param_dtype=self.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
            ),
        }
        if on_host:
            options["offload_policy"] = CPUOffloadPolicy(pin_memory=self.device.type == "cuda")
        for block in network.blocks:
            fully_shard(block, reshard_after_forward=not self.settings.keep_gathered, **options)
            register_fsdp_forward_method(block, "settle")
        fully_shard(network, **options)
        for name in ENTRY_POINTS:
            register_fsdp_forward_method(network, name)
        return network

    @property
    def _mesh_shape(self) -> tuple[int, ...]:
        """Copies and pieces, or pieces alone."""
        if self.pieces == self.count:
            return (self.count,)
        return (self.count // self.pieces, self.pieces)

    def synchronise(self, network: nn.Module, *, last: bool) -> None:
        """Before a backward pass: sharded gradients are reduced in the last one only."""
        if self.sharded:
            network.set_requires_gradient_sync(last)  # pyright: ignore[reportCallIssue]

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """After the last backward pass of an update: the mean over processes, everywhere."""
        if self.sharded or self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= self.count

    def gather(self, values: Tensor) -> Tensor:
        """[n, ...] of every process, one behind the other in the order of ranks."""
        if self.count == 1:
            return values
        here = values.contiguous().to(self.device)
        parts = [torch.empty_like(here) for _ in range(self.count)]
        dist.all_gather(parts, here)
        return torch.cat(parts).to(values.device)

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """The mean over processes of every number; all must give the same names."""
        if self.count == 1 or not values:
            return values
        names = sorted(values)
        total = torch.tensor([values[name] for name in names], dtype=torch.float64)
        total = total.to(torch.float32 if self.device.type == "mps" else torch.float64)
        total = total.to(self.device)
        dist.all_reduce(total)
        return dict(zip(names, (total / self.count).tolist(), strict=True))

    def close(self) -> None:
        """Leave the group of processes."""
        if dist.is_initialized():
            dist.destroy_process_group()


def recomputing(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A layer that keeps only its input for the backward pass.

    Not where it reads caches: a running stream changes them before its backward pass.
    """

    def run(*inputs: Any) -> Any:  # noqa: ANN401 - what the layer takes and gives
        views = next(given for given in inputs if isinstance(given, Views))
        if not torch.is_grad_enabled() or isinstance(views.video_self, Cached):
            return forward(*inputs)
        return checkpoint(forward, *inputs, use_reentrant=False)

    return run


def local(tensor: Tensor) -> Tensor:
    """This process's piece of a sharded tensor, along the first axis; others as they are."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def is_sharded(tensor: Tensor) -> bool:
    """Whether other processes hold other pieces of this tensor."""
    return hasattr(tensor, "to_local")
