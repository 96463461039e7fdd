"""The published transformer at full size, without memory: names, counts, cost, no surprises."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hallo_live_core.config import HALLO_1_3B, HALLO_5B, BlockSizes, TransformerConfig
from hallo_live_core.functional.blocks import ClipPlan
from hallo_live_core.functional.noise import ClipShape, SeededNoise
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.models.dit import CachedPass, DualStreamDiT, fuse_projections
from hallo_live_core.models.dit.weights import to_published
from hallo_live_core.sampling.denoiser import Denoiser, open_session
from hallo_live_core.sampling.sampler import stream_blocks
from hallo_live_core.state.session import SessionShape, SessionState, session_nbytes
from hallo_live_core.types import TextContext

KEYS = Path(__file__).parents[1] / "keys"
META = torch.device("meta")
HEIGHT, WIDTH = 32, 62  # latents of 512 x 992
PLAN = ClipPlan(BlockSizes(), 5)
SHAPE = SessionShape(PLAN, HEIGHT, WIDTH)
SCHEDULE = NoiseSchedule()
BLOCK_TOKENS = 6 * 16 * 31
LATE = PLAN.block(4)

VIEWS = {
    "view", "_unsafe_view", "expand", "transpose", "permute", "slice", "select", "unsqueeze",
    "squeeze", "split", "split_with_sizes", "unbind", "t", "detach", "alias", "as_strided",
    "view_as_real", "view_as_complex", "lift_fresh",
}  # fmt: skip
ALLOCATIONS = {"empty", "empty_like"}
HOST_READS = {"_local_scalar_dense", "equal", "nonzero", "is_nonzero", "item"}
JOINS = {"cat", "stack"}
HEAVY = {"addmm", "convolution", "full_like"}
"""Matrix products, and attention as it is counted here: all other kernels only move bytes."""


class Watch(TorchDispatchMode):
    """Counts what would run on the device; what would wait for it raises on meta anyway."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: Counter[str] = Counter()
        self.nbytes: Counter[str] = Counter()
        self.wide: list[str] = []
        self.long_joins: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.name().split("::")[1].split(".")[0]
        tensors = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        used = [t for t in tree_leaves((args, out)) if isinstance(t, torch.Tensor)]
        if not any(t.is_meta for t in used):
            return out  # small tables on the host
        self.ops[name] += 1
        self.nbytes[name] += sum(t.nbytes for t in used)
        self.wide += [name for t in tensors if t.dtype in (torch.float64, torch.complex128)]
        if name in JOINS and any(t.numel() >= BLOCK_TOKENS * 3072 for t in tensors):
            self.long_joins.append(name)
        return out

    @property
    def kernels(self) -> int:
        return sum(n for name, n in self.ops.items() if name not in VIEWS | ALLOCATIONS)

    @property
    def calls(self) -> int:
        return sum(self.ops.values())

    @property
    def moved(self) -> int:
        """Bytes that elementwise kernels read and write."""
        light = self.nbytes.keys() - (VIEWS | ALLOCATIONS | HEAVY)
        return sum(self.nbytes[name] for name in light)

    @property
    def host_reads(self) -> int:
        return sum(self.ops[name] for name in HOST_READS)


