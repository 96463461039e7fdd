"""A layer can be compiled whole, and layers share what was compiled."""

import shutil

import pytest
import torch

from hallo_live_core.models.dit import fuse_projections
from hallo_live_core.models.dit.compilation import compile_blocks
from hallo_live_core.models.dit.kernels import cudnn_first
from hallo_live_core.sampling.sampler import stream_blocks

from .dit_models import joined, tiny_dit, tiny_stream


def clip(model, blocks):
    return joined(list(stream_blocks(*tiny_stream(model, blocks=blocks, lookahead=2))))


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def graphs_of(model):
    """Compile the layers with a compiler that only writes down what it was given."""
    graphs = []

    def keep(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compile_blocks(model, keep)
    return graphs


def test_a_layer_compiles_without_breaks_once_per_block_of_the_clip():
    """And whole attentions reach the compiler, but no complex numbers, which it does not know."""
    model = fuse_projections(tiny_dit(attention=cudnn_first))
    expected = clip(model, 2)
    graphs = graphs_of(model)
    for _ in range(2):
        assert_same(clip(model, 2), expected)
    assert len(graphs) == 2
    ops = {str(node.target) for graph in graphs for node in graph.graph.nodes}
    assert "complex" not in " ".join(ops)
    assert any("scaled_dot_product_attention" in op for op in ops)


@pytest.mark.slow
def test_more_blocks_than_pytorch_allows_by_itself_still_compile():
    model = tiny_dit()
    expected = clip(model, 10)
    graphs = graphs_of(model)
    assert_same(clip(model, 10), expected)
    assert len(graphs) == 10


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler for the CPU")
@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler uses what PyTorch deprecates
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_real_compilers_predict_the_same(backend):
    model = fuse_projections(tiny_dit())
    expected = clip(model, 2)
    torch.compiler.reset()
    compile_blocks(model, backend)
    assert_same(clip(model, 2), expected)
