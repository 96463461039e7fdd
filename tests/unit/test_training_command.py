"""`python -m training`: errors are one line, a dry run computes what spec 06 says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.cli import main, read_arguments
from training.toy.curves import read_curve

from ..training_world import PROMPTS, recipe_values, write_recipe, write_world

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


def test_a_teacher_in_main_memory_takes_none_of_the_gpus(capsys):
    command = ["train-hpdmd", "--config", str(RECIPES / "hpdmd_5b.yaml"), "--dry-run"]
    assert main(command) == 0
    assert "teacher: weights" in capsys.readouterr().out
    assert main([*command, "parallel.frozen_on_host=true"]) == 0
    assert "teacher" not in capsys.readouterr().out


def test_a_dry_run_needs_no_files_and_makes_none(tmp_path, capsys):
    recipe = write_recipe(tmp_path / "r.yaml", recipe_values(tmp_path, "make-ode-pairs"))
    assert main(["make-ode-pairs", "--config", str(recipe), "--dry-run"]) == 0
    assert "teacher: weights" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]


def test_a_dry_run_says_when_it_has_to_assume_the_published_size(tmp_path, capsys):
    recipe = write_recipe(tmp_path / "r.yaml", recipe_values(tmp_path, "train-ode"))
    assert main(["train-ode", "--config", str(recipe), "--dry-run"]) == 0
    assert "no such file: the published size is assumed" in capsys.readouterr().out


def test_a_dry_run_of_encode_prompts_is_about_the_text_encoder(capsys):
    recipe = str(RECIPES / "encode_prompts.yaml")
    assert main(["encode-prompts", "--config", recipe, "--dry-run"]) == 0
    found = numbers(capsys.readouterr().out)
    assert found["text encoder: weights"] == pytest.approx(10.6, abs=0.1)  # 5.68 billion in bf16


def test_a_dry_run_of_evaluate_takes_the_size_of_its_first_student(tmp_path, capsys):
    world = write_world(tmp_path)
    recipe, student = str(RECIPES / "evaluate.yaml"), str(world / "larger.safetensors")
    assert main(["evaluate", student, "--config", recipe, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "2 layers, widths 16" in text and "decoders and judges come on top" in text


@pytest.mark.parametrize("first", [True, False])
def test_settings_may_stand_before_and_behind_the_recipe(first):
    given = ["a.safetensors", "run.cpu=true"]
    line = [*given, "--config", "R"] if first else ["a.safetensors", "--config", "R", given[1]]
    assert read_arguments(["evaluate", *line]).arguments == given


def test_an_unknown_option_is_refused(capsys):
    with pytest.raises(SystemExit):
        read_arguments(["train-ode", "--config", "R", "--fast"])
    assert "unrecognized arguments: --fast" in capsys.readouterr().err


def test_a_phase_that_writes_data_says_how_much_it_has_written(tmp_path, capsys):
    world, again = write_world(tmp_path), 0
    sampling = {"num_steps": 9, "skip_layer": None}
    groups = {"data": {"pairs": str(tmp_path / "made")}, "sampling": sampling}
    recipe = write_recipe(tmp_path / "r.yaml", recipe_values(world, "make-ode-pairs", **groups))
    for expected in (len(PROMPTS), again):
        assert main(["make-ode-pairs", "--config", str(recipe)]) == 0
        assert capsys.readouterr().out == f"{expected} trajectories written to {tmp_path}/made\n"


@pytest.mark.parametrize("phase", ["train-ode", "make-ode-pairs"])
def test_a_folder_that_cannot_be_written_to_is_one_line_before_any_work(tmp_path, capsys, phase):
    world, file = write_world(tmp_path), tmp_path / "file"
    file.write_text("in the way")
    groups = {"run": {"folder": str(file)}} if phase == "train-ode" else {}
    values = recipe_values(world, phase, **groups)
    if phase == "make-ode-pairs":
        values["data"]["pairs"] = str(file / "pairs")
    assert main([phase, "--config", str(write_recipe(tmp_path / "r.yaml", values))]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "cannot" in error and str(file) in error


def test_curves_show_the_latest_value_of_a_step_that_was_repeated(tmp_path):
    lines = [{"step": 1, "x": 4.0}, {"step": 2, "x": 9.0}, {"step": 2, "x": 2.0}, {"step": 3}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_curve(tmp_path, "x") == ([1, 2], [4.0, 3.0])
