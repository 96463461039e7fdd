"""A run that is killed and started again ends where an uninterrupted one does, bit for bit."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.checkpointing import checkpoints, whole_tensors

from ..training_world import recipe_values, write_recipe, write_world

ROOT = Path(__file__).parents[2]
PROCESS = Path(__file__).with_name("training_process.py")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def start(arguments: list[str], *, count: int = 1, die: str = "") -> list[int]:
    """Exit codes of `count` processes that know each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(count):
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        if count > 1:
            env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if die and rank == 0:
            env |= {"DIE": die}
        command = [sys.executable, str(PROCESS), *arguments]
        processes.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, cwd=ROOT))
    codes = [processes[0].wait(timeout=120)]
    for process in processes[1:]:
        if codes[0]:
            process.kill()
        codes.append(process.wait(timeout=120))
    for process in processes:
        process.stderr.close()
    return codes


def final(folder: Path) -> dict[str, torch.Tensor]:
    newest = checkpoints(folder / "checkpoints")[-1]
    assert newest.name == "step_00000004"
    return {
        f"{file.name}/{name}": tensor
        for file in sorted(newest.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = checkpoints(folder / "checkpoints")[-1]
    return whole_tensors(newest, "student.weights.") | whole_tensors(newest, "critic.optimizer.")


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


BESIDE = {"run": {"save_beside": True}}
ADAPTERS = {"adapters": {"rank": 2, "alpha": 2.0}, "train": {"partial": True}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("die", "groups"),
    [("before:2", {}), ("within:2", {}), ("within:2", ADAPTERS), ("within:2", BESIDE)],
    ids=["before", "within", "within, adapters", "within, written beside the run"],
)
def test_a_killed_distillation_ends_as_if_it_had_not_been_killed(world, tmp_path, die, groups):
    values = recipe_values(world, "train-hpdmd", **groups)
    recipe = write_recipe(tmp_path / "recipe.yaml", values)
    command = ["train-hpdmd", "--config", str(recipe)]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start([*command, f"run.folder={whole}"]) == [0]
    assert start([*command, f"run.folder={cut}"], die=die) == [-signal.SIGKILL]
    assert [path.name for path in checkpoints(cut / "checkpoints")] == ["step_00000002"]
    assert start([*command, f"run.folder={cut}"]) == [0]
    found = final(whole)
    assert_same(found, final(cut))
    assert {"student.weights", "student.ema", "critic.optimizer"} <= {
        ".".join(name.split("/")[1].split(".")[:2]) for name in found
    }
    assert not list((cut / "checkpoints").glob("*.unfinished"))


@pytest.mark.slow
@pytest.mark.parametrize(("shard", "beside"), [("no", False), ("yes", False), ("yes", True)])
def test_two_processes_killed_within_a_save_end_as_if_they_had_not_been(
    world, tmp_path, shard, beside
):
    parallel = {"shard": shard, "precision": "float32"}
    values = recipe_values(world, "train-ode", parallel=parallel, run={"save_beside": beside})
    recipe = write_recipe(tmp_path / "recipe.yaml", values)
    command = ["train-ode", "--config", str(recipe)]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start([*command, f"run.folder={whole}"], count=2) == [0, 0]
    assert start([*command, f"run.folder={cut}"], count=2, die="within:2")[0] == -signal.SIGKILL
    assert start([*command, f"run.folder={cut}"], count=2) == [0, 0]
    assert_same(final(whole), final(cut))


@pytest.mark.slow
def test_two_processes_whole_or_sharded_train_as_one_does(world, tmp_path):
    values = recipe_values(
        world, "train-hpdmd", parallel={"precision": "float32"}, optimizer={"lr": 1e-3, "eps": 1e-4}
    )
    recipe = write_recipe(tmp_path / "recipe.yaml", values)
    command = ["train-hpdmd", "--config", str(recipe)]
    assert start([*command, f"run.folder={tmp_path}/one"]) == [0]
    expected = weights(tmp_path / "one")
    for shard, on_host in (("no", False), ("yes", False), ("yes", True)):
        folder = tmp_path / f"{shard}_{on_host}"
        how = (f"parallel.shard='{shard}'", f"parallel.frozen_on_host={on_host}")
        arguments = [*command, f"run.folder={folder}", *how]
        assert start(arguments, count=2) == [0, 0]
        for name, found in weights(folder).items():
            torch.testing.assert_close(found, expected[name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_sharded_run_goes_on_with_another_number_of_processes(world, tmp_path):
    values = recipe_values(world, "train-ode", parallel={"shard": "yes", "precision": "float32"})
    recipe = write_recipe(tmp_path / "recipe.yaml", values)
    command = ["train-ode", "--config", str(recipe), f"run.folder={tmp_path}/run"]
    assert start([*command, "run.max_steps=2"], count=2) == [0, 0]
    assert start([*command, "parallel.shard='no'"]) == [0]
    assert checkpoints(tmp_path / "run/checkpoints")[-1].name == "step_00000004"


@pytest.mark.slow
def test_copies_of_shards_train_as_one_process_does_and_go_on_as_one(world, tmp_path):
    parallel = {"precision": "float32", "shard": "yes", "shard_group": 2}
    learning = {"optimizer": {"lr": 1e-3, "eps": 1e-4}}
    values = recipe_values(world, "train-ode", parallel=parallel, **learning)
    recipe = write_recipe(tmp_path / "recipe.yaml", values)
    command = ["train-ode", "--config", str(recipe)]
    assert start([*command, f"run.folder={tmp_path}/one", "parallel.shard='no'"]) == [0]
    for steps in (2, 4):
        arguments = [*command, f"run.folder={tmp_path}/four", f"run.max_steps={steps}"]
        assert start(arguments, count=4) == [0] * 4
    expected = weights(tmp_path / "one")
    for name, found in weights(tmp_path / "four").items():
        torch.testing.assert_close(found, expected[name], rtol=1e-3, atol=1e-5)
    files = sorted((tmp_path / "four/checkpoints/step_00000004").glob("*.safetensors"))
    learned = [sum("weights" in name for name in load_file(file)) for file in files]
    assert learned[0] == learned[1] > 0 == learned[2] == learned[3]
