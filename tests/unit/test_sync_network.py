"""MFCC, embeddings and the curve of distances."""

import math

import pytest
import torch

from hallo_live_core.rewards.base import Watch
from hallo_live_core.rewards.sync.embed import embed, num_windows, to_int16_scale
from hallo_live_core.rewards.sync.mfcc import filterbank, mfcc
from hallo_live_core.rewards.sync.score import pair_distances, sync_curve
from hallo_live_core.rewards.sync.syncnet import SyncNet, SyncNetConfig, audio_windows, lip_input

TINY = SyncNetConfig(lip=(3, 4, 4, 4, 4, 6), audio=(3, 4, 4, 4, 4, 6), hidden=5, embedding=7)


@pytest.mark.parametrize(
    ("samples", "frames"), [(1, 1), (400, 1), (401, 2), (560, 2), (561, 3), (640 * 10, 39)]
)
def test_a_frame_of_coefficients_every_10_ms(samples, frames):
    assert mfcc(torch.ones(samples)).shape == (frames, 13)


def test_digital_silence_gives_finite_coefficients():
    coefficients = mfcc(torch.zeros(4000))
    assert coefficients.isfinite().all()
    assert coefficients[:, 0].tolist() == pytest.approx([math.log(2.220446049250313e-16)] * 24)


def test_twice_as_loud_adds_a_constant_to_the_first_coefficient_alone():
    sound = torch.randn(4000, dtype=torch.float64) * 1000
    quiet, loud = mfcc(sound), mfcc(2 * sound)
    assert torch.allclose(loud[:, 0] - quiet[:, 0], torch.tensor(math.log(4)).double())
    assert torch.allclose(loud[:, 1:], quiet[:, 1:], atol=1e-9)


def test_neighbouring_filters_fill_each_other_up():
    bank = filterbank()
    first_peak, last_peak = bank[0].argmax(), bank[-1].argmax()
    inside = bank.sum(dim=0)[first_peak : last_peak + 1]
    assert len(inside) > 200
    assert torch.allclose(inside, torch.ones_like(inside))


def test_sound_is_scaled_like_a_16_bit_file():
    scaled = to_int16_scale(torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0]))
    assert scaled.tolist() == [-32768, -32768, 0, 16384, 32767]


def test_lips_are_seen_in_bgr_of_0_to_255():
    crop = torch.tensor([10, 20, 30], dtype=torch.uint8).expand(1, 2, 2, 3)
    assert lip_input(crop)[0, :, 0, 0].tolist() == [30, 20, 10]


@torch.no_grad()
def test_once_over_the_clip_equals_every_window_alone():
    torch.manual_seed(0)
    network = SyncNet(TINY).eval().double()
    crops = torch.rand(8, 3, 224, 224, dtype=torch.float64)
    whole = network.embed_lips(crops)
    alone = torch.cat([network.embed_lips(crops[i : i + 5]) for i in range(4)])
    assert whole.shape == (4, 7)
    assert torch.allclose(whole, alone, atol=1e-12)


def test_windows_of_sound_advance_by_one_frame_of_the_picture():
    coefficients = torch.arange(28.0).repeat(13, 1)
    windows = audio_windows(coefficients)
    assert windows.shape == (3, 13, 20)
    assert windows[:, 0, 0].tolist() == [0, 4, 8]


def test_chunks_of_windows_do_not_change_the_embeddings(monkeypatch):
    torch.manual_seed(0)
    network = SyncNet(TINY).eval().double()
    crops = torch.randint(0, 256, (12, 224, 224, 3), dtype=torch.uint8)
    sound, like = torch.randn(640 * 12) * 1000, torch.empty(0, dtype=torch.float64)
    done = []
    watch = Watch("test", on_progress=lambda p: done.append((p.done, p.total)))
    whole = embed(network, crops, sound, like=like, watch=watch)
    monkeypatch.setattr("hallo_live_core.rewards.sync.embed.WINDOWS_PER_CHUNK", 3)
    pieces = embed(network, crops, sound, like=like, watch=watch)
    assert done == [(7, 7), (3, 7), (6, 7), (7, 7)]
    for a, b in zip(whole, pieces, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize(
    ("crops", "samples", "windows"), [(26, 16_640, 21), (30, 16_640, 21), (5, 9_999, 0), (3, 0, 0)]
)
def test_one_window_fewer_than_possible_is_compared(crops, samples, windows):
    assert num_windows(crops, samples) == windows


def test_a_shift_that_matches_stands_out():
    generator = torch.Generator().manual_seed(0)
    audio = torch.randn(40, 8, generator=generator, dtype=torch.float64)
    lips = audio.roll(4, dims=0)  # what is seen now was heard four frames ago
    curve = sync_curve(pair_distances(lips, audio))
    assert curve.offset == 4
    assert curve.confidence == pytest.approx(sorted(curve.distances)[15] - min(curve.distances))


def test_beyond_the_clip_there_is_a_zero_vector():
    lips, audio = torch.full((3, 4), 2.0), torch.ones(3, 4)
    distances = pair_distances(lips, audio, max_shift=2)
    assert distances.shape == (3, 5)
    assert distances[0].tolist() == pytest.approx([4, 4, 2, 2, 2], rel=1e-5)
