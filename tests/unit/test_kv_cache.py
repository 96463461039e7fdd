import pytest
import torch

from hallo_live_core.errors import PositionError
from hallo_live_core.state.kv_cache import ATTENTION_WINDOW, ConcatCache, KVCache

from .dit_models import CPU, normal


def cache(layers=2, capacity=6, window=ATTENTION_WINDOW, dtype=torch.float32):
    shape = (layers, 1, capacity, 2, 3)
    return KVCache.allocate(shape, device=CPU, dtype=dtype, window=window)


def block(seed):
    return normal(1, 2, 2, 3, seed=seed), normal(1, 2, 2, 3, seed=seed + 100)


KINDS = [lambda **kw: cache(**kw), lambda **kw: ConcatCache(2, kw.get("window", ATTENTION_WINDOW))]


@pytest.mark.parametrize("make", KINDS)
@torch.no_grad()
def test_a_block_sees_the_past_and_itself(make):
    layer = make().layer(0)
    layer.extend(0, *block(1))
    keys, values = layer.extend(2, *block(2))
    assert torch.equal(keys, torch.cat([block(1)[0], block(2)[0]], dim=1))
    assert torch.equal(values, torch.cat([block(1)[1], block(2)[1]], dim=1))


@pytest.mark.parametrize("make", KINDS)
@torch.no_grad()
def test_a_block_that_comes_again_replaces_itself(make):
    layer = make().layer(0)
    for seed in (1, 2, 3):
        keys, _ = layer.extend(0, *block(seed))
        assert torch.equal(keys, block(seed)[0])
    assert torch.equal(layer.extend(2, *block(4))[0][:, :2], block(3)[0])


@pytest.mark.parametrize("make", KINDS)
@torch.no_grad()
def test_the_oldest_tokens_fall_out_of_the_window(make):
    layer = make(window=3).layer(0)
    layer.extend(0, *block(1))
    keys, values = layer.extend(2, *block(2))
    assert torch.equal(keys, torch.cat([block(1)[0][:, 1:], block(2)[0]], dim=1))
    assert values.shape[1] == 3


@pytest.mark.parametrize("make", KINDS)
@torch.no_grad()
def test_layers_do_not_share_their_past(make):
    both = make()
    both.layer(0).extend(0, *block(1))
    both.layer(1).extend(0, *block(2))
    assert torch.equal(both.layer(0).extend(2, *block(3))[0][:, :2], block(1)[0])


def test_a_full_cache_says_so():
    with pytest.raises(PositionError, match="full"):
        cache(capacity=3).layer(0).extend(2, *block(1))


def test_buffers_are_written_in_place_and_read_as_views():
    buffers = cache()
    keys, values = buffers.layer(1).extend(0, *block(1))
    assert keys.data_ptr() == buffers.keys[1].data_ptr()
    assert values.data_ptr() == buffers.values[1].data_ptr()


def test_keys_are_rounded_while_written():
    layer = cache(dtype=torch.bfloat16).layer(0)
    keys, _ = layer.extend(0, *block(1))
    assert torch.equal(keys, block(1)[0].bfloat16())


def test_bytes_count_keys_and_values():
    assert cache().nbytes == 2 * (2 * 1 * 6 * 2 * 3) * 4


def test_with_gradient_the_past_is_constant_and_the_block_leaves_no_trace():
    concat = ConcatCache(1)
    with torch.no_grad():
        concat.layer(0).extend(0, *block(1))
    before = concat.nbytes
    keys, values = (x.requires_grad_() for x in block(2))
    seen_keys, seen_values = concat.layer(0).extend(2, keys, values)
    (seen_keys.sum() + seen_values.sum()).backward()
    assert keys.grad is not None and torch.equal(keys.grad, torch.ones_like(keys))
    assert concat.nbytes == before


def test_straight_through_a_block_sees_clean_values_and_teaches_the_pass_that_made_its_past():
    layer = ConcatCache(1, history_gradient="straight_through").layer(0)
    exit_keys, exit_values = (x.requires_grad_() for x in block(1))
    layer.extend(0, exit_keys, exit_values)
    with torch.no_grad():
        layer.extend(0, *block(2))
    keys, values = layer.extend(2, *block(3))
    assert torch.equal(keys[:, :2], block(2)[0]) and torch.equal(values[:, :2], block(2)[1])
    (keys.sum() + 2 * values.sum()).backward()
    assert torch.equal(exit_keys.grad, torch.ones_like(exit_keys))
    assert torch.equal(exit_values.grad, 2 * torch.ones_like(exit_values))


def test_straight_through_nothing_is_kept_of_passes_without_gradient():
    layer = ConcatCache(1, history_gradient="straight_through").layer(0)
    layer.extend(0, *(x.requires_grad_() for x in block(1)))
    with torch.no_grad():
        layer.extend(0, *block(2))
        assert not any(x.requires_grad for x in layer.extend(2, *block(3)))
