"""`python -m training`: errors are one line, a dry run computes what spec 06 says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.cli import main
from training.toy.curves import read_curve

from ..training_world import recipe_values, write_recipe

RECIPES = Path(__file__).parents[2] / "training/recipes"
GB = 1e9
GIB = 2**30


def test_a_recipe_of_another_phase_is_one_line_with_the_right_command(tmp_path, capsys):
    recipe = write_recipe(tmp_path / "r.yaml", recipe_values(tmp_path, "train-ode"))
    assert main(["train-hpdmd", "--config", str(recipe)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"python -m training train-ode --config {recipe}" in error


def test_a_missing_network_is_one_line(tmp_path, capsys):
    recipe = write_recipe(tmp_path / "r.yaml", recipe_values(tmp_path, "train-ode"))
    assert main(["train-ode", "--config", str(recipe)]) == 1
    assert "There is no file" in capsys.readouterr().err


def numbers(text: str) -> dict[str, float]:
    lines = [line.rsplit(None, 1) for line in text.splitlines() if line.startswith("  ")]
    return {name.strip(): float(value) for name, value in lines}


def test_a_dry_run_of_the_published_size_agrees_with_the_arithmetic_of_the_specification(capsys):
    recipe = str(RECIPES / "hpdmd_5b.yaml")
    assert main(["train-hpdmd", "--config", recipe, "--dry-run", "--world", "8"]) == 0
    text = capsys.readouterr().out
    assert "11,660,753,108" in text
    assert "5,665,443,840 (48.6%)" in text
    found = numbers(text)
    for name, gigabytes in (("weights, float32", 5.8), ("gradients, float32", 2.8)):
        assert found[f"student: {name}"] * GIB / GB == pytest.approx(gigabytes, abs=0.06)
    assert found["critic: moments of AdamW"] * GIB / GB == pytest.approx(5.7, abs=0.06)
    assert main(["train-hpdmd", "--config", recipe, "--dry-run", "--world", "32"]) == 0
    wider = capsys.readouterr().out
    assert "cannot be divided" in wider
    assert numbers(wider)["together"] < found["together"]


def test_a_dry_run_needs_no_files_and_makes_none(tmp_path, capsys):
    recipe = write_recipe(tmp_path / "r.yaml", recipe_values(tmp_path, "make-ode-pairs"))
    assert main(["make-ode-pairs", "--config", str(recipe), "--dry-run"]) == 0
    assert "teacher: weights" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]


def test_curves_show_the_latest_value_of_a_step_that_was_repeated(tmp_path):
    lines = [{"step": 1, "x": 4.0}, {"step": 2, "x": 9.0}, {"step": 2, "x": 2.0}, {"step": 3}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_curve(tmp_path, "x") == ([1, 2], [4.0, 3.0])
