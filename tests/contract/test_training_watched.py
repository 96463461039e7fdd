"""Samples and evaluation on two processes: all take part, and the run stays as it would be."""

from __future__ import annotations

import pytest

from ..training_world import PROMPTS, recipe_values, write_recipe, write_world
from .test_training_resume import assert_same, start, weights


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["yes", "no"])
def test_two_processes_make_samples_together_and_learn_the_same(tmp_path, tiny_models, shard):
    world = write_world(tmp_path)
    values = recipe_values(
        world,
        "train-hpdmd",
        run={"max_steps": 2},
        model={"decoders": str(tiny_models)},
        samples={"count": 3},
        parallel={"shard": shard},
    )
    recipe = write_recipe(tmp_path / "recipe.yaml", values)
    folders = [tmp_path / f"every{every}" for every in (0, 1)]
    for every, folder in enumerate(folders):
        command = ["train-hpdmd", "--config", str(recipe), f"run.folder={folder}"]
        assert start([*command, f"run.sample_every={every}"], count=2) == [0, 0]
    assert_same(*map(weights, folders))
    clips = (folders[1] / "samples").rglob("*.mp4")
    assert sorted(clip.name for clip in clips) == ["00.mp4"] * 2 + ["01.mp4"] * 2 + ["02.mp4"] * 2


@pytest.mark.slow
def test_two_processes_share_an_evaluation_in_which_a_student_fails(tmp_path, tiny_models):
    world = write_world(tmp_path)
    prompts = "".join(f'"{prompt}"\n' for prompt in PROMPTS[:3])
    (world / "prompts.csv").write_text(f"text_prompt\n{prompts}")
    (world / "damaged.safetensors").write_bytes(b"nothing")
    train = write_recipe(tmp_path / "t.yaml", recipe_values(world, "train-ode"))
    assert start(["train-ode", "--config", str(train), "run.max_steps=1"]) == [0]
    values = recipe_values(
        world,
        "evaluate",
        run={"folder": str(tmp_path / "out")},
        data={"prompts": str(world / "prompts.csv")},
        model={"decoders": str(tiny_models)},
    )
    recipe = write_recipe(tmp_path / "e.yaml", values)
    students = [str(world / name) for name in ("run", "damaged.safetensors", "network.safetensors")]
    assert start(["evaluate", *students, "--config", str(recipe)], count=2) == [0, 0]
    assert len(list((tmp_path / "out/clips").rglob("*.mp4"))) == 9
    assert len(list((tmp_path / "out/clips/damaged").iterdir())) == 3
    assert (tmp_path / "out/report.html").exists()
