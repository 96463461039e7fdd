"""Rewards from decoded rollouts: judges see what a user would, and absent ones stop a run early."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from hallo_live_core.errors import CheckpointError
from hallo_live_core.rewards.base import Score
from training.clips import load_decoders
from training.config_reader import RecipeError, build
from training.judging import DecodingJudge, open_judges
from training.recipe import Recipe
from training.types import Latents

from ..training_world import recipe_values

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


def test_judges_of_trajectories_are_opened_by_the_same_rules(tmp_path):
    values = recipe_values(tmp_path, "make-ode-pairs", pairs={"judges": ["taste"]})
    with pytest.raises(RecipeError, match=r"no such judge.*taste.*pairs\.judges"):
        open_judges(build(Recipe, values), SimpleNamespace(device=CPU))
    assert open_judges(build(Recipe, recipe_values(tmp_path, "make-ode-pairs")), None) is None
