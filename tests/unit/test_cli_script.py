import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest

from hallo_live_core.cli import main
from hallo_live_core.cli.script import listen, read_script
from hallo_live_core.errors import RequestError
from hallo_live_core.live.lines import Lines

ROOT = Path(__file__).parents[2]
PROMPT = "A woman says, <S>Hello.<E>"


def write(folder: Path, text: str) -> Path:
    file = folder / "lines.csv"
    file.write_text(text, encoding="utf-8")
    return file


def num_frames(file: Path) -> int:
    with av.open(str(file)) as container:
        return sum(1 for _ in container.decode(video=0))


# -- files ------------------------------------------------------------------------------------


def test_a_script_has_prompts_or_words_that_are_said_in_the_scene_before(tmp_path):
    file = write(tmp_path, 'prompt,speech,seconds\nA man.,"Hi, you.",2\n,Bye.,1.5\nA cat.,,\n')
    script = read_script(file)
    assert [line.said for line in script.lines] == [
        "A man. <S>Hi, you.<E>",
        "A man. <S>Bye.<E>",
        "A cat.",
    ]
    assert [line.seconds for line in script.lines] == [2, 1.5, None]


def test_words_alone_are_said_in_the_scene_of_the_command(tmp_path):
    script = read_script(write(tmp_path, "speech,seconds\nBye.,2\n"), PROMPT)
    assert script.first == "A woman says, <S>Bye.<E>"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no columns"),
        ("text,seconds\na,1\n", "found text, seconds|text, seconds"),
        ("seconds\n1\n", "not a script"),
        ("prompt,seconds\n", "1 to 1000 lines"),
        ("prompt,seconds\na,1\nb,soon\n", "line 3: The seconds are not a number"),
        ("prompt,seconds\na,-1\n", "line 2: A line must last"),
        ("prompt,seconds\na,nan\n", "line 2: A line must last"),
        ("prompt,seconds\na,\nb,2\n", "line 1 has no seconds"),
        ("prompt,seconds\n,2\n", "line 2: The line has neither"),
        ("prompt,seconds\na,1,2\n", "line 2: The line has not as many"),
        ("prompt,seconds\na\n", "line 2: The line has not as many"),
        ("prompt,seconds\n<S>a,1\n", "line 2: .*<S>"),
        ("speech,seconds\nHi,1\n", "line 2: There is no scene"),
        ('prompt,seconds\n"a,1\n', "Cannot read"),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path, text, words):
    with pytest.raises(RequestError, match=words) as caught:
        read_script(write(tmp_path, text))
    assert "lines.csv" in str(caught.value)


def test_a_script_that_is_no_text_or_not_there_is_refused(tmp_path):
    (tmp_path / "lines.csv").write_bytes(b"prompt\n\xff\xfe\n")
    for name in ("lines.csv", "missing.csv"):
        with pytest.raises(RequestError, match="Cannot read the script"):
            read_script(tmp_path / name)


# -- standard input ---------------------------------------------------------------------------


def test_lines_on_standard_input_are_said_and_wrong_ones_told(capsys):
    lines = Lines(PROMPT)
    listen(io.StringIO("Tea?\n\n<S>open\n  Coffee!  \n"), lines)
    assert lines.num_waiting == 2
    assert lines(1) == "A woman says, <S>Tea?<E>"
    assert "not said: " in capsys.readouterr().err


# -- the command ------------------------------------------------------------------------------


@pytest.fixture
def options(tiny_models, tmp_path):
    shared = ["--models", str(tiny_models), "--device", "cpu", "--size", "32x64"]
    return [*shared, "-o", str(tmp_path / "clip.mp4")]


def test_a_script_gives_the_clip_its_length(options, tmp_path):
    script = write(tmp_path, "prompt,seconds\nA man.,1\nA cat.,1\n")
    assert (
        main(["generate", "--script", str(script), *options, "--window", "1", "--sink", "0"]) == 0
    )
    assert num_frames(tmp_path / "clip.mp4") == 45


@pytest.mark.parametrize("more", [["--seconds", "0"], ["--say"]])
def test_a_list_of_clips_has_an_end_and_is_not_talked_to(options, tmp_path, capsys, more):
    (tmp_path / "prompts.csv").write_text("text_prompt\na\n")
    out = ["--csv", str(tmp_path / "prompts.csv"), *options[:-1], str(tmp_path)]
    assert main(["generate", *out, *more]) != 0
    assert "need a single prompt" in capsys.readouterr().err


def test_a_stream_without_end_says_what_it_is_told_and_ends_whole_with_ctrl_c(options, tmp_path):
    live = ["--live", str(tmp_path / "live.mp4"), "--window", "2"]
    command = [sys.executable, "-m", "hallo_live_core", "generate", PROMPT, *options, *live]
    process = subprocess.Popen(
        [*command, "--seconds", "0", "--say"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    process.stdin.write(b"Tea?\n<S>wrong\n")
    process.stdin.flush()
    waited = time.monotonic() + 100
    while _size(tmp_path / "live.mp4") < 30_000 and time.monotonic() < waited:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert b"not said: " in errors and b"block 1," in errors
    frames = num_frames(tmp_path / "clip.mp4")
    assert frames >= 21 and (frames + 3) % 24 == 0
    assert b"clip" in out


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
