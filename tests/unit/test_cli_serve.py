from __future__ import annotations

import json
import socket
import sys
import urllib.request

import pytest

from hallo_live_core.cli import main
from hallo_live_core.errors import HalloLiveError
from hallo_live_core.serving import app

from .live_media import decode

PROMPT = "A woman says, <S>Hello.<E>"


def ask(url: str, body: object = None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def test_two_clips_are_made_in_turn_and_the_server_ends_cleanly_in_the_third(serve):
    with serve("--size", "32x64") as address:
        wanted = {"prompt": PROMPT, "seconds": 2, "lookahead": 5}
        made = [json.loads(ask(f"{address}/api/generate", wanted)) for _ in range(2)]
        streams = [ask(address + clip["stream"] + "?from=start") for clip in made]
        assert [len(decode(stream)[0]) for stream in streams] == [45, 45]
        for clip in made:
            assert len(decode(ask(address + clip["file"]))[0]) == 45
        long = json.loads(ask(f"{address}/api/generate", {**wanted, "seconds": 30}))
        with urllib.request.urlopen(address + long["stream"]) as stream:
            assert stream.read(8)[4:] == b"ftyp"


def test_a_port_that_is_taken_is_one_line_before_the_model_is_read(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        options = ["--models", str(tmp_path), "--device", "cpu", "--port", port]
        assert main(["serve", *options]) == 1
    said = capsys.readouterr()
    assert f"Cannot listen on 127.0.0.1:{port}" in said.err and not said.out


def test_a_size_that_cannot_work_is_refused_before_the_model_is_loaded(tmp_path, capsys):
    assert main(["serve", "--models", str(tmp_path), "--device", "cpu", "--size", "100x64"]) == 1
    assert "multiple of 32" in capsys.readouterr().err


def test_without_aiohttp_the_command_says_how_to_get_it(tiny_models, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert main(["serve", "--models", str(tiny_models)]) == 1
    assert 'pip install "hallo-live[serve]"' in capsys.readouterr().err


def test_without_the_players_files_the_error_says_where_they_should_be(monkeypatch, tmp_path):
    monkeypatch.setattr(app, "PLAYER_IN_CHECKOUT", tmp_path)
    monkeypatch.setattr(app, "PLAYER_INSTALLED", tmp_path)
    with pytest.raises(HalloLiveError, match="files of the player are missing"):
        app.player_folder()
