"""Projections as one matrix product: another layout of the same weights, and nothing else."""

import pytest
import torch
from torch import nn

from hallo_live_core.models.dit import TeacherPass, fuse_projections
from hallo_live_core.models.dit.weights import FUSED, rows_of, to_module, to_published
from hallo_live_core.sampling.sampler import stream_blocks

from .dit_models import TINY, joined, tiny_dit, tiny_latents, tiny_stream, tiny_text

WIDE = torch.float64
HOW = TeacherPass(tiny_text(dtype=WIDE), torch.tensor([700.0]))


def fused(dtype=WIDE, **options):
    return fuse_projections(tiny_dit(dtype=dtype, **options))


def test_it_predicts_what_separate_projections_predict():
    latents = tiny_latents(1, dtype=WIDE)
    for found, expected in zip(
        fused()(*latents, HOW), tiny_dit(dtype=WIDE)(*latents, HOW), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lookahead", [0, 2])
def test_a_stream_with_its_caches_is_the_same(lookahead):
    clips = [
        joined(list(stream_blocks(*tiny_stream(m, blocks=3, lookahead=lookahead, dtype=WIDE))))
        for m in (fused(), tiny_dit(dtype=WIDE))
    ]
    for found, expected in zip(*clips, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_in_published_names_nothing_has_changed(dtype):
    weights, expected = (
        to_published(m.state_dict()) for m in (fused(dtype), tiny_dit(dtype=dtype))
    )
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert all(weights[name].dtype == dtype for name in expected)


def test_weights_in_an_8_bit_format_stay_as_they_are():
    model = tiny_dit()
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight = nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    expected = to_published(model.state_dict())
    found = to_published(fuse_projections(model).state_dict())
    assert all(
        torch.equal(found[name].view(torch.uint8), expected[name].view(torch.uint8))
        for name in expected
    )


def test_every_layer_has_the_fused_ones_and_none_of_their_parts():
    names = list(fused().state_dict())
    for whole, parts in FUSED.items():
        assert sum(f".{whole}.weight" in name for name in names) == 2 * TINY.num_layers
        assert not any(f".{part}.weight" in name for name in names for part in parts)


def test_fusing_twice_changes_nothing():
    model = fused()
    layers = dict(model.named_modules())
    assert dict(fuse_projections(model).named_modules()) == layers


def test_fused_layers_are_of_the_hosts_kind():
    class Host(nn.Linear):
        pass

    class Ops:
        Linear, LayerNorm, Conv1d, Conv3d = Host, nn.LayerNorm, nn.Conv1d, nn.Conv3d

    model = fused(ops=Ops)
    assert isinstance(model.blocks[0].video.self_attn.qkv, Host)
    assert isinstance(model.blocks[1].audio.cross_attn.kv_fusion, Host)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_no_module_has_both_parameters_and_children():
    for name, module in fused().named_modules():
        assert not (list(module.parameters(recurse=False)) and list(module.children())), name


@pytest.mark.parametrize(
    ("layer", "fused_layer"),
    [
        ("self_attn.q", "self_attn.qkv"),
        ("self_attn.k", "self_attn.qkv"),
        ("self_attn.v", "self_attn.qkv"),
        ("cross_attn.k_fusion", "cross_attn.kv_fusion"),
        ("cross_attn.v_fusion", "cross_attn.kv_fusion"),
    ],
)
def test_the_rows_of_a_part_are_found_in_the_whole(layer, fused_layer):
    weights, plain = (
        fused().state_dict(),
        to_module(to_published(tiny_dit(dtype=WIDE).state_dict())),
    )
    for stream in ("video", "audio"):
        name = f"blocks.1.{stream}.{layer}.weight"
        place = rows_of(name, weights)
        assert place is not None
        whole, first, rows = place
        assert whole == f"blocks.1.{stream}.{fused_layer}.weight"
        assert torch.equal(weights[whole].narrow(0, first, rows), plain[name])


def test_what_stands_alone_or_nowhere_has_no_rows():
    weights = fused().state_dict()
    assert rows_of("blocks.0.video.self_attn.o.weight", weights) is None
    assert rows_of("blocks.9.video.self_attn.q.weight", weights) is None
    assert rows_of("blocks.0.video.self_attn.q.weight", tiny_dit().state_dict()) is None
