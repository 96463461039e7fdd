"""Rewards from decoded rollouts: judges see what a user would, and absent ones stop a run early."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from hallo_live_core.errors import CheckpointError
from hallo_live_core.rewards.base import Score
from training.config_reader import RecipeError, build
from training.judging import DecodingJudge, load_decoders, open_judges
from training.parallel import Processes
from training.phases.ode_init import ODEInit
from training.recipe import Recipe
from training.trainer import Trainer
from training.types import Latents

from ..training_world import recipe_values, write_world

CPU = torch.device("cpu")


class NoteTaker:
    """Likes the second clip and cannot judge the first."""

    def __init__(self):
        self.clips = []

    def score(self, clip):
        self.clips.append(clip)
        return Score("notes", None if len(self.clips) == 1 else 2.0)


def test_judges_see_whole_decoded_clips_with_their_prompts(tiny_models):
    notes = NoteTaker()
    judge = DecodingJudge(load_decoders(tiny_models, CPU), {"sync": notes})
    generator = torch.Generator().manual_seed(1)
    clips = Latents(
        torch.randn(2, 2, 48, 2, 2, generator=generator),
        torch.randn(2, 10, 20, generator=generator),
    )
    scores = judge.score(clips, ["one", "two"])["sync"]
    assert math.isnan(scores[0]) and scores[1] == 2.0
    assert [clip.prompt for clip in notes.clips] == ["one", "two"]
    first, second = notes.clips
    assert first.frames.shape == (5, 32, 32, 3)
    assert first.samples.shape == (1, round(5 * 16_000 / 24))
    assert not torch.equal(first.frames, second.frames)


@pytest.mark.parametrize(
    ("rewards", "model", "error", "problem"),
    [
        ({"judges": {"taste": "both"}}, {}, RecipeError, "no such judge.*taste"),
        ({"judges": {}}, {}, RecipeError, "name no judge"),
        ({"judges": {"sync": "both"}}, {}, RecipeError, r"model\.decoders and model\.judges"),
    ],
)
def test_rewards_that_nobody_can_give_are_refused(tmp_path, rewards, model, error, problem):
    values = recipe_values(tmp_path, "train-hpdmd", rewards=rewards, model=model)
    with pytest.raises(error, match=problem):
        open_judges(build(Recipe, values), SimpleNamespace(device=CPU))


def test_judges_whose_files_are_missing_are_named_before_the_run(tmp_path, tiny_models):
    folders = {"decoders": str(tiny_models), "judges": str(tmp_path)}
    values = recipe_values(
        tmp_path, "train-hpdmd", rewards={"judges": {"sync": "both"}}, model=folders
    )
    with pytest.raises(CheckpointError, match="Files of judges are missing"):
        open_judges(build(Recipe, values), SimpleNamespace(device=CPU))
    assert open_judges(build(Recipe, recipe_values(tmp_path, "train-hpdmd")), None) is None


def test_a_run_writes_the_same_prompts_every_few_steps_without_changing_its_course(
    tmp_path, tiny_models
):
    world, ends = write_world(tmp_path), []
    for every in (0, 2):
        values = recipe_values(
            world,
            "train-ode",
            run={"folder": str(tmp_path / f"run{every}"), "sample_every": every, "samples": 1},
            model={"decoders": str(tiny_models)},
        )
        recipe = build(Recipe, values)
        processes = Processes(recipe.parallel, cpu=True)
        phase = ODEInit(recipe, processes)
        Trainer(recipe, processes, phase).run()
        ends.append(phase.learners["student"].parameters)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.mp4"))
    steps = ("step_00000002", "step_00000004")
    assert [str(path) for path in made] == [f"run2/samples/{step}/000.mp4" for step in steps]
    for name, parameter in ends[0].items():
        assert torch.equal(parameter, ends[1][name]), name


def test_samples_without_decoders_are_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"model\.decoders"):
        build(Recipe, recipe_values(tmp_path, "train-ode", run={"sample_every": 1}))
