from dataclasses import replace

import pytest
import torch

from hallo_live_core.errors import PositionError
from hallo_live_core.functional.blocks import ClipPlan
from hallo_live_core.functional.noise import ClipShape, SeededNoise
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.sampling.denoiser import Denoiser, open_session
from hallo_live_core.sampling.sampler import stream_blocks
from hallo_live_core.state.fp8_cache import Fp8KVCache
from hallo_live_core.state.kv_cache import ATTENTION_WINDOW
from hallo_live_core.state.session import SessionShape, session_nbytes

from .dit_models import BLOCKS, CPU, TINY, normal, tiny_dit, tiny_text

STEP = 2**-4
"""Largest rounding error of e4m3, of a value: three bits after the leading one."""


def cache(capacity=6, window=ATTENTION_WINDOW):
    return Fp8KVCache.allocate(
        (2, 1, capacity, 2, 16), device=CPU, dtype=torch.float32, window=window
    )


def block(seed, scale=1.0):
    return tuple(scale * normal(1, 2, 2, 16, seed=seed + k) for k in (0, 100))


def test_the_newest_block_is_seen_exactly_and_the_past_in_8_bits():
    layer = cache().layer(0)
    keys, values = layer.extend(0, *block(1))
    assert torch.equal(keys, block(1)[0]) and torch.equal(values, block(1)[1])
    keys, _ = layer.extend(2, *block(2))
    assert torch.equal(keys[:, 2:], block(2)[0])
    past, true = keys[:, :2], block(1)[0]
    assert not torch.equal(past, true)
    smallest_step = true.abs().amax(dim=-1, keepdim=True) * 2**-17  # where the format is subnormal
    assert ((past - true).abs() <= STEP * true.abs() + smallest_step).all()


def test_a_block_that_comes_again_replaces_itself():
    layer = cache().layer(0)
    for seed in (1, 2, 3):
        layer.extend(0, *block(seed))
    keys, _ = layer.extend(2, *block(4))
    torch.testing.assert_close(keys[:, :2], block(3)[0], rtol=STEP, atol=1e-4)


@pytest.mark.parametrize("loud", [1e-3, 1.0, 1e4])
def test_a_loud_head_costs_its_neighbour_no_precision(loud):
    layer = cache().layer(1)
    keys, values = block(1)
    keys = torch.cat([keys[:, :, :1] * loud, keys[:, :, 1:]], dim=2)
    layer.extend(0, keys, values)
    past = layer.extend(2, *block(2))[0][:, :2]
    for head in range(2):
        off = (past - keys)[:, :, head].norm() / keys[:, :, head].norm()
        assert 0 < off < 0.04


def test_silence_stays_silence():
    layer = cache().layer(0)
    zeros = torch.zeros(1, 2, 2, 16)
    layer.extend(0, zeros, zeros)
    assert not layer.extend(2, *block(1))[0][:, :2].any()


def test_layers_do_not_mix():
    caches = cache()
    caches.layer(0).extend(0, *block(1))
    caches.layer(1).extend(0, *block(2))
    keys, _ = caches.layer(0).extend(2, *block(3))
    torch.testing.assert_close(keys[:, :2], block(1)[0], rtol=STEP, atol=1e-4)


def test_the_oldest_tokens_fall_out_of_the_window():
    layer = cache(window=3).layer(0)
    layer.extend(0, *block(1))
    keys, values = layer.extend(2, *block(2))
    assert keys.shape[1] == values.shape[1] == 3
    assert torch.equal(keys[:, 1:], block(2)[0])
    assert cache(window=1).layer(0).extend(2, *block(2))[0].shape[1] == 1


def test_a_block_behind_the_end_is_refused():
    with pytest.raises(PositionError, match="full"):
        cache(capacity=3).layer(0).extend(2, *block(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bytes_foretold_are_the_bytes_held(dtype):
    given = SessionShape(ClipPlan(BLOCKS, 3), 4, 6, fp8_cache=True)
    state = open_session(tiny_dit(dtype=dtype), tiny_text(), given, NoiseSchedule(), dtype=dtype)
    assert isinstance(state.video_self, Fp8KVCache)
    assert state.nbytes == session_nbytes(TINY, given, dtype)


def clip(*, fp8: bool) -> list[torch.Tensor]:
    plan, schedule = ClipPlan(BLOCKS, 5), NoiseSchedule()
    shape = SessionShape(plan, 4, 6, fp8_cache=fp8)
    model = tiny_dit()
    state = open_session(model, tiny_text(), shape, schedule, dtype=torch.float32)
    config = model.config
    size = ClipShape(plan, (config.video.in_channels, 4, 6), config.audio.in_channels)
    noise = SeededNoise(size, 0, device=CPU, dtype=torch.float32)
    return [block.video for block in stream_blocks(Denoiser(model, state, schedule), noise)]


def test_a_clip_of_five_blocks_stays_close_and_its_first_block_is_the_same():
    plain, small = clip(fp8=False), clip(fp8=True)
    assert torch.equal(plain[0], small[0])  # a first block has no past
    drift = [((a - b).norm() / a.norm()).item() for a, b in zip(plain, small, strict=True)]
    assert all(0 < d < 0.1 for d in drift[1:]), drift


def test_the_cache_of_the_published_size_is_half_as_large():
    plain = SessionShape(ClipPlan(BLOCKS, 5), 32, 62)
    small = replace(plain, fp8_cache=True)
    wide = replace(TINY, num_layers=30)
    before, after = (session_nbytes(wide, s, torch.bfloat16) for s in (plain, small))
    assert after < 0.75 * before  # heads of the tiny network are narrow: scales weigh more
