from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import load_file

from hallo_live_core.cli import build_parser, main

ROOT = Path(__file__).parents[2]
PROMPT = "A woman says, <S>Hello.<E>"


@pytest.fixture
def generate(tiny_models, tmp_path):
    def run(*arguments) -> int:
        shared = ("--models", str(tiny_models), "--device", "cpu", "--size", "32x64")
        return main(["generate", *shared, "-o", str(tmp_path), *map(str, arguments)])

    return run


def lengths(file: Path) -> tuple[int, int]:
    """Frames and samples that a file decodes to."""
    with av.open(str(file)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    with av.open(str(file)) as container:
        return frames, sum(f.samples for f in container.decode(audio=0))


def test_a_prompt_becomes_a_file_and_a_table(generate, tmp_path, capsys):
    assert generate(PROMPT, "--seconds", 1, "-o", tmp_path / "clip.mp4") == 0
    assert lengths(tmp_path / "clip.mp4") == (21, 14_000)
    shown = capsys.readouterr()
    assert "time to first frame" in shown.out
    assert "21 frames, 14000 samples" in shown.out
    assert "block 1/1" in shown.err


def test_two_devices_make_one_clip(generate, tmp_path):
    shared = ("--split", "sequence", "--device", "cpu,cpu:1")
    assert generate(PROMPT, "--seconds", 1, *shared, "-o", tmp_path / "clip.mp4") == 0
    assert lengths(tmp_path / "clip.mp4") == (21, 14_000)


def test_a_folder_as_output_names_the_file_after_prompt_size_and_seed(generate, tmp_path):
    assert generate(PROMPT, "--seconds", 1, "--seed", 7) == 0
    (file,) = tmp_path.glob("*.mp4")
    assert file.name.startswith("A_woman_says")
    assert file.name.endswith("_32x64_7.mp4")


def test_settings_are_stored_in_the_file(generate, tmp_path):
    generate(PROMPT, "--seconds", 1, "--seed", 9, "--lookahead", 5, "-o", tmp_path / "c.mp4")
    with av.open(str(tmp_path / "c.mp4")) as container:
        assert container.metadata["title"] == PROMPT
        assert "seed=9" in container.metadata["comment"]
        assert "lookahead=5" in container.metadata["comment"]


def test_a_list_of_prompts_goes_on_after_a_failed_one(generate, tmp_path, capsys):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("id,text_prompt\n1,One <S>a<E>\n2,Two <S>broken\n3,Three <S>c<E>\n")
    assert generate("--csv", prompts, "--seconds", 1) == 1
    assert sorted(f.name[:3] for f in tmp_path.glob("*.mp4")) == ["One", "Thr"]
    shown = capsys.readouterr()
    assert "2 of 3 clips made" in shown.out
    assert "error: clip 2/3: " in shown.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "either a PROMPT or --csv"),
        ([PROMPT, "--csv", "x.csv"], "either a PROMPT or --csv"),
        (["--csv", "x.csv", "--live", "-"], "either --csv or --live"),
        ([PROMPT, "--live", "/nowhere/x.mp4"], "Cannot write /nowhere/x.mp4"),
        (["--csv", "missing.csv"], "Cannot read prompts"),
        ([PROMPT, "--device", "cuda:9"], "cuda:9 does not exist"),
        ([PROMPT, "--device", "toaster"], "Unknown device"),
        ([PROMPT, "--device", "cpu,cpu:1"], "add --split sequence"),
        ([PROMPT, "--split", "sequence"], "two or more different devices"),
        ([PROMPT, "--split", "sequence", "--device", "cpu,cpu"], "Found: cpu, cpu."),
        (["He says <S>hello"], "<S>"),
        ([PROMPT, "--size", "30x64"], "multiple of 32"),
        ([PROMPT, "-o", "-"], "use --live -"),
        ([PROMPT, "-o", "clip.mkv"], "Clips are MP4 files. Found: -o clip.mkv"),
    ],
)
def test_bad_input_is_one_line_and_no_file(generate, tmp_path, capsys, arguments, words):
    assert generate(*arguments) == 1
    message = capsys.readouterr().err.strip()
    assert words in message and "\n" not in message
    assert not list(tmp_path.glob("*.mp4"))


