"""Loads the pack the way ComfyUI does, without network, and prints what it saw as JSON.

Run as `python pack_facts.py COMFYUI PACK` in a process of its own: ComfyUI's modules have names
such as `nodes` and `server`, and read the command line.
"""

import asyncio
import importlib
import importlib.util
import json
import socket
import sys
import tempfile
import time
from pathlib import Path


def load_host(comfyui: str, base: str) -> None:
    sys.path.insert(0, comfyui)
    sys.argv = sys.argv[:1]
    importlib.import_module("comfy.options").enable_args_parsing(False)
    args = importlib.import_module("comfy.cli_args").args
    args.cpu, args.base_directory = True, base
    for name in ("comfy.sd", "comfy_api.latest", "nodes", "av"):
        importlib.import_module(name)  # what the host has in memory before it loads any pack


def forbid_network(calls: list[str]) -> None:
    def refuse(*args, **_):
        calls.append(repr(args))
        raise OSError("no network in this test")

    socket.socket.connect = refuse
    socket.getaddrinfo = refuse


def name_of(pack: Path) -> str:
    """The host takes the whole path for a name."""
    return f"{pack}".replace(".", "_x_")


def load_pack(pack: Path) -> list:
    name = name_of(pack)
    spec = importlib.util.spec_from_file_location(
        name, pack / "__init__.py", submodule_search_locations=[str(pack)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)

    async def listed():
        extension = await module.comfy_entrypoint()
        return await extension.get_node_list()

    return asyncio.run(listed())


def latent_scale_error(pack_name: str) -> float:
    """How far the host's idea of raw latents is from what our decoder takes them for."""
    import torch

    host = sys.modules[f"{pack_name}.nodes.host"]
    scale = sys.modules[f"{pack_name}.hallo_live_core.models.video_vae.latents"].LatentScale.on(
        None
    )
    normalised = torch.randn(1, 3, 48, 2, 2)
    ours = scale.restore(normalised).transpose(1, 2)
    theirs = host.raw_latents(normalised.transpose(1, 2))
    back = host.normalised_latents(theirs).transpose(1, 2)
    return max((ours - theirs).abs().max().item(), (back - normalised).abs().max().item())


def models_in_memory(pack_name: str) -> dict[str, int]:
    """How many models the host counts while judges are at work, and how many afterwards."""
    import torch

    host = sys.modules[f"{pack_name}.nodes.host"]
    books = importlib.import_module("comfy.model_management").current_loaded_models
    judge = host.decoder_patcher(torch.nn.Linear(2, 2), torch.device("cpu"))
    with host.loaded([judge], 0, whole=True):
        during = len(books)
    return {"during": during, "after": len(books)}


def error_without_models(loader) -> str:
    schema = loader.GET_NODE_INFO_V1()["input"]["required"]
    choices = {name: options["options"][0] for name, (_, options) in schema.items()}
    try:
        loader.execute(**choices)
    except Exception as error:
        return str(error)
    return ""


def main() -> None:
    comfyui, pack = sys.argv[1:3]
    with tempfile.TemporaryDirectory() as base:  # a host without any model
        load_host(comfyui, base)
        sys.stdout.write("\n" + json.dumps(facts(Path(pack))))


def facts(pack: Path) -> dict:
    before, calls = set(sys.modules), []
    forbid_network(calls)
    started = time.process_time()
    nodes = load_pack(pack)
    seconds = time.process_time() - started
    return {
        "seconds": seconds,
        "network_calls": calls,
        "new_modules": sorted({name.split(".")[0] for name in set(sys.modules) - before}),
        "latent_scale_error": latent_scale_error(name_of(pack)),
        "models_in_memory": models_in_memory(name_of(pack)),
        "error_without_models": error_without_models(nodes[0]),
        "nodes": {node.define_schema().node_id: node.GET_NODE_INFO_V1() for node in nodes},
    }


if __name__ == "__main__":
    main()
