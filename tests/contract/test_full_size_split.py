"""The published transformer on two devices, without memory: what a pass computes and sends."""

from dataclasses import replace
from threading import Lock

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hallo_live_core.config import HALLO_5B, BlockSizes
from hallo_live_core.functional.blocks import ClipPlan
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.models.dit import CachedPass, DualStreamDiT, fuse_projections
from hallo_live_core.sampling.denoiser import open_session
from hallo_live_core.sampling.split import SplitTransformer
from hallo_live_core.state.exchange import Exchange
from hallo_live_core.state.session import SessionShape
from hallo_live_core.types import TextContext

META, HALF = torch.device("meta"), torch.bfloat16
PLAN = ClipPlan(BlockSizes(), 5)
SHAPE = SessionShape(PLAN, 32, 62)  # latents of 512 x 992
LAYERS = 2
SENT_PER_LAYER = 36.6e6
"""Bytes that BENCHMARKS.md says a rank sends in a layer: keys and values of half a block, twice."""


def model(layers=LAYERS):
    config = replace(HALLO_5B, num_layers=layers)
    return fuse_projections(DualStreamDiT(config, device=META, dtype=HALF))


def text():
    return TextContext.shared(torch.empty(1, 200, 4096, device=META, dtype=HALF))


def fifth_pass(network, state):
    block, audio = PLAN.block(4), 150
    video = torch.empty(1, 6, 48, 32, 62, device=META, dtype=HALF)
    sound = torch.empty(1, audio, 20, device=META, dtype=HALF)
    times = ((937.5, 6),), ((0.0, 120), (937.5, 30))
    return network(video, sound, CachedPass(state, block.first_video, *times))


@pytest.fixture
def sent(monkeypatch):
    """Bytes that every rank hands in, by rank."""
    total, lock, gather = {}, Lock(), Exchange.gather

    def counted(self, rank, own, whole):
        with lock:
            total[rank] = total.get(rank, 0) + own.keys.nbytes + own.values.nbytes
        gather(self, rank, own, whole)

    monkeypatch.setattr(Exchange, "gather", counted)
    return total


def test_a_pass_reads_no_data_and_sends_what_the_prediction_says(sent):
    network, state = SplitTransformer(model(), (META, META)).open(
        text(), SHAPE, NoiseSchedule(), dtype=HALF
    )
    video, audio = fifth_pass(network, state)  # on meta, whoever reads data fails
    assert video.shape == (1, 6, 48, 32, 62) and audio.shape == (1, 150, 20)
    assert set(sent) == {0, 1}
    for nbytes in sent.values():
        assert nbytes == pytest.approx(LAYERS * SENT_PER_LAYER, rel=0.01)


def layer_flops(run):
    """Of one layer, without embeddings and head, in the caller's thread: of the first rank."""
    totals = []
    for layers in (2, 1):
        network, state = run(model(layers))
        with FlopCounterMode(display=False) as counter:
            fifth_pass(network, state)
        totals.append(counter.get_total_flops())
    return totals[0] - totals[1]


def test_a_rank_computes_half_of_the_picture_and_all_of_the_sound():
    open_it = {"dtype": HALF}
    alone = layer_flops(lambda m: (m, open_session(m, text(), SHAPE, NoiseSchedule(), **open_it)))
    shared = layer_flops(
        lambda m: SplitTransformer(m, (META, META)).open(text(), SHAPE, NoiseSchedule(), **open_it)
    )
    sound = 2 * (shared - alone / 2)  # what is not halved
    assert 0.5 < shared / alone < 0.53
    assert 0.02 < sound / alone < 0.06
