"""Makes one clip in every state of the host's memory manager, and prints what came out as JSON.

Run as `python vram_states.py COMFYUI PACK BASE` in a process of its own. The states belong to the
host's flags --highvram, --normalvram, --lowvram, --novram and --gpu-only, which exclude --cpu; here
it is told that the CPU is a GPU, so that it keeps weights away and brings them layer by layer.
"""

import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from pack_facts import load_host, load_pack, name_of

CHOICES = ("hallolive_dit.safetensors", "default", "default")
"""File, weights and attention of the model loader."""

GPU_ONLY = "GPU_ONLY"
"""HIGH_VRAM, and nothing is ever put away."""

STATES = ("DISABLED", "HIGH_VRAM", "NORMAL_VRAM", "LOW_VRAM", "NO_VRAM", GPU_ONLY)


def main() -> None:
    comfyui, pack, base = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    load_host(comfyui, base)
    nodes = {node.__name__: node for node in load_pack(pack)}
    states = {state: in_state(state, nodes, name_of(pack)) for state in STATES}
    facts = {"states": states, "refusal": refusal(nodes, name_of(pack))}
    sys.stdout.write(json.dumps(facts) + "\n")


def refusal(nodes: dict, pack_name: str) -> str:
    """What is said of a clip that fits on no device, here one of ten megabytes."""
    core = importlib.import_module(f"{pack_name}.hallo_live_core")
    run, room = (importlib.import_module(f"{pack_name}.nodes.{name}") for name in ("run", "room"))
    room.host.memory = lambda _device: (0, 10 * 2**20)
    (model,) = nodes["HalloLiveModelLoader"].execute(*CHOICES).result
    try:
        room.ready(run.engine_of(model=model), core.Request(seconds=9, width=256, height=256), [])
    except core.RequestError as error:
        return str(error)
    return ""


def in_state(state: str, nodes: dict, pack_name: str) -> dict:
    import torch

    management = importlib.import_module("comfy.model_management")
    core = importlib.import_module(f"{pack_name}.hallo_live_core")
    run, room = (importlib.import_module(f"{pack_name}.nodes.{name}") for name in ("run", "room"))
    management.unload_all_models()
    management.args.gpu_only = state == GPU_ONLY
    management.vram_state = management.VRAMState["HIGH_VRAM" if state == GPU_ONLY else state]
    management.is_device_cpu = lambda _device: state == "DISABLED"
    loader = nodes["HalloLiveModelLoader"]
    (model,) = loader.execute(*CHOICES).result
    request = core.Request(seconds=2, width=64, height=64)
    text = core.TextContext.shared(torch.linspace(-1, 1, 4 * 64).reshape(1, 4, 64))
    engine = run.engine_of(model=model)
    with room.ready(engine, request, [model.patcher]):
        away = model.patcher.model_size() - model.patcher.loaded_size()
        blocks = list(engine.sample(request, text=text))
    video = torch.cat([block.video for block in blocks], dim=1)
    return {"away": int(away), "sum": float(video.double().abs().sum())}


if __name__ == "__main__":
    main()