def test_a_bad_prompt_is_refused_before_any_file_is_read(tmp_path, capsys):
    assert main(["generate", "<S>hello", "--models", str(tmp_path), "--device", "cpu"]) == 1
    assert "<S>" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("folder.mp4", "a folder of that name"),
        ("file/clip.mp4", "file is no folder"),
        ("link.mp4", "is a link"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_any_file_is_read(
    tmp_path, capsys, output, words
):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "other.mp4")
    no_models = ("--models", str(tmp_path), "--device", "cpu")
    assert main(["generate", PROMPT, *no_models, "-o", str(tmp_path / output)]) == 1
    message = capsys.readouterr().err
    assert words in message and "Model files" not in message


def test_a_list_without_prompts_says_so(generate, tmp_path, capsys):
    (tmp_path / "prompts.csv").write_text("text_prompt\n")
    assert generate("--csv", tmp_path / "prompts.csv") == 1
    assert "has no prompts" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["budget", "--vram", "nan"],
        ["budget", "--vram", "-1"],
        ["serve", "--models", "m", "--port", "99999"],
    ],
)
def test_numbers_that_make_no_sense_are_a_wrong_call(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert f"{arguments[-1]} is no " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "stopped\n"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device\n"),
    ],
)
def test_what_a_user_or_the_system_does_is_one_line(monkeypatch, capsys, raised, status, words):
    def run(_options):
        raise raised

    monkeypatch.setattr("hallo_live_core.cli.budget.run", run)
    assert main(["budget"]) == status
    assert capsys.readouterr().err == words


def test_a_reader_that_leaves_is_no_traceback():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "hallo_live_core", "budget"]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_window_that_attention_cannot_see_is_refused_before_any_file_is_read(tmp_path, capsys):
    no_models = ("--models", str(tmp_path), "--device", "cpu")
    assert main(["generate", PROMPT, *no_models, "--seconds", "60", "--window", "12"]) == 1
    assert "remember at most 11 blocks" in capsys.readouterr().err


def test_a_list_may_be_separated_by_tabs(generate, tmp_path):
    prompts = tmp_path / "prompts.tsv"
    prompts.write_text("text_prompt\tnote\nOne <S>a, b<E>\tx\n")
    assert generate("--csv", prompts, "--seconds", "1") == 0


def test_a_list_without_the_column_says_which_columns_there_are(generate, tmp_path, capsys):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt\nhello\n")
    assert generate("--csv", prompts) == 1
    assert "no column text_prompt. Found: prompt." in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_made(tiny_models, tmp_path):
    command = [sys.executable, "-m", "hallo_live_core", "generate", PROMPT]
    options = ["--size", "128x128", "--seconds", "30", "--device", "cpu"]
    files = ["--models", str(tiny_models), "-o", str(tmp_path / "clip.mp4")]
    process = subprocess.Popen(
        [*command, *options, *files], cwd=ROOT, stderr=subprocess.PIPE, env=dict(os.environ)
    )
    growing = tmp_path / "clip.partial.mp4"
    deadline = time.monotonic() + 60
    while not (growing.exists() and growing.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.decode().splitlines()[-1].startswith("stopped; kept")
    frames, samples = lengths(tmp_path / "clip.mp4")
    assert 0 < frames < 30 * 24
    assert samples == round(frames * 16_000 / 24)
    assert not growing.exists()


def test_convert_writes_a_student_that_generates_the_same_clip(generate, tiny_models, tmp_path):
    target = tmp_path / "models" / "hallolive_dit.safetensors"
    target.parent.mkdir()
    assert main(["convert", str(tiny_models / "hallolive_dit.pt"), str(target)]) == 0
    assert {t.dtype for t in load_file(target).values()} == {torch.bfloat16}
    for file in tiny_models.iterdir():
        if file.name != "hallolive_dit.pt":
            (target.parent / file.name).symlink_to(file)
    assert generate(PROMPT, "--seconds", 1, "-o", tmp_path / "a.mp4") == 0
    again = ("--models", target.parent, "-o", tmp_path / "b.mp4")
    assert generate(PROMPT, "--seconds", 1, *again) == 0
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_tiny_models_are_the_same_bytes_for_the_same_seed(tiny_models, tmp_path):
    assert main(["make-tiny", str(tmp_path)]) == 0
    written = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert written == sorted(
        p.relative_to(tiny_models) for p in tiny_models.rglob("*") if p.is_file()
    )
    different = [
        p for p in written if (tmp_path / p).read_bytes() != (tiny_models / p).read_bytes()
    ]
    assert not different
    assert sum((tmp_path / p).stat().st_size for p in written) < 12e6


def test_every_option_of_every_command_has_help():
    commands = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    silent = [
        f"{name} {action.dest}"
        for name, parser in commands.choices.items()
        for action in parser._actions
        if not action.help
    ]
    assert silent == []
