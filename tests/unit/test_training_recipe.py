"""Recipes: what is not known or cannot work is refused before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from training.config_reader import RecipeError, as_mapping, build, merge
from training.recipe import Recipe, load_recipe

from ..training_world import recipe_values, write_recipe

RECIPES = sorted((Path(__file__).parents[2] / "training/recipes").glob("*.yaml"))


def test_an_unknown_setting_is_refused_with_the_nearest_known_one(tmp_path):
    values = recipe_values(tmp_path, "train-ode", run={"max_stps": 3})
    with pytest.raises(RecipeError, match=r"'max_stps' in run.*did you mean 'max_steps'"):
        build(Recipe, values)


@pytest.mark.parametrize(
    ("group", "problem"),
    [
        ({"run": {"max_steps": "many"}}, "run.max_steps must be a whole number"),
        ({"run": {"max_steps": 2.5}}, "run.max_steps must be a whole number"),
        ({"run": {"cpu": 1}}, "run.cpu must be true or false"),
        ({"run": {"max_steps": 0}}, "must be at least 1"),
        ({"phase": "train-everything"}, "phase must be one of encode-prompts"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas must be 2 values"),
        ({"rollout": {"history_gradient": "both"}}, "must be one of detached"),
        ({"model": {"student": ""}}, "needs model.student"),
        ({"clip": {"video_latents": 3}}, "same whole number of blocks"),
        ({"run": {"log_to": ["paper"]}}, "Unknown log"),
        ({"rewards": {"judges": {"sync": "smell"}}}, "rewards.judges.sync must be one of video"),
        ({"data": 3}, "data must be a group of settings"),
        ({"schedule": {"steps": [250, 1000]}}, r"must fall within 1000\.\.0.*250, 1000"),
        ({"schedule": {"steps": [2000, 500]}}, "must fall within"),
        ({"schedule": {"steps": []}}, "no steps"),
        ({"schedule": {"shift": 0}}, "shift must be above 0"),
        ({"optimizer": {"lr": -1.0}}, "optimizer: Learning rates must be above 0"),
        ({"optimizer": {"betas": [0.0, 1.0]}}, "betas must lie in"),
        ({"ema": {"decay": 1.5}}, "An average decays by"),
        ({"weights": {"video": -1.0}}, "weights: .*must not be below 0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be above 0"),
        ({"blocks": {"video_latents": 2}}, "same whole number of blocks.*Fix: use multiples"),
    ],
)
def test_a_value_that_cannot_work_is_named_with_its_place(tmp_path, group, problem):
    values = recipe_values(tmp_path, "train-ode") | {}
    values = merge(values, group)
    with pytest.raises(Exception, match=problem):
        build(Recipe, values)


def test_overrides_lie_above_the_recipe_and_the_preset_below_it(tmp_path):
    values = recipe_values(tmp_path, "train-hpdmd", rollout={"recompute": False})
    path = write_recipe(tmp_path / "r.yaml", values | {"preset": "reference-5b"})
    recipe = load_recipe(path, ["run.max_steps=7", "optimizer.lr=3e-4"])
    assert recipe.run.max_steps == 7
    assert recipe.optimizer.lr == 3e-4
    assert recipe.rollout.history_gradient == "straight_through"
    assert recipe.rollout.recompute is False
    assert load_recipe(write_recipe(path, values)).rollout.history_gradient == "detached"


@pytest.mark.parametrize("word", ["no", "yes"])
def test_a_plain_no_means_the_word_where_a_word_is_wanted(tmp_path, word):
    path = write_recipe(tmp_path / "r.yaml", recipe_values(tmp_path, "train-ode"))
    assert load_recipe(path, [f"parallel.shard={word}"]).parallel.shard == word


def test_an_override_without_a_value_is_refused(tmp_path):
    path = write_recipe(tmp_path / "r.yaml", recipe_values(tmp_path, "train-ode"))
    with pytest.raises(RecipeError, match="key=value"):
        load_recipe(path, ["run.max_steps"])


def test_a_recipe_survives_being_written_down(tmp_path):
    recipe = build(Recipe, recipe_values(tmp_path, "train-hpdmd", rewards={"judges": {}}))
    assert build(Recipe, yaml.safe_load(yaml.safe_dump(as_mapping(recipe)))) == recipe


def test_a_missing_recipe_and_one_that_is_no_yaml_are_told_apart(tmp_path):
    with pytest.raises(RecipeError, match="There is no recipe"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(RecipeError, match="is not YAML"):
        load_recipe(tmp_path / "bad.yaml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_that_we_ship_can_be_read(path):
    assert load_recipe(path).phase
