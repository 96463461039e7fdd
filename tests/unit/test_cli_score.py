"""`hallo-live score` on real files of all kinds, with tiny judges."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from hallo_live_core.checkpoints.tiny_judges import write_tiny_judges
from hallo_live_core.cli import main

from ..made_clips import write_clip

PROMPT = "A woman says, <S>Hello.<E>"


@pytest.fixture(scope="module")
def judges(tmp_path_factory) -> Path:
    return write_tiny_judges(tmp_path_factory.mktemp("judges"))


@pytest.fixture
def score(judges, capsys) -> Callable[..., str]:
    """What the command prints, with the exit code it must have."""

    def run(*arguments, code: int = 0) -> str:
        command = ["score", *map(str, arguments), "--models", str(judges), "--device", "cpu"]
        assert main(command) == code
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", title=PROMPT)


def test_a_clip_becomes_a_table_with_verdicts_and_the_sources_of_its_scales(score, clip):
    table = score(clip)
    for name in ("confidence", "offset", "CE", "CU", "PQ", "VQ", "MQ", "TA"):
        (line,) = [row for row in table.splitlines() if row.split()[0] == name]
        assert line.split()[-1] in {"good", "doubtful", "bad"}
    assert "scale of confidence: real speech" in table


def test_only_the_judges_that_are_asked_answer(score, clip):
    table = score(clip, "--judges", "audio")
    assert "CE" in table and "confidence" not in table and "VQ" not in table


def test_json_holds_everything_and_only_plain_values(score, clip):
    (sync,) = [json.loads(score(clip, "--json"))["judges"]["sync"]]
    assert {part["name"] for part in sync["components"]} == {"confidence", "offset", "distance"}
    assert sync["verdict"] in {"good", "doubtful", "bad"}
    (face,) = sync["details"]["faces"]
    assert len(face["boxes"]) == 55 and len(face["curve"]["distances"]) == 31
    assert sync["components"][0]["scale"]["source"]


def test_the_prompt_is_the_one_that_generate_stored_unless_another_is_given(score, clip):
    assert json.loads(score(clip, "--json", "--judges", "audio"))["prompt"] == PROMPT
    given = score(clip, "--json", "--judges", "audio", "--prompt", "A man.")
    assert json.loads(given)["prompt"] == "A man."


# -- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"rate": None}, "sync: the clip has no sound"),
        ({"rate": None}, "audio: the clip has no sound"),
        ({"rate": 44_100}, "audio: sound was resampled from 44100 to 16000 Hz"),
        ({"layout": "stereo"}, "audio: 2 channels were averaged"),
        ({"fps": 15, "frames": 35}, "sync: picture was re-timed from 15 to 25 fps"),
        ({"fps": 60, "frames": 130}, "sync: picture was re-timed from 60 to 25 fps"),
        ({"frames": 1}, "sync: too short: 0.04 s, needed 2.04 s"),
        ({"frames": 1}, "video: a single picture has no motion to judge"),
        ({"frames": 20}, "sync: too short: 0.80 s, needed 2.04 s"),
        ({"size": (64, 64)}, "sync: frames of 64x64 are too small"),
        ({}, "video: without a prompt the alignment with it (TA) is left out"),
    ],
    ids=lambda value: str(value),
)
def test_clips_of_other_kinds_are_judged_as_far_as_they_can_be(score, tmp_path, kind, words):
    judge = words.split(":")[0]
    table = score(write_clip(tmp_path / "clip.mp4", **kind), "--judges", judge)
    assert words in table


@pytest.mark.slow
def test_a_4k_clip_is_searched_at_a_smaller_size_and_says_so(score, tmp_path):
    path = write_clip(tmp_path / "large.mp4", fps=5, frames=11, size=(2160, 3840))
    assert "faces were searched at 480x270, frames are 3840x2160" in score(path, "--judges", "sync")


def test_a_clip_without_a_face_has_no_score_but_a_reason(score, clip, judges, tmp_path, capsys):
    folder = tmp_path / "blind"
    write_tiny_judges(folder)
    weights = torch.load(folder / "sfd_face.pth")
    weights = {name: t.zero_() if name.startswith("conf") else t for name, t in weights.items()}
    torch.save(weights, folder / "sfd_face.pth")
    options = ["--models", str(folder), "--judges", "sync", "--device", "cpu"]
    assert main(["score", str(clip), *options]) == 0
    table = capsys.readouterr().out
    assert "not judged" in table and "sync: no face was found" in table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.mp4"], "There is no file nowhere.mp4"),
        ([__file__], "cannot be read as a video"),
        (["CLIP", "--judges", "taste"], "Unknown judge. Found: taste. Fix: choose one or more"),
        (["CLIP", "--device", "toaster"], "Unknown device"),
        (["FOLDER"], "There are no clips in"),
    ],
)
def test_what_cannot_work_is_one_line(score, clip, tmp_path, capsys, judges, arguments, words):
    names = {"CLIP": str(clip), "FOLDER": str(tmp_path)}
    command = ["score", *(names.get(a, a) for a in arguments), "--models", str(judges)]
    assert main(command) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in message and message.startswith("error: ")


def test_missing_weights_are_named_with_their_size_and_place(clip, tmp_path, capsys):
    assert main(["score", str(clip), "--models", str(tmp_path), "--device", "cpu"]) == 1
    message = capsys.readouterr().err.strip()
    assert "\n" not in message
    for words in ("sfd_face.pth", "90 MB", "VideoReward/checkpoint-11352/model.pth", "5.0 GB"):
        assert words in message
    assert str(tmp_path) in message


# -- folders ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory, judges) -> Path:
    """Two clips, one of them with a name and a prompt that are HTML, and a broken one; scored."""
    folder = tmp_path_factory.mktemp("takes")
    write_clip(folder / "<b>a.mp4", frames=52, title="<script>alert(1)</script>, said she")
    write_clip(folder / "b.mp4", frames=52)
    (folder / "c.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("not a clip")
    options = ["--judges", "sync,audio", "--models", str(judges), "--device", "cpu"]
    assert main(["score", str(folder), *options]) == 1  # one of them failed
    return folder


def test_a_folder_gives_a_csv_with_a_row_per_clip(folder):
    with (folder / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"<b>a.mp4", "b.mp4", "c.mp4"}
    assert "cannot be read" in rows["c.mp4"]["error"] and not rows["c.mp4"]["sync"]
    assert {rows[name]["rank"] for name in ("<b>a.mp4", "b.mp4")} == {"1", "2"}
    good = rows["b.mp4"]
    assert good["sync verdict"] in {"good", "doubtful", "bad"}
    assert math.isclose(
        float(good["audio"]),
        sum(float(good[f"audio {axis}"]) for axis in ("CE", "CU", "PQ")),
        abs_tol=1e-4,
    )


class Page(HTMLParser):
    """Counts tags, collects text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in {"src", "href"}]

    def handle_data(self, data) -> None:
        self.text += data


