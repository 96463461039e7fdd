"""What holds a run together: layouts, checkpoints, recomputation, counting of samples."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
import torch

from hallo_live_core.errors import CheckpointError, HalloLiveError
from training import checkpointing
from training.checkpointing import Snapshot, checkpoints, load, restore, save
from training.config_reader import RecipeError, build
from training.parallel import ParallelSettings, Processes
from training.phases.export import export
from training.phases.flow_matching import FlowMatching
from training.recipe import Recipe
from training.trainer import CHECKPOINTS, MicroBatch, Trainer

from ..training_world import recipe_values, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def one_process(**settings):
    return Processes(ParallelSettings(**settings), cpu=True)


def gradients(recipe, micro_batches):
    phase = FlowMatching(recipe, one_process(**recipe_parallel(recipe)))
    for micro_batch in micro_batches:
        phase.backward("student", micro_batch, 1 / len(micro_batches), lambda last: None)
    found = phase.learners["student"].parameters
    return {name: parameter.grad for name, parameter in found.items()}


def recipe_parallel(recipe):
    return {"checkpoint_activations": recipe.parallel.checkpoint_activations}


def test_recomputed_layers_give_the_same_gradients(world):
    batch = [MicroBatch(0, (0, 1), (0, 1))]
    kept = build(Recipe, recipe_values(world, "train-teacher"))
    again = build(
        Recipe, recipe_values(world, "train-teacher", parallel={"checkpoint_activations": True})
    )
    expected = gradients(kept, batch)
    for name, found in gradients(again, batch).items():
        assert torch.equal(found, expected[name]), name


def test_accumulated_micro_batches_give_the_gradient_of_the_whole_batch(world):
    recipe = build(Recipe, recipe_values(world, "train-teacher"))
    whole = gradients(recipe, [MicroBatch(0, (0, 1, 2, 3), (0, 1, 2, 3))])
    parts = gradients(recipe, [MicroBatch(0, (i,), (i,)) for i in range(4)])
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, rtol=2e-4, atol=1e-6)


def test_a_batch_that_cannot_be_divided_is_refused(world):
    recipe = build(Recipe, recipe_values(world, "train-teacher", run={"micro_batch": 3}))
    processes = one_process()
    with pytest.raises(RecipeError, match="cannot be divided"):
        Trainer(recipe, processes, FlowMatching(recipe, processes))


def test_frozen_networks_in_main_memory_need_sharding():
    with pytest.raises(RecipeError, match="only where networks are sharded"):
        one_process(frozen_on_host=True)


def test_updates_that_are_not_finite_are_left_out_and_stop_the_run(world, tmp_path):
    values = recipe_values(
        world, "train-teacher", run={"folder": str(tmp_path), "max_bad_updates": 1}
    )
    recipe = build(Recipe, values)
    phase = FlowMatching(recipe, one_process())
    learner = phase.learners["student"]
    before = {name: p.detach().clone() for name, p in learner.parameters.items()}
    phase.backward = lambda *_: poison(learner)
    with pytest.raises(HalloLiveError, match="2 updates in a row were not finite"):
        Trainer(recipe, one_process(), phase).run()
    assert all(torch.equal(p, before[name]) for name, p in learner.parameters.items())


def poison(learner):
    for parameter in learner.parameters.values():
        parameter.grad = torch.full_like(parameter, float("nan"))
    return {"loss": torch.tensor(float("nan"))}


def test_only_the_last_checkpoints_are_kept_and_each_can_be_read(tmp_path):
    processes, tensor = one_process(), torch.zeros(3)
    for step in range(4):
        tensor += 1
        save(tmp_path, step, Snapshot({"a.x": tensor}, {"n": step}), processes, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000002", "step_00000003"]
    snapshot = load(checkpoints(tmp_path)[0], processes)
    assert snapshot.state["n"] == 2
    assert snapshot.tensors["a.x"].tolist() == [3, 3, 3]
    with pytest.raises(CheckpointError, match=r"another network.*x \[3\] instead of \[2\]"):
        restore({"x": torch.zeros(2)}, snapshot, "a.", "it")


def test_milestones_are_kept_beside_the_last_checkpoints(tmp_path):
    for step in (2, 4, 6, 8, 10):
        snapshot = Snapshot({"a.x": torch.zeros(1)}, {})
        save(tmp_path, step, snapshot, one_process(), keep=1, milestone_every=4)
    assert [path.name[-2:] for path in checkpoints(tmp_path)] == ["04", "08", "10"]


def test_a_checkpoint_written_beside_the_run_holds_what_was_there_when_it_began(
    tmp_path, monkeypatch
):
    may_write, weight = threading.Event(), torch.ones(3)
    write = checkpointing.write_safetensors

    def late(*arguments, **options):
        assert may_write.wait(10)
        write(*arguments, **options)

    monkeypatch.setattr(checkpointing, "write_safetensors", late)
    with ThreadPoolExecutor(1) as writer:
        snapshot = Snapshot({"a.x": weight}, {})
        saving = save(tmp_path, 1, snapshot, one_process(), keep=1, beside=writer)
        weight += 1
        assert not saving.done() and not checkpoints(tmp_path)
        may_write.set()
    assert load(checkpoints(tmp_path)[0], one_process()).tensors["a.x"].tolist() == [1, 1, 1]


def test_a_checkpoint_that_cannot_be_written_beside_the_run_stops_it(world, tmp_path, monkeypatch):
    run = {"folder": str(tmp_path), "save_beside": True, "save_every": 1, "max_steps": 9}
    recipe = build(Recipe, recipe_values(world, "train-teacher", run=run))
    trainer = Trainer(recipe, one_process(), FlowMatching(recipe, one_process()))
    full = CheckpointError("There is no room")
    monkeypatch.setattr(checkpointing, "write_safetensors", Mock(side_effect=full))
    with pytest.raises(CheckpointError, match="no room"):
        trainer.run()
    assert trainer.counters.step == 2


def test_the_main_process_does_not_wait_for_ever_for_files_of_others(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpointing, "PATIENCE_SECONDS", 0.01)
    alone = Mock(rank=0, count=2, pieces=2, is_main=True)
    with pytest.raises(CheckpointError, match=r"process_00001.* was not written"):
        save(tmp_path, 1, Snapshot({}, {}), alone, keep=1)


def test_a_folder_with_a_run_of_another_recipe_is_left_alone(world, tmp_path):
    values = recipe_values(world, "train-teacher", run={"folder": str(tmp_path), "max_steps": 1})
    recipe = build(Recipe, values)
    Trainer(recipe, one_process(), FlowMatching(recipe, one_process())).run()
    other = build(Recipe, values | {"optimizer": {"lr": 1.0}})
    with pytest.raises(RecipeError, match=r"another recipe.*optimizer\.lr"):
        Trainer(other, one_process(), FlowMatching(other, one_process())).run()
    larger = {"student": str(world / "larger.safetensors")}
    saved = tmp_path / CHECKPOINTS
    phase = FlowMatching(
        build(Recipe, recipe_values(world, "train-teacher", model=larger)), one_process()
    )
    with pytest.raises(CheckpointError, match="checkpoint of another network"):
        phase.learners["student"].restore(load(checkpoints(saved)[-1], one_process()), saved)
    with pytest.raises(CheckpointError, match="no ema weights of critic"):
        export(tmp_path, tmp_path / "x.safetensors", network="critic", weights="ema")


def test_processes_that_make_no_whole_groups_are_refused(monkeypatch):
    monkeypatch.setattr("accelerate.Accelerator", lambda cpu: FourProcesses())
    with pytest.raises(RecipeError, match=r"4 processes, parallel\.shard_group=3"):
        one_process(shard_group=3)
    assert one_process(shard_group=2).pieces == 2
    assert one_process().pieces == one_process(shard_group=8).pieces == 4


class FourProcesses:
    device, process_index, num_processes, state = torch.device("cpu"), 0, 4, None