class FusedNorms(TorchFunctionMode):
    """RMS norm as one kernel, as on CUDA; other devices take it apart."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.rms_norm, torch.nn.functional.rms_norm):
            return torch.ones_like(args[0])
        return func(*args, **(kwargs or {}))


def one_kernel_attention(q, k, v, mask=None):
    """As the flash kernels: one launch, output in the layout of the queries."""
    assert q.dtype == k.dtype == v.dtype and mask is None
    return torch.full_like(q, 1.0)


def with_layers(config: TransformerConfig, num_layers: int) -> TransformerConfig:
    return replace(config, num_layers=num_layers)


def build(config: TransformerConfig) -> DualStreamDiT:
    model = DualStreamDiT(config, attention=one_kernel_attention, device=META, dtype=torch.bfloat16)
    return model.requires_grad_(False)


def opened(model: DualStreamDiT) -> SessionState:
    text = TextContext.shared(torch.empty(1, 512, 4096, device=META))
    return open_session(model, text, SHAPE, SCHEDULE, dtype=torch.bfloat16)


def latents() -> tuple[torch.Tensor, torch.Tensor]:
    place = {"device": META, "dtype": torch.bfloat16}
    return torch.empty(1, 6, 48, HEIGHT, WIDTH, **place), torch.empty(1, 150, 20, **place)


def late_pass(num_layers: int, *, settle: bool = False, fused_norms: bool = False) -> Watch:
    """One call of the fifth block, 14 880 keys behind it."""
    model = fuse_projections(build(with_layers(HALLO_5B, num_layers)))
    state, (video, audio) = opened(model), latents()
    t = SCHEDULE.context if settle else 937.5
    how = CachedPass(state, LATE.first_video, ((t, 6),), ((0.0, 120), (t, 30)))
    watch = Watch()
    if fused_norms:
        with FusedNorms(), watch:
            model.settle(video, audio, how) if settle else model(video, audio, how)
    else:
        with watch:
            model.settle(video, audio, how) if settle else model(video, audio, how)
    return watch


@pytest.mark.parametrize(
    ("config", "file"), [(HALLO_5B, "fusion_5B.json"), (HALLO_1_3B, "fusion_1_3B.json")]
)
def test_names_shapes_and_counts_are_the_published_ones(config, file):
    published = json.loads((KEYS / file).read_text())
    weights = to_published(build(config).state_dict())
    assert {name: list(w.shape) for name, w in weights.items()} == published["shapes"]
    counts = published["counts"]
    for stream in ("video", "audio"):
        own = [w.numel() for name, w in weights.items() if name.startswith(stream)]
        assert sum(own) == counts[stream] and len(own) == counts[f"n_tensors_{stream}"]
    assert len(weights) == counts["n_tensors"] == 2073


def test_the_specified_parameter_counts():
    for config, total in ((HALLO_5B, 11_660_753_108), (HALLO_1_3B, 3_254_132_948)):
        assert sum(p.numel() for p in build(config).parameters()) == total


def layer_cost(*, fused_norms: bool) -> dict[str, int]:
    """What one layer of both streams costs: two layers less one."""
    one, two = (late_pass(n, fused_norms=fused_norms) for n in (1, 2))
    return {name: getattr(two, name) - getattr(one, name) for name in ("kernels", "calls", "moved")}


def test_a_layer_of_both_streams_stays_within_its_budget():
    """Kernels, calls and bytes where a norm is one kernel, as on CUDA."""
    cost = layer_cost(fused_norms=True)
    assert cost["kernels"] <= 80
    assert cost["calls"] <= 250
    assert cost["moved"] <= 1.85e9


def test_even_with_norms_taken_apart_a_layer_is_at_most_120_kernels():
    assert layer_cost(fused_norms=False)["kernels"] <= 120


def test_fusing_changes_neither_published_names_nor_shapes():
    plain, fused = build(HALLO_5B), fuse_projections(build(HALLO_5B))
    shapes = [{k: v.shape for k, v in to_published(m.state_dict()).items()} for m in (plain, fused)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("settle", [False, True])
def test_a_pass_reads_nothing_back_and_stays_narrow(settle):
    watch = late_pass(2, settle=settle)
    assert watch.host_reads == 0
    assert watch.wide == []


def test_a_pass_never_joins_tensors_of_video_length():
    assert late_pass(2).long_joins == []


def test_a_pass_around_its_layers_is_short():
    kernels = [late_pass(n, fused_norms=True).kernels for n in (1, 2)]
    assert kernels[0] - (kernels[1] - kernels[0]) <= 40


def test_the_context_pass_runs_a_fraction_of_its_last_layer():
    whole, trimmed = late_pass(1), late_pass(1, settle=True)
    assert trimmed.ops["addmm"] == 3 and trimmed.kernels < 0.4 * whole.kernels


def test_prompt_and_timesteps_cost_nothing_during_a_pass():
    """Per stream and layer qkv and o, then q, o and kv of the other, two of the MLP; one head."""
    matrices = [late_pass(n).ops["addmm"] for n in (1, 2)]
    assert matrices[1] - matrices[0] == 2 * (2 + 3 + 2)
    assert matrices[0] - (matrices[1] - matrices[0]) == 2


def test_a_whole_clip_runs_without_reading_back_or_joining_video():
    model = build(with_layers(HALLO_5B, 2))
    state = opened(model)
    clip = ClipShape(PLAN, (48, HEIGHT, WIDTH), 20)
    noise = SeededNoise(clip, 0, device=META, dtype=torch.bfloat16)
    watch = Watch()
    with watch:
        blocks = list(stream_blocks(Denoiser(model, state, SCHEDULE), noise))
    assert [block.video.shape for block in blocks] == [(1, 6, 48, HEIGHT, WIDTH)] * 5
    assert watch.host_reads == 0
    assert watch.ops["zeros"] == watch.ops["zeros_like"] == 0
    assert watch.long_joins == []


def test_a_session_holds_what_was_foretold():
    held = opened(build(with_layers(HALLO_5B, 2))).nbytes
    assert held == session_nbytes(with_layers(HALLO_5B, 2), SHAPE, torch.bfloat16)


def test_thirty_layers_of_cache_are_eleven_gigabytes():
    state = opened(build(HALLO_5B))
    assert state.video_self.nbytes == state.video_cross.nbytes == 30 * 2 * 14_880 * 3072 * 2
