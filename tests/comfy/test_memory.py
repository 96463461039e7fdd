"""A good guest: the device that was chosen, memory that is given back, a refusal with numbers."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from .conftest import Server
from .footprint import nothing_stays
from .graphs import CLIP, MODEL, SAMPLER, VAE, with_inputs

SPARE_BYTES = 2**20
"""What a host may learn to keep between runs: far below a clip's caches of 9 MB."""


def tensor_bytes(server, again: int) -> int:
    inputs = {"again": again}
    graph = {"count": {"class_type": "TestTensorBytes", "inputs": inputs}}
    return server.run(graph)["count"]["bytes"][0]


def test_every_loader_lets_choose_its_device(server):
    loaders = ("HalloLiveModelLoader", "HalloLiveVAELoader", "HalloLiveTextEncoderLoader",
               "HalloLiveJudgeLoader")  # fmt: skip
    for loader in loaders:
        inputs = server.get(f"/object_info/{loader}")[loader]["input"]
        options = (inputs["required"] | inputs.get("optional", {}))["device"][1]["options"]
        assert options[:2] == ["default", "cpu"], loader


def test_a_device_that_is_not_there_is_refused_in_one_line(server, streaming):
    for node in (MODEL, VAE, CLIP):
        (error,) = server.refusals(with_inputs(streaming, node, device="cuda:7"))
        assert "cuda:7 does not exist here" in error and "Fix:" in error


def test_all_on_the_cpu_by_choice_is_the_clip_that_the_default_makes(server, two_steps):
    chosen = two_steps
    for node in (MODEL, VAE, CLIP):
        chosen = with_inputs(chosen, node, device="cpu")
    assert saved(server, chosen, seed=60).equal(saved(server, two_steps, seed=60))


def test_caches_in_8_bits_change_the_clip_a_little_and_the_log_says_so(server, two_steps):
    plain = saved(server, two_steps, seed=61)
    small = saved(server, with_inputs(two_steps, MODEL, kv_cache="fp8"), seed=61)
    off = ((small - plain).norm() / plain.norm()).item()
    assert 0 < off < 0.1
    log = server.log.read_text(errors="replace")
    assert "Hallo-Live needs cpu: " in log and "(caches in fp8)" in log


def saved(server, graph: dict, *, seed: int):
    graph = with_inputs(graph, SAMPLER, seed=seed)
    wanted = {number: graph[number] for number in (MODEL, CLIP, "4", SAMPLER)}
    inputs = {"samples": [SAMPLER, 0], "filename_prefix": "latents/memory"}
    outputs = server.run(wanted | {"save": {"class_type": "SaveLatent", "inputs": inputs}})
    return load_file(server.file(outputs["save"]["latents"][0]))["latent_tensor"]


def test_nothing_stays_of_runs_that_end_that_are_stopped_and_that_fail(server, streaming):
    server.run(with_inputs(streaming, SAMPLER, seed=70))
    before = tensor_bytes(server, 1)
    with nothing_stays(server):
        server.run(with_inputs(streaming, SAMPLER, seed=71, seconds=5))
        stopped = server.queue(with_inputs(streaming, SAMPLER, seed=72, seconds=30))
        time.sleep(1.0)
        server.post("/interrupt", {"prompt_id": stopped})
        server.wait(stopped)
        broken = with_inputs(streaming, SAMPLER, seed=73, width=128, height=96)
        broken["4"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": [CLIP, 0], "text": ""}}
        combine = {"conditioning_1": ["4", 0], "conditioning_2": ["4", 0]}
        broken["both"] = {"class_type": "ConditioningCombine", "inputs": combine}
        broken[SAMPLER]["inputs"]["positive"] = ["both", 0]
        assert server.error_of(broken)
        server.run(with_inputs(streaming, SAMPLER, seed=70, seconds=2))
    assert tensor_bytes(server, 2) <= before + SPARE_BYTES


@pytest.fixture(scope="module")
def in_process(comfyui, pack, tiny_models) -> dict:
    """What `vram_states.py` saw."""
    script = Path(__file__).with_name("vram_states.py")
    run = subprocess.run(
        [sys.executable, str(script), str(comfyui), str(pack), str(pack.parents[1])],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_a_clip_that_fits_nowhere_is_refused_with_numbers_and_two_remedies(in_process):
    error = in_process["refusal"]
    assert "This clip needs" in error and "besides the models" in error and "GB there are" in error
    assert "kv_cache of the model loader to fp8" in error and error.count(";") == 1
    assert "\n" not in error


def test_the_clip_is_the_same_in_every_state_of_the_hosts_memory(in_process):
    states = in_process["states"]
    assert len({facts["sum"] for facts in states.values()}) == 1, states
    assert (
        states["NO_VRAM"]["away"] > 0 == states["HIGH_VRAM"]["away"] == states["GPU_ONLY"]["away"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--reserve-vram", "2"), ("--disable-smart-memory",)])
def test_flags_of_the_memory_manager_start_and_run(comfyui, pack, tiny_models, streaming, flags):
    """--lowvram and its kin exclude --cpu: see the test above."""
    other = Server(comfyui, pack.parents[1], pack.name, flags=flags)
    try:
        other.wait_until_ready()
        other.run(streaming)
    finally:
        other.stop()
