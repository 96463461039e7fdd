"""A real ComfyUI with this pack and tiny models, started once for all tests in this folder."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pytest
import torch

from .graphs import tiny

ROOT = Path(__file__).parents[2]
PACK_PARTS = (
    "__init__.py", "hallo_live_core", "locales", "nodes", "pyproject.toml", "subgraphs", "web",
    "workflows",
)  # fmt: skip
BOOT_SECONDS = 120
RUN_SECONDS = 120
NEEDED = ("aiohttp", "alembic", "comfyui_frontend_package", "yaml")
"""Some of what ComfyUI's requirements.txt installs and this project does not."""


def find_comfyui() -> Path | None:
    named = os.environ.get("COMFYUI_PATH")
    places = [Path(named)] if named else [ROOT.parents[1], Path.home() / "comfy" / "ComfyUI"]
    return next((place for place in places if (place / "comfy" / "options.py").is_file()), None)


@pytest.fixture(scope="session")
def comfyui() -> Path:
    place = find_comfyui()
    if place is None:
        pytest.skip("no ComfyUI here: set COMFYUI_PATH to one")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"ComfyUI's requirements are not installed here: no {', '.join(missing)}")
    return place


@pytest.fixture(scope="session")
def pack(tmp_path_factory) -> Path:
    """A copy of what a user installs, because newest hosts refuse links."""
    folder = tmp_path_factory.mktemp("comfy") / "custom_nodes" / "ComfyUI-HalloLive"
    folder.mkdir(parents=True)
    skip = shutil.ignore_patterns("__pycache__")
    for part in PACK_PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=skip)
        else:
            shutil.copy(source, folder / part)
    return folder


@pytest.fixture(scope="session")
def interop_pack(pack) -> Path:
    """A second pack with nodes that only tests need."""
    source = Path(__file__).with_name("interop_pack")
    return shutil.copytree(
        source, pack.parent / source.name, ignore=shutil.ignore_patterns("__pycache__")
    )


@pytest.fixture(scope="session")
def facts(comfyui, pack) -> dict:
    """What `pack_facts.py` saw when it loaded the pack into a host without models or network."""
    script = Path(__file__).with_name("pack_facts.py")
    run = subprocess.run(
        [sys.executable, str(script), str(comfyui), str(pack)],
        capture_output=True,
        text=True,
        timeout=BOOT_SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def tiny_models(pack) -> Path:
    """The models folder of the host's base directory, filled with tiny random models."""
    from hallo_live_core.checkpoints.tiny import write_tiny_models

    (pack.parents[1] / "models").mkdir()
    return write_tiny_models(pack.parents[1], comfyui=True)


@pytest.fixture(scope="session")
def server(comfyui, pack, interop_pack, tiny_models):
    running = Server(comfyui, pack.parents[1], pack.name, interop_pack.name)
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


@pytest.fixture
def streaming(tiny_models) -> dict:
    return tiny("Streaming avatar")


@pytest.fixture
def two_steps(tiny_models) -> dict:
    return tiny("Two steps with separate decode")


class Server:
    """`main.py` of a ComfyUI in a process of its own, and the calls a client makes."""

    def __init__(self, comfyui: Path, base: Path, *packs: str, flags: tuple = ()) -> None:
        self.base, self.run_seconds = base, RUN_SECONDS
        self.port = free_port()
        self.log = base / "server.log"
        for name in ("input", "output", "temp", "user"):
            (base / name).mkdir(exist_ok=True)
        command = [sys.executable, "main.py", "--cpu", "--port", str(self.port)]
        command += ["--base-directory", str(base), "--disable-auto-launch"]
        command += ["--user-directory", str(base / "user")]
        command += ["--database-url", "sqlite:///:memory:", "--disable-api-nodes"]
        command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", *packs]
        command += flags
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",  # tiny tensors only wait for more threads
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=comfyui, stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"ComfyUI ended:\n{self.tail()}"
            try:
                self.get("/system_stats")
            except OSError:
                time.sleep(0.2)
            else:
                return
        pytest.fail(f"ComfyUI did not start in {BOOT_SECONDS} s:\n{self.tail()}")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict) -> dict | None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def queue(self, graph: dict, **extra) -> str:
        prompt_id = str(uuid.uuid4())
        self.post("/prompt", {"prompt": graph, "prompt_id": prompt_id, **extra})
        return prompt_id

    def refusals(self, graph: dict) -> list[str]:
        """Why /prompt refuses this graph: the details of every error of every node."""
        with pytest.raises(urllib.error.HTTPError) as refused:
            self.queue(graph)
        with refused.value as answer:
            assert answer.code == 400
            errors = json.load(answer)["node_errors"]
        return [error["details"] for node in errors.values() for error in node["errors"]]

    def wait(self, prompt_id: str) -> dict:
        deadline = time.monotonic() + self.run_seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"ComfyUI ended:\n{self.tail()}"
            if prompt_id in (history := self.get(f"/history/{prompt_id}")):
                return history[prompt_id]
            time.sleep(0.05)
        pytest.fail(f"the prompt did not finish in {self.run_seconds} s:\n{self.tail()}")

    def run(self, graph: dict, **extra) -> dict:
        """The outputs of a graph that must succeed, by node id."""
        entry = self.wait(self.queue(graph, **extra))
        assert entry["status"]["status_str"] == "success", self.tail()
        return entry["outputs"]

    def error_of(self, graph: dict) -> str:
        """The first line of the error of a graph that must fail while it runs."""
        messages = dict(self.wait(self.queue(graph))["status"]["messages"])
        return messages["execution_error"]["exception_message"].splitlines()[0]

    def kept(self, graph: dict, *sources: list) -> list:
        """The values on these outputs, [node, socket] each, of a graph that must succeed."""
        keepers = {
            f"keep{number}": {"class_type": "TestKeep", "inputs": {"value": source}}
            for number, source in enumerate(sources)
        }
        outputs = self.run(graph | keepers)
        files = [self.file(outputs[name]["kept"][0]) for name in keepers]
        return [torch.load(file, weights_only=True) for file in files]

    def file(self, saved: dict) -> Path:
        return self.base / saved["type"] / saved["subfolder"] / saved["filename"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
