"""The pack as ComfyUI sees it when it loads: quick, quiet, and with the ids it always had."""

import json
import os
import re
from pathlib import Path

from tools.read_schemas import trim

ROOT = Path(__file__).parents[2]
HEAVY = {"torchaudio", "transformers", "tokenizers", "sentencepiece", "ftfy", "diffusers"}


def test_the_pack_loads_in_under_a_second(facts):
    assert facts["seconds"] < 1


def test_the_host_itself_counts_less_than_a_second(server, pack):
    """What it prints when it has started; its own modules are in memory by then.

    It looks at the clock on the wall, so a second is longer where others use the cores, too.
    """
    found = re.search(rf"([\d.]+) seconds: {re.escape(str(pack))}$", server.log.read_text(), re.M)
    waiting = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 1
    assert found and float(found[1]) < max(1, waiting)


def test_loading_the_pack_asks_nothing_of_the_network(facts):
    assert facts["network_calls"] == []


def test_loading_the_pack_imports_nothing_heavy_that_the_host_has_not(facts):
    assert HEAVY.isdisjoint(facts["new_modules"])


def test_ids_and_inputs_are_the_stored_ones(facts):
    """A snapshot: saved workflows depend on it. New inputs go to the end; nothing is renamed."""
    stored = json.loads((ROOT / "tools" / "schemas.json").read_text(encoding="utf-8"))
    ours = {name: schema for name, schema in stored.items() if name.startswith("HalloLive")}
    assert {name: trim(info) for name, info in facts["nodes"].items()} == ours, (
        "docs/releasing.md says which changes are possible; then run "
        "tools/read_schemas.py COMFYUI and tools/build_workflows.py"
    )


def test_every_node_and_every_socket_is_explained(facts):
    for name, info in facts["nodes"].items():
        assert info["category"] == "HalloLive" and info["description"], name
        for group in ("required", "optional"):
            for input_name, (_, options) in info["input"].get(group, {}).items():
                assert len(options.get("tooltip", "")) > 10, f"{name}.{input_name}"
        assert all(info["output_tooltips"]), name


def test_an_empty_models_folder_says_what_to_put_there(facts):
    (entry,) = facts["nodes"]["HalloLiveModelLoader"]["input"]["required"]["model_name"][1][
        "options"
    ]
    assert entry == "(put hallolive_dit.pt into models/diffusion_models)"
    assert "hallolive_dit.pt" in facts["error_without_models"]
    assert "\n" not in facts["error_without_models"]


def test_raw_latents_mean_the_same_here_and_in_the_host(facts):
    assert facts["latent_scale_error"] < 1e-5


def test_judges_are_in_memory_only_while_they_work(facts):
    assert facts["models_in_memory"] == {"during": 1, "after": 0}
