"""A layer can be compiled whole, and layers share what was compiled."""

import torch

from hallo_live_core.sampling.sampler import stream_blocks

from .dit_models import joined, tiny_dit, tiny_stream


def test_a_layer_compiles_without_breaks_once_per_block_of_the_clip():
    model, graphs = tiny_dit(), []

    def count(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    expected = joined(list(stream_blocks(*tiny_stream(model, blocks=3, lookahead=2))))
    for layer in model.blocks:
        layer.compile(backend=count, fullgraph=True, dynamic=False)
    for _ in range(2):
        found = joined(list(stream_blocks(*tiny_stream(model, blocks=3, lookahead=2))))
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)
    assert len(graphs) == 3
