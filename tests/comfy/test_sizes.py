"""A size by name goes before the numbers in width and height."""

import pytest
from safetensors.torch import load_file

from .graphs import CLIP, MODEL, SAMPLER, TEXT, tiny, with_inputs


def test_every_sampler_has_the_list(server):
    for node in ("HalloLiveStreamSampler", "HalloLiveSampler", "HalloLiveBestOf"):
        inputs = server.get(f"/object_info/{node}")[node]["input"]["optional"]
        assert "448 x 1152" in inputs["size"][1]["options"]


@pytest.mark.parametrize(
    ("size", "rows", "columns"), [("448 x 1152", 72, 28), ("width and height", 4, 4)]
)
def test_a_chosen_size_is_the_size_of_the_clip(server, size, rows, columns):
    nodes = tiny("Two steps with separate decode")
    nodes = {number: nodes[number] for number in (MODEL, CLIP, TEXT, SAMPLER)}
    nodes = with_inputs(nodes, SAMPLER, size=size, seconds=1)
    inputs = {"samples": [SAMPLER, 0], "filename_prefix": "latents/size"}
    outputs = server.run(nodes | {"save": {"class_type": "SaveLatent", "inputs": inputs}})
    latent = load_file(server.file(outputs["save"]["latents"][0]))["latent_tensor"]
    assert tuple(latent.shape[-2:]) == (rows, columns)


def test_a_size_that_is_not_in_the_list_is_refused_before_anything_runs(server):
    (error,) = server.refusals(with_inputs(tiny("Streaming avatar"), SAMPLER, size="1 x 1"))
    assert "1 x 1" in error
