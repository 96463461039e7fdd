"""Settings that make a loaded transformer faster: what they do, and what is refused."""

import pytest
import torch

from hallo_live_core.cli import build_parser
from hallo_live_core.cli.acceleration import acceleration
from hallo_live_core.config import Acceleration
from hallo_live_core.engine import acceleration as steps
from hallo_live_core.engine.acceleration import accelerate, check_acceleration
from hallo_live_core.errors import RequestError
from hallo_live_core.models.dit import sdpa
from hallo_live_core.models.dit.kernels import CUDNN_PREFERRED, Abilities
from hallo_live_core.models.dit.lanes import IN_TURN
from hallo_live_core.sampling.split import SplitTransformer

from .dit_models import CPU, tiny_dit

GPU = torch.device("cuda")
PLAIN = Acceleration()


def asked(*options):
    line = ["generate", "Hello", "--models", "models", *options]
    return acceleration(build_parser().parse_args(line))


def test_by_default_nothing_is_compiled_recorded_or_run_beside():
    assert asked() == PLAIN == Acceleration("auto", False, False, False)


def test_every_setting_has_its_option():
    found = asked("--attention", "sdpa", "--compile", "blocks", "--audio-beside", "--cuda-graphs")
    assert found == Acceleration("sdpa", True, True, True)


def test_on_a_cpu_the_plain_network_stays_as_it_is():
    model = tiny_dit()
    assert accelerate(model, PLAIN) is model
    assert model.attention is sdpa and model.lanes is IN_TURN


def test_compiling_is_put_off_until_a_layer_runs():
    model = tiny_dit()
    accelerate(model, Acceleration(compile_blocks=True))
    assert all(layer._compiled_call_impl is not None for layer in model.blocks)


def test_a_compiled_layer_gets_kernels_that_compilers_know(monkeypatch):
    found = Abilities((9, 0), frozenset({"flash_attn_interface"}), CUDNN_PREFERRED)
    monkeypatch.setattr(Abilities, "of", lambda _: found)
    chosen = []
    monkeypatch.setattr(
        steps, "choose_attention", lambda name, _, abilities: chosen.append((name, abilities.best))
    )
    for how in (PLAIN, Acceleration(compile_blocks=True), Acceleration("fa3", compile_blocks=True)):
        check_acceleration(how, GPU, split=False)
    assert chosen == [("auto", "fa3"), ("auto", "cudnn"), ("fa3", "fa3")]


def test_ranks_of_a_split_transformer_choose_their_own_kernels():
    split = SplitTransformer(tiny_dit(), (CPU, torch.device("cpu", 1)))
    for model in split.models:
        model.attention = None
    assert accelerate(split, PLAIN) is split
    assert all(model.attention is sdpa for model in split.models)


@pytest.mark.parametrize("setting", ["audio_beside", "graphs"])
def test_what_takes_a_gpu_is_refused_without_one(setting):
    with pytest.raises(RequestError, match="need a GPU"):
        check_acceleration(Acceleration(**{setting: True}), CPU, split=False)


def test_an_attention_that_the_device_cannot_do_is_refused():
    with pytest.raises(RequestError, match="fa3 cannot run on cpu"):
        check_acceleration(Acceleration(attention="fa3"), CPU, split=False)


@pytest.mark.parametrize("setting", ["compile_blocks", "audio_beside", "graphs"])
def test_a_split_transformer_is_neither_compiled_nor_recorded(setting, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    with pytest.raises(RequestError, match="split transformer"):
        check_acceleration(Acceleration(**{setting: True}), GPU, split=True)


def test_a_compiled_layer_has_one_stream(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    with pytest.raises(RequestError, match="two CUDA streams"):
        check_acceleration(Acceleration("sdpa", True, True), GPU, split=False)
