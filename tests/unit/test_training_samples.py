"""Samples of a run: they show what the student makes, and change nothing of the run."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from hallo_live_core.devices import Placement
from hallo_live_core.engine import HalloLive
from hallo_live_core.errors import CheckpointError
from hallo_live_core.functional.request import plan_request
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.media.clip_reader import read_clip, read_prompt
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.types import Request, TextContext
from training.checkpointing import checkpoints, load
from training.cli import main
from training.clips import student_clip
from training.config_reader import RecipeError, build
from training.parallel import Processes
from training.phases.batches import clip_shape
from training.phases.flow_matching import FlowMatching
from training.recipe import Recipe
from training.rollout import RolloutShape
from training.samples import STREAMS, open_observer

from ..training_world import CONFIG, PROMPTS, recipe_values, write_recipe, write_world

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def train(world, folder, phase: str, tiny_models, *, every: int):
    values = recipe_values(
        world,
        phase,
        run={"folder": str(folder), "sample_every": every, "max_steps": 2, "global_batch": 2},
        data={"held_out": str(world / "pairs") if phase == "train-ode" else ""},
        model={"decoders": str(tiny_models)},
        samples={"count": 2, "held_out": 2},
        ema={"start_step": 2},
    )
    recipe = write_recipe(folder.with_suffix(".yaml"), values)
    assert main([phase, "--config", str(recipe)]) == 0
    newest = checkpoints(folder / "checkpoints")[-1]
    return load(newest, Processes(build(Recipe, values).parallel, cpu=True)).tensors


@pytest.mark.parametrize("phase", ["train-ode", "train-hpdmd"])
def test_samples_leave_every_number_of_the_run_as_it_would_be(world, tmp_path, tiny_models, phase):
    without = train(world, tmp_path / "without", phase, tiny_models, every=0)
    watched = train(world, tmp_path / "watched", phase, tiny_models, every=1)
    assert without.keys() == watched.keys()
    assert any(name.startswith("student.ema.") for name in watched)
    for name, tensor in without.items():
        assert torch.equal(tensor, watched[name]), name
    assert not (tmp_path / "without/samples").exists()
    clips = sorted((tmp_path / "watched/samples").rglob("*"))
    steps = ("step_00000001", "step_00000002")
    assert [f"{c.parent.name}/{c.name}" for c in clips if c.is_file()] == [
        f"{step}/{number}.mp4" for step in steps for number in ("00", "01")
    ]
    assert read_clip(clips[1]).frames.shape == (5, 32, 64, 3)
    assert {read_prompt(clip) for clip in clips if clip.is_file()} <= set(PROMPTS)


def test_the_log_has_held_out_errors_of_stage_1_by_step_index(world, tmp_path, tiny_models):
    train(world, tmp_path / "run", "train-ode", tiny_models, every=1)
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    looks = [row for row in rows if "samples/seconds" in row]
    assert [row["step"] for row in looks] == [1, 2]
    assert [row["samples/average"] for row in looks] == [0.0, 1.0]
    errors = [looks[0][f"held_out/video_loss/{k}"] for k in range(4)]
    assert len(set(errors)) == 4 and all(error > 0 for error in errors)
    assert looks[0]["held_out/audio_loss/0"] != looks[1]["held_out/audio_loss/0"]


def test_without_decoders_samples_are_latents_and_missing_ones_are_refused(world, tmp_path):
    values = recipe_values(
        world,
        "train-teacher",
        run={"folder": str(tmp_path / "run"), "sample_every": 1, "max_steps": 1, "global_batch": 1},
        sampling={"num_steps": 5, "skip_layer": None},
        samples={"count": 1},
    )
    path = write_recipe(tmp_path / "r.yaml", values)
    assert main(["train-teacher", "--config", str(path)]) == 0
    assert [p.name for p in (tmp_path / "run/samples").rglob("*.*")] == ["00.safetensors"]
    values["model"]["decoders"] = str(tmp_path)
    recipe = build(Recipe, values)
    processes = Processes(recipe.parallel, cpu=True)
    with pytest.raises(CheckpointError, match="missing"):
        open_observer(recipe, processes, FlowMatching(recipe, processes))


@pytest.mark.parametrize("group", [{"run": {"sample_every": -1}}, {"samples": {"count": 0}}])
def test_counts_below_what_can_be_are_refused(tmp_path, group):
    with pytest.raises(RecipeError):
        build(Recipe, recipe_values(tmp_path, "train-ode", **group))


def test_held_out_pairs_are_refused_where_nothing_is_measured_by_them(tmp_path):
    with pytest.raises(RecipeError, match="measures train-ode only"):
        build(Recipe, recipe_values(tmp_path, "train-hpdmd", data={"held_out": "pairs"}))


def test_a_seed_gives_what_users_of_the_student_get_from_it():
    network = DualStreamDiT(CONFIG, device=CPU).requires_grad_(False).eval()
    request = Request(prompt="", seconds=1.0, height=32, width=64, seed=5)
    engine = HalloLive(transformer=network, placement=Placement.on(CPU))
    rows = torch.randn(1, 3, CONFIG.video.text_dim, generator=torch.Generator().manual_seed(1))
    text = TextContext.shared(rows)
    blocks = list(engine.sample(request, text=text))
    expected = [torch.cat([getattr(block, name) for block in blocks], dim=1) for name in STREAMS]
    recipe = SimpleNamespace(
        plan=plan_request(request, engine.settings), clip=SimpleNamespace(height=2, width=4)
    )
    schedule = NoiseSchedule(engine.settings.schedule)
    shape = RolloutShape(clip_shape(recipe, network, 1), schedule)
    for found, wanted in zip(student_clip(network, text, shape, 5, CPU), expected, strict=True):
        assert torch.equal(found, wanted)