def test_a_folder_gives_one_page_with_pictures_and_escaped_texts(folder):
    page = Page()
    page.feed((folder / "scores.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags and "b" not in page.tags
    assert "<script>alert(1)</script>, said she" in page.text and "<b>a.mp4" in page.text
    assert page.tags.count("img") == 6 and page.tags.count("polyline") == 2
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert "c.mp4 cannot be read as a video" in page.text
    assert "good from 5" in page.text


def test_json_of_a_folder_is_a_list(score, folder, tmp_path):
    options = ("--json", "--judges", "audio", "-o", tmp_path / "new")
    entries = json.loads(score(folder, *options, code=1))
    assert [Path(entry["file"]).name for entry in entries] == ["<b>a.mp4", "b.mp4", "c.mp4"]
    assert entries[2]["error"] and entries[0]["rank"] + entries[1]["rank"] == 3
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["scores.csv", "scores.html"]


def test_make_tiny_writes_judges_that_score(clip, tmp_path, capsys):
    assert main(["make-tiny", str(tmp_path), "--judges"]) == 0
    assert main(["score", str(clip), "--models", str(tmp_path), "--device", "cpu"]) == 0
    assert "confidence" in capsys.readouterr().out


def test_make_tiny_puts_judges_where_comfyui_looks_for_them(tmp_path):
    (tmp_path / "models").mkdir()
    assert main(["make-tiny", str(tmp_path), "--judges", "--comfyui"]) == 0
    assert (tmp_path / "models" / "judges" / "syncnet_v2.model").is_file()
