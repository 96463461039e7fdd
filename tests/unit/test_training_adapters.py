"""Adapters: one copy of the base for all networks, only adapters learn, and files tell the same."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hallo_live_core.checkpoints.load import load_transformer
from hallo_live_core.checkpoints.lora import load_lora
from hallo_live_core.errors import CheckpointError
from hallo_live_core.models.dit import TeacherPass
from training.adapters import (
    AdaptedLinear,
    AdapterSettings,
    add_adapters,
    as_lora_file,
    begin_with,
    share,
)
from training.checkpointing import checkpoints, whole_tensors
from training.cli import main
from training.config_reader import RecipeError, build
from training.parallel import ParallelSettings, Processes
from training.phases.distill import Distillation
from training.phases.export import export
from training.phases.ode_init import ODEInit
from training.recipe import Recipe
from training.trainer import Trainer

from ..training_world import recipe_values, write_recipe, write_world
from .dit_models import normal, tiny_dit, tiny_text
from .lora_merging import merge_lora

SETTINGS = AdapterSettings(rank=2, alpha=3.0)
ADAPTERS = {"rank": 2, "alpha": 3.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = write_world(tmp_path_factory.mktemp("world"))
    network = {k: t.bfloat16() for k, t in load_file(root / "network.safetensors").items()}
    save_file(network, root / "bf16.safetensors", metadata=_metadata(root))
    return root


def _metadata(root: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(root / "network.safetensors", "pt") as file:
        return file.metadata()


def recipe(root: Path, phase: str, folder: Path, **groups) -> Recipe:
    file = str(root / "bf16.safetensors")
    values = recipe_values(
        root,
        phase,
        run={"folder": str(folder)} | groups.pop("run", {}),
        model={"student": file, "teacher": file} | groups.pop("model", {}),
        adapters=ADAPTERS | groups.pop("adapters", {}),
        **groups,
    )
    return build(Recipe, values | {"train": groups.get("train", {})})


def one_process() -> Processes:
    return Processes(ParallelSettings(), cpu=True, learns=False)


def answer(network):
    dtype = next(network.parameters()).dtype
    clips = normal(1, 2, 3, 4, 6, seed=1, dtype=dtype), normal(1, 4, 4, seed=2, dtype=dtype)
    return network(*clips, TeacherPass(tiny_text(1, dtype=dtype), torch.tensor([500.0])))


def adapted(base, name="student", settings=SETTINGS):
    network = share(base)
    return network, add_adapters(network, settings, seed=1, name=name)


def disturb(adapters):
    with torch.no_grad():
        for i, (name, parameter) in enumerate(adapters.items()):
            if "lora_B" in name:
                parameter.copy_(normal(*parameter.shape, seed=i))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_with_new_adapters_answers_exactly_as_its_base(dtype):
    base = tiny_dit(dtype=dtype)
    network, adapters = adapted(base)
    for found, expected in zip(answer(network), answer(base), strict=True):
        assert torch.equal(found, expected)
    disturb(adapters)
    assert not torch.equal(answer(network)[0], answer(base)[0])


def test_networks_on_one_base_are_the_same_storage_and_the_base_stays_bare():
    base = tiny_dit()
    before = dict(base.named_parameters())
    student, critic = adapted(base)[0], adapted(base, "critic")[0]
    for network in (student, critic):
        named = dict(network.named_parameters())
        for name, parameter in before.items():
            assert named[name].data_ptr() == parameter.data_ptr(), name
            assert not named[name].requires_grad
    assert dict(base.named_parameters()).keys() == before.keys()
    assert not any(isinstance(module, AdaptedLinear) for module in base.modules())
    one, other = (n.get_submodule("blocks.0.video.self_attn.q.lora_A") for n in (student, critic))
    assert not torch.equal(one.weight, other.weight)


def test_an_adapted_layer_gives_the_answers_and_gradients_of_the_merged_weight():
    base = torch.nn.Linear(6, 4, dtype=torch.float64).requires_grad_(False)
    layer = AdaptedLinear(base, 2, 1.5).double()
    down, up = layer.lora_A.weight, layer.lora_B.weight
    torch.nn.init.normal_(down), torch.nn.init.normal_(up)
    x = normal(3, 6, seed=0, dtype=torch.float64)
    weight = (base.weight + 1.5 * up @ down).detach().requires_grad_(True)
    expected = torch.nn.functional.linear(x, weight, base.bias)
    found = layer(x)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(up.grad, 1.5 * weight.grad @ down.T)
    torch.testing.assert_close(down.grad, 1.5 * up.T @ weight.grad)
    assert layer.weight.grad is None


def test_only_the_layers_of_the_patterns_get_adapters_and_none_is_refused():
    _, adapters = adapted(tiny_dit(), settings=replace(SETTINGS, targets=("audio_model", "ffn.2")))
    layers = {name.split(".lora_")[0] for name in adapters}
    assert "video_model.blocks.0.ffn.2" in layers
    assert "audio_model.blocks.0.self_attn.q" in layers
    assert not any("video_model" in name and "ffn.2" not in name for name in layers)
    with pytest.raises(RecipeError, match="No layer would get an adapter"):
        adapted(tiny_dit(), settings=replace(SETTINGS, targets=("attention",)))


def test_adapters_begin_with_those_of_a_file_whatever_its_alpha(tmp_path):
    base = tiny_dit()
    network, adapters = adapted(base)
    disturb(adapters)
    save_file(as_lora_file({k: p.detach() for k, p in adapters.items()}, 3.0), tmp_path / "l.sft")
    again, _ = adapted(base, settings=replace(SETTINGS, alpha=1.0))
    begin_with(again, tmp_path / "l.sft")
    for found, expected in zip(answer(again), answer(network), strict=True):
        torch.testing.assert_close(found, expected)
    fewer, _ = adapted(base, settings=replace(SETTINGS, targets=("self_attn",)))
    with pytest.raises(RecipeError, match=r"layers are in one only, such as blocks\.0"):
        begin_with(fewer, tmp_path / "l.sft")
    wider, _ = adapted(base, settings=replace(SETTINGS, rank=4))
    with pytest.raises(RecipeError, match="rank 2 instead of 4"):
        begin_with(wider, tmp_path / "l.sft")


def test_teacher_critic_and_student_of_one_file_are_in_memory_once(world, tmp_path):
    phase = Distillation(recipe(world, "train-hpdmd", tmp_path), one_process())
    student, critic, teacher = (dict(n.named_parameters()) for n in phase.networks)
    assert not any("lora" in name for name in teacher)
    for name, parameter in teacher.items():
        assert student[name].data_ptr() == critic[name].data_ptr() == parameter.data_ptr()
    for learner in phase.learners.values():
        assert all("lora_" in name for name in learner.parameters)


def test_a_run_changes_nothing_but_adapters_and_goes_on_exactly(world, tmp_path):
    short = {"max_steps": 2, "save_every": 1}
    whole = recipe(world, "train-hpdmd", tmp_path / "whole", run=short)
    phase = Distillation(whole, one_process())
    before = {name: p.detach().clone() for name, p in phase.networks.student.named_parameters()}
    Trainer(whole, one_process(), phase).run()
    for name, parameter in phase.networks.student.named_parameters():
        assert torch.equal(parameter, before[name]) != ("lora_" in name), name
    for steps in (1, 2):
        run = short | {"max_steps": steps}
        cut = recipe(world, "train-hpdmd", tmp_path / "cut", run=run)
        Trainer(cut, one_process(), Distillation(cut, one_process())).run()
    newest = [checkpoints(tmp_path / run / "checkpoints")[-1] for run in ("whole", "cut")]
    expected, found = (whole_tensors(path, "") for path in newest)
    assert expected.keys() == found.keys()
    assert all("lora_" in name for name in found if not name.startswith("process."))
    assert any(name.startswith("student.ema.") for name in found)
    assert any(name.startswith("critic.optimizer.") for name in found)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """A finished run of stage 1 with adapters."""
    folder = tmp_path_factory.mktemp("trained")
    settings = recipe(world, "train-ode", folder, run={"max_steps": 2})
    Trainer(settings, one_process(), ODEInit(settings, one_process())).run()
    return folder


def test_the_merged_student_is_the_base_with_the_exported_lora_at_strength_one(
    world, trained, tmp_path
):
    merged, lora = tmp_path / "merged.safetensors", tmp_path / "lora.safetensors"
    assert main(["export", str(trained), "-o", str(merged)]) == 0
    assert main(["export", str(trained), "-o", str(lora), "--adapters-only"]) == 0
    base = load_file(world / "bf16.safetensors")
    found = load_file(merged)
    for name, expected in merge_lora(base, load_lora(lora), 1.0).items():
        assert found[name].dtype == torch.bfloat16
        assert torch.equal(found[name], expected), name
    assert not all(torch.equal(found[name], base[name]) for name in base)
    loaded = load_transformer(world / "bf16.safetensors", loras=[(lora, 1.0)])
    for name, parameter in load_transformer(merged).named_parameters():
        assert torch.equal(parameter, loaded.get_parameter(name))


def test_a_base_that_was_moved_can_be_named_and_another_is_refused(world, trained, tmp_path):
    target, moved = tmp_path / "x.safetensors", tmp_path / "moved.safetensors"
    with pytest.raises(CheckpointError, match=r"no such file.*--base"):
        export(trained, target, base=moved)
    moved.write_bytes((world / "bf16.safetensors").read_bytes())
    export(trained, target, base=moved)
    assert target.exists()
    with pytest.raises(CheckpointError, match=r"other content.*--base"):
        export(trained, tmp_path / "y.safetensors", base=world / "network.safetensors")


def test_a_run_does_not_go_on_upon_another_base(world, tmp_path):
    file = tmp_path / "base.safetensors"
    file.write_bytes((world / "bf16.safetensors").read_bytes())
    settings = recipe(
        world, "train-ode", tmp_path / "run", run={"max_steps": 1}, model={"student": str(file)}
    )
    Trainer(settings, one_process(), ODEInit(settings, one_process())).run()
    weights = {name: tensor * 2 for name, tensor in load_file(file).items()}
    save_file(weights, file, metadata=_metadata(world))
    with pytest.raises(CheckpointError, match="trained with another file"):
        Trainer(settings, one_process(), ODEInit(settings, one_process())).run()
    newest = checkpoints(tmp_path / "run/checkpoints")[-1]
    assert hashlib.sha256(file.read_bytes()).hexdigest() not in (newest / "state.json").read_text()


def test_a_run_for_the_sound_leaves_the_adapters_of_the_picture(world, tmp_path):
    settings = recipe(world, "train-ode", tmp_path, train={"audio_only": True})
    learner = ODEInit(settings, one_process()).learners["student"]
    assert all(name.startswith("audio_model.") for name in learner.parameters)
    assert any(name.startswith("video_model.") for name in learner.weights)


def test_adapters_beside_other_learning_or_on_shards_are_refused_in_one_line(
    world, tmp_path, capsys
):
    with pytest.raises(RecipeError, match="nothing else learns"):
        recipe(world, "train-ode", tmp_path, train={"partial": False})
    with pytest.raises(RecipeError, match=r"Unknown setting 'ranks'.*did you mean 'rank'"):
        recipe(world, "train-ode", tmp_path, adapters={"ranks": 1})
    with pytest.raises(RecipeError, match="rank from 1"):
        recipe(world, "train-ode", tmp_path, adapters={"rank": 0})
    processes = one_process()
    processes.sharded = True
    with pytest.raises(RecipeError, match=r"FSDP2 cannot cut.*parallel\.shard=no"):
        ODEInit(recipe(world, "train-ode", tmp_path), processes)
    run = tmp_path / "whole"
    whole = build(
        Recipe, recipe_values(world, "train-ode", run={"folder": str(run), "max_steps": 1})
    )
    Trainer(whole, one_process(), ODEInit(whole, one_process())).run()
    assert main(["export", str(run), "-o", str(tmp_path / "l.safetensors"), "--adapters-only"]) == 1
    assert "no adapters of student" in capsys.readouterr().err


def test_a_dry_run_counts_one_base_for_one_file_and_says_which_cards_hold_it(tmp_path, capsys):
    path = Path(__file__).parents[2] / "training/recipes/hpdmd_5b_lora.yaml"
    dry = ["train-hpdmd", "--config", str(path), "--dry-run", "--world", "1"]
    assert main(dry) == 0
    shared = capsys.readouterr().out
    assert "117,964,800 (1.0%)" in shared
    assert "base: 1 x frozen weights                        21.7" in shared
    assert "24: no, 48: no, 80: yes" in shared
    assert main([*dry, "model.student=models/other.safetensors"]) == 0
    assert "base: 2 x frozen weights                        43.4" in capsys.readouterr().out
    tiny = write_recipe(tmp_path / "r.yaml", recipe_values(tmp_path, "make-ode-pairs"))
    assert main(["make-ode-pairs", "--config", str(tiny), "--dry-run"]) == 0
