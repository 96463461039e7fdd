"""`evaluate`: students side by side; nothing is made twice, and no failure stops the rest."""

from __future__ import annotations

import csv
import io

import pytest
import torch
from PIL import Image

from hallo_live_core.media.clip_reader import read_prompt
from hallo_live_core.rewards.base import Score
from training.cli import main
from training.config_reader import build
from training.data.embeddings import TEXT
from training.data.prompts import prompt_key
from training.data.shards import ShardWriter
from training.parallel import Processes
from training.phases import evaluate as phase
from training.phases.flow_matching import FlowMatching
from training.recipe import Recipe
from training.toy.world import TEXT_DIM
from training.trainer import Trainer

from ..training_world import PROMPTS, recipe_values, write_recipe, write_world

MARKUP = "<b>bold</b>"


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_models):
    root = write_world(tmp_path_factory.mktemp("world"))
    with ShardWriter(root / "text", worker=1) as writer:
        writer.add(
            prompt_key(MARKUP), {TEXT: torch.ones(2, TEXT_DIM).bfloat16()}, {"prompt": MARKUP}
        )
    run = {"max_steps": 2, "global_batch": 1, "folder": str(root / "a-run")}
    recipe = build(Recipe, recipe_values(root, "train-teacher", run=run))
    processes = Processes(recipe.parallel, cpu=True)
    Trainer(recipe, processes, FlowMatching(recipe, processes)).run()
    prompts = "".join(f'"{prompt}"\n' for prompt in (PROMPTS[0], MARKUP))
    (root / "prompts.csv").write_text(f"text_prompt\n{prompts}")
    return root


def recipe_of(world, tmp_path, tiny_models, **groups):
    values = recipe_values(
        world,
        "evaluate",
        run={"folder": str(tmp_path / "out")},
        data={"prompts": str(world / "prompts.csv")},
        model={"decoders": str(tiny_models)},
    )
    for name, group in groups.items():
        values[name] = values.get(name, {}) | group
    return write_recipe(tmp_path / "evaluate.yaml", values)


def rows(tmp_path):
    return list(csv.DictReader(io.StringIO((tmp_path / "out/scores.csv").read_text())))


def test_a_run_and_a_file_are_compared_and_finished_clips_stay(world, tmp_path, tiny_models):
    recipe = recipe_of(world, tmp_path, tiny_models, evaluation={"seeds": [1, 2]})
    command = ["evaluate", str(world / "a-run"), str(world / "network.safetensors")]
    assert main([*command, "--config", str(recipe)]) == 0
    clips = sorted((tmp_path / "out/clips").rglob("*.mp4"))
    students = {"a-run-step_00000002-ema", "a-run-step_00000002-raw", "network"}
    assert {clip.parent.name for clip in clips} == students and len(clips) == 12
    assert {read_prompt(clip) for clip in clips} == {PROMPTS[0], MARKUP}
    found = rows(tmp_path)
    assert {(row["student"], row["seed"]) for row in found} == {
        (student, seed) for student in students for seed in "12"
    }
    page = (tmp_path / "out/report.html").read_text()
    assert MARKUP not in page and "&lt;b&gt;bold&lt;/b&gt;" in page
    assert page.count("data:image/jpeg;base64,") == 12 * 3
    assert "video was not asked: model.judges names no folder" in page
    with Image.open(tmp_path / "out/contact_sheet.png") as sheet:
        assert sheet.width > 3 * 240
    assert not list((tmp_path / "out/students").iterdir())
    times = [clip.stat().st_mtime_ns for clip in clips[1:]]
    clips[0].unlink()
    assert main([*command, "--config", str(recipe)]) == 0
    assert clips[0].exists()
    assert [clip.stat().st_mtime_ns for clip in clips[1:]] == times


def test_one_failed_clip_and_one_damaged_student_leave_the_rest_and_a_reason(
    world, tmp_path, tiny_models, monkeypatch
):
    recipe = recipe_of(world, tmp_path, tiny_models)
    write = phase.write_clip

    def fail_once(target, *args, prompt, seed):
        if prompt == MARKUP:
            raise RuntimeError("out of <memory>")
        write(target, *args, prompt=prompt, seed=seed)

    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"nothing")
    command = ["evaluate", str(damaged), str(world / "network.safetensors")]
    with monkeypatch.context() as patch:
        patch.setattr(phase, "write_clip", fail_once)
        assert main([*command, "--config", str(recipe)]) == 0
    errors = {(row["student"], row["prompt"]): row["error"] for row in rows(tmp_path)}
    assert errors["network", PROMPTS[0]] == ""
    assert errors["network", MARKUP] == "out of <memory>"
    assert "damaged" in errors["damaged", PROMPTS[0]]
    assert "out of &lt;memory&gt;" in (tmp_path / "out/report.html").read_text()
    assert main([*command, "--config", str(recipe)]) == 0
    assert [row["error"] for row in rows(tmp_path) if row["student"] == "network"] == ["", ""]


class Fussy:
    """Cannot judge one prompt."""

    name = "fussy"

    def score(self, clip):
        if clip.prompt == MARKUP:
            raise RuntimeError("no opinion")
        return Score("fussy", 2.5)


def test_scores_of_judges_stand_in_table_and_page(world, tmp_path, tiny_models, monkeypatch):
    recipe = recipe_of(world, tmp_path, tiny_models)
    monkeypatch.setattr(phase, "open_panel", lambda *_: ([Fussy()], {}))
    assert main(["evaluate", str(world / "network.safetensors"), "--config", str(recipe)]) == 0
    first, second = rows(tmp_path)
    assert (first["fussy"], second["fussy"]) == ("2.5", "")
    assert second["fussy reasons"] == "no opinion"
    assert "<td class=n>2.50<td class=n>1" in (tmp_path / "out/report.html").read_text()


def test_what_cannot_be_compared_is_one_line(world, tmp_path, tiny_models, capsys):
    recipe = recipe_of(world, tmp_path, tiny_models)
    student = str(world / "network.safetensors")

    def refused(*arguments):
        assert main(["evaluate", *arguments, "--config", str(recipe)]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    assert "needs students" in refused()
    assert "There is no student" in refused(str(tmp_path / "nowhere"))
    assert "holds no checkpoint" in refused(str(world))
    assert "needs data.prompts" in refused(student, "data.prompts=''")
    assert "missing" in refused(student, f"model.decoders={tmp_path}")
    assert main(["evaluate", student, "--config", str(recipe)]) == 0
    capsys.readouterr()
    assert "different: clip" in refused(student, "clip.width=2")
