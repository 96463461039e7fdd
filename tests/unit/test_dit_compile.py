"""A layer can be compiled whole, and layers share what was compiled."""

import pytest
import torch

from hallo_live_core.models.dit import fuse_projections
from hallo_live_core.sampling.sampler import stream_blocks

from .dit_models import joined, tiny_dit, tiny_stream


@pytest.mark.parametrize("prepared", [lambda model: model, fuse_projections])
def test_a_layer_compiles_without_breaks_once_per_block_of_the_clip(prepared):
    model, graphs = prepared(tiny_dit()), []

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
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert len(graphs) == 3
    ops = {str(node.target) for graph in graphs for node in graph.graph.nodes}
    assert not any("complex" in op for op in ops)
