"""Moments in 8 bits: found, tried, refused, and whole after a resume. Packages are stand-ins."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from hallo_live_core.errors import CheckpointError
from training.config_reader import RecipeError, build
from training.optimizers import build_optimizer, moment_nbytes, moments
from training.parallel import ParallelSettings, Processes
from training.phases.ode_init import ODEInit
from training.recipe import Recipe
from training.trainable import AdamWSettings
from training.trainer import Trainer

from ..training_world import recipe_values, write_world

EIGHT_BITS = AdamWSettings(lr=1e-2, kind="adamw_8bit")


class Rounding(torch.optim.Optimizer):
    """Learns by the sign of a mean of gradients, kept in 8 bits with one scale."""

    def __init__(self, params, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    mean = self.mean(self.state[p], p.grad)
                    p.sub_(float(group["lr"]) * mean / (mean.abs() + 1e-3))


class LikeBitsandbytes(Rounding):
    """Plain tensors, a table that all share, and a counter that is a number."""

    def mean(self, state, grad):
        if not state:
            self.table = getattr(self, "table", torch.linspace(-1, 1, 256))
            codes = torch.full_like(grad, 127, dtype=torch.uint8)
            state |= {"step": 0, "state1": codes, "qmap1": self.table, "absmax1": torch.zeros(1)}
        state["step"] += 1
        share = 1 / min(state["step"], 3)
        old = state["qmap1"][state["state1"].int()] * state["absmax1"]
        mean = old.lerp(grad, share)
        state["absmax1"].copy_(mean.abs().amax().clamp(min=1e-12))
        state["state1"].copy_(((mean / state["absmax1"] + 1) * 127.5).round())
        return mean


class Packed:
    """A tensor of tensors, as a package's subclass is."""

    def __init__(self, grad):
        self.codes, self.scale = torch.full_like(grad, 127, dtype=torch.uint8), torch.zeros(1)

    def __tensor_flatten__(self):
        return ["codes", "scale"], None


class LikeTorchao(Rounding):
    """Tensors of tensors; refuses rates that are numbers."""

    def mean(self, state, grad):
        assert all(isinstance(group["lr"], torch.Tensor) for group in self.param_groups)
        if not state:
            state |= {"step": torch.tensor(0.0), "exp_avg": Packed(grad)}
        state["step"] += 1
        packed = state["exp_avg"]
        mean = ((packed.codes - 127.0) * packed.scale).lerp(grad, 1 / min(float(state["step"]), 3))
        packed.scale.copy_(mean.abs().amax().clamp(min=1e-12) / 127)
        packed.codes.copy_((mean / packed.scale + 127).round())
        return mean


LikeTorchao.__module__ = "torchao.optim.adam"


class Broken(Rounding):
    def mean(self, state, grad):
        raise NotImplementedError("no kernel for this device\nand more lines")


def install(monkeypatch, **packages):
    """Make these the only packages; None: not installed."""
    for name in ("torchao", "bitsandbytes"):
        kind = packages.get(name)
        optim = None
        if kind is not None:
            optim = ModuleType(f"{name}.optim")
            optim.AdamW8bit = kind
        monkeypatch.setitem(sys.modules, name, kind and ModuleType(name))
        monkeypatch.setitem(sys.modules, f"{name}.optim", optim)


def weights():
    return {
        "video_model.a": nn.Parameter(torch.ones(8)),
        "audio_model.b": nn.Parameter(torch.ones(3)),
    }


def test_without_a_package_the_refusal_names_both_and_says_what_to_do(monkeypatch):
    install(monkeypatch)
    with pytest.raises(RecipeError) as refused:
        build_optimizer(weights(), EIGHT_BITS)
    said = str(refused.value)
    assert "torchao is not installed" in said and "bitsandbytes is not installed" in said
    assert "pip install" in said


def test_a_package_that_does_not_work_on_the_device_is_refused_with_its_own_words(monkeypatch):
    install(monkeypatch, bitsandbytes=Broken)
    with pytest.raises(RecipeError, match="does not work on cpu") as no:
        build_optimizer(weights(), EIGHT_BITS)
    assert "no kernel for this device" in str(no.value) and "more lines" not in str(no.value)


def test_a_package_that_works_is_preferred_to_one_that_does_not(monkeypatch):
    install(monkeypatch, torchao=Broken, bitsandbytes=LikeBitsandbytes)
    assert isinstance(build_optimizer(weights(), EIGHT_BITS), LikeBitsandbytes)


def test_full_width_needs_no_package_and_is_the_default(monkeypatch):
    install(monkeypatch)
    assert type(build_optimizer(weights(), AdamWSettings())) is torch.optim.AdamW


def test_every_stream_keeps_its_rate(monkeypatch):
    install(monkeypatch, torchao=LikeTorchao)
    rates = AdamWSettings(lr_video=1e-3, lr_audio=2e-3, kind="adamw_8bit")
    found = build_optimizer(weights(), rates).param_groups
    assert [float(g["lr"]) for g in found] == pytest.approx([1e-3, 2e-3])


def test_weights_in_pieces_are_refused(monkeypatch):
    install(monkeypatch, torchao=LikeTorchao)
    monkeypatch.setattr("training.optimizers.is_sharded", lambda _: True)
    with pytest.raises(RecipeError, match="whole networks"):
        build_optimizer(weights(), EIGHT_BITS)


def test_two_moments_of_8_bits_take_a_quarter_and_their_scales():
    assert moment_nbytes(AdamWSettings(), 256) == 256 * 8
    assert moment_nbytes(EIGHT_BITS, 256) == 2 * (256 + 4)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def train(world, folder, max_steps, kind="adamw_8bit"):
    recipe = build(
        Recipe,
        recipe_values(
            world,
            "train-ode",
            run={"folder": str(folder), "max_steps": max_steps, "save_every": 2},
            optimizer={"kind": kind},
        ),
    )
    processes = Processes(ParallelSettings(), cpu=True)
    phase = ODEInit(recipe, processes)
    Trainer(recipe, processes, phase).run()
    return phase.learners["student"]


@pytest.mark.parametrize(
    "package", [{"bitsandbytes": LikeBitsandbytes}, {"torchao": LikeTorchao}], ids=list("bt")
)
def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(
    world, tmp_path, monkeypatch, package
):
    install(monkeypatch, **package)
    whole = train(world, tmp_path / "whole", 4).tensors()
    train(world, tmp_path / "cut", 2)
    resumed = train(world, tmp_path / "cut", 4)
    found = resumed.tensors()
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    kept = moments(resumed.optimizer, resumed.parameters)
    assert torch.uint8 in {t.dtype for t in kept.values()}
    assert {float(t) for name, t in kept.items() if name.endswith(".step")} == {4.0}


def test_a_checkpoint_of_the_other_package_is_refused(world, tmp_path, monkeypatch):
    install(monkeypatch, bitsandbytes=LikeBitsandbytes)
    train(world, tmp_path / "run", 2)
    install(monkeypatch, torchao=LikeTorchao)
    with pytest.raises(CheckpointError, match="moments of another optimiser"):
        train(world, tmp_path / "run", 4)


def test_a_run_in_full_width_does_not_go_on_in_8_bits(world, tmp_path, monkeypatch):
    install(monkeypatch, bitsandbytes=LikeBitsandbytes)
    train(world, tmp_path / "run", 2, kind="adamw")
    with pytest.raises(RecipeError, match=r"different: optimizer\.kind"):
        train(world, tmp_path / "run", 4)


def test_a_run_from_before_a_setting_existed_goes_on(world, tmp_path):
    train(world, tmp_path / "run", 2, kind="adamw")
    (state,) = (tmp_path / "run" / "checkpoints").glob("*/state.json")
    content = json.loads(state.read_text())
    del content["recipe"]["optimizer"]["kind"]
    state.write_text(json.dumps(content))
    assert train(world, tmp_path / "run", 4, kind="adamw").tensors()
