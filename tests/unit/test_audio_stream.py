from __future__ import annotations

import pytest
import torch

from hallo_live_core.decoding.audio import AudioStream, fade
from hallo_live_core.errors import RequestError, ShapeError

from .audio_models import VAE, tiny_audio_decoder

RATE = 16
"""Samples per latent of the tiny decoder."""


def latents_of(count: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(batch, count, VAE.latent_dim, generator=generator, dtype=torch.float64)


def without_attention():
    dim = VAE.hidden_dim * VAE.multipliers[-1]
    return tiny_audio_decoder(
        decoder__mid__attn_1__proj_out__weight=torch.zeros(dim, dim, 1, dtype=torch.float64)
    )


def stream(stream: AudioStream, latents: torch.Tensor, cuts: list[int], ahead: int = 0):
    parts, start = [], 0
    for index, cut in enumerate(cuts):
        end = start + cut
        future = latents[:, end : end + ahead] if ahead else None
        last = index == len(cuts) - 1
        parts.append(stream.push(latents[:, start:end], ahead=future, last=last))
        start = end
    return parts


@pytest.mark.parametrize("cuts", [[30], [30, 30, 17], [5] * 9, [1] * 12, [3, 40, 2]])
@pytest.mark.parametrize("batch", [1, 2])
def test_all_pushes_together_have_exactly_the_samples_of_the_clip(cuts, batch):
    parts = stream(AudioStream(tiny_audio_decoder()), latents_of(sum(cuts), batch), cuts)
    assert sum(p.shape[1] for p in parts) == sum(cuts) * RATE
    assert all(p.dtype == torch.float32 and len(p) == batch for p in parts)


@pytest.mark.parametrize("cuts", [[30, 30, 30], [5] * 18, [47, 1, 42]])
def test_without_attention_streaming_equals_the_whole_clip(cuts):
    decoder, latents = without_attention(), latents_of(90)
    pushes = AudioStream(decoder, hold_back=40, context=40, crossfade=RATE)
    streamed = torch.cat(stream(pushes, latents, cuts), dim=1)
    whole = decoder(latents).float()
    torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-6)


def test_without_attention_true_latents_ahead_replace_waiting():
    decoder, latents = without_attention(), latents_of(90)
    pushes = AudioStream(decoder, hold_back=40, context=40)
    parts = stream(pushes, latents, [30, 30, 30], ahead=40)
    assert [p.shape[1] for p in parts[:1]] == [30 * RATE]
    streamed = torch.cat(parts, dim=1)
    # The second push sees only 30 of the 40, so it holds 10 back.
    torch.testing.assert_close(streamed, decoder(latents).float(), rtol=0, atol=1e-6)


def test_with_attention_one_push_is_the_whole_clip():
    decoder, latents = tiny_audio_decoder(), latents_of(20)
    streamed = AudioStream(decoder).push(latents, last=True)
    torch.testing.assert_close(streamed, decoder(latents).float(), rtol=0, atol=0)


def test_the_last_latents_of_a_push_wait_for_the_next():
    pushes = AudioStream(tiny_audio_decoder(), hold_back=8)
    latents = latents_of(50)
    assert pushes.push(latents[:, :5]).shape[1] == 0
    assert pushes.push(latents[:, 5:10]).shape[1] == 2 * RATE
    assert pushes.push(latents[:, 10:40]).shape[1] == 30 * RATE
    assert pushes.push(latents[:, 40:50], last=True).shape[1] == 18 * RATE


@pytest.mark.parametrize(("ahead", "ready"), [(0, 22), (3, 25), (8, 30), (10, 30)])
def test_latents_ahead_shorten_the_wait(ahead, ready):
    latents = latents_of(40)
    samples = AudioStream(tiny_audio_decoder()).push(
        latents[:, :30], ahead=latents[:, 30 : 30 + ahead]
    )
    assert samples.shape[1] == ready * RATE


def test_latents_ahead_of_the_last_push_are_not_heard():
    latents = latents_of(30)
    plain = AudioStream(tiny_audio_decoder()).push(latents[:, :20], last=True)
    with_ahead = AudioStream(tiny_audio_decoder()).push(
        latents[:, :20], ahead=latents[:, 20:], last=True
    )
    torch.testing.assert_close(plain, with_ahead, rtol=0, atol=0)


def test_nothing_new_may_be_pushed_to_end_a_clip():
    decoder, latents = tiny_audio_decoder(), latents_of(20)
    pushes = AudioStream(decoder)
    first = pushes.push(latents)
    rest = pushes.push(latents[:, :0], last=True)
    assert first.shape[1] + rest.shape[1] == 20 * RATE


def test_a_push_begins_as_the_previous_one_would_have_gone_on():
    decoder, latents = tiny_audio_decoder(), latents_of(60)
    pushes = AudioStream(decoder, hold_back=8, crossfade=2 * RATE)
    first = pushes.push(latents[:, :30])
    second = pushes.push(latents[:, 30:])
    old = decoder(latents[:, :30]).float()
    new = decoder(latents).float()
    meet = 22 * RATE
    torch.testing.assert_close(first, old[:, :meet])
    # Weights run from 0 to 1 in a half period of a cosine: 1 at the ends to one part in a thousand.
    torch.testing.assert_close(second[:, :1], old[:, meet : meet + 1], rtol=0, atol=2e-3)
    middle = slice(meet + RATE - 1, meet + RATE + 1)
    between = (old[:, middle] + new[:, middle]) / 2
    torch.testing.assert_close(second[:, RATE - 1 : RATE + 1], between, rtol=0, atol=5e-2)
    torch.testing.assert_close(second[:, 2 * RATE :], new[:, meet + 2 * RATE : 52 * RATE])


def test_fading_between_equal_sounds_changes_nothing():
    sound = torch.randn(2, 100)
    torch.testing.assert_close(fade(sound[:, :40], sound), sound)


def test_fading_is_no_longer_than_both_sounds():
    old, new = torch.ones(1, 10), torch.zeros(1, 4)
    faded = fade(old, new)
    assert faded.shape == (1, 4) and (faded.diff() < 0).all()
    assert (fade(old[:, :0], new) == new).all()


def test_the_stream_remembers_no_more_than_its_history():
    """With a history of 40, what lies farther back can not change the sound any more."""
    one, other = latents_of(70), latents_of(70).clone()
    other[:, :10] += 1
    ends = []
    for latents in (one, other):
        pushes = AudioStream(tiny_audio_decoder(), hold_back=4, context=20, history=40)
        ends.append(stream(pushes, latents, [50, 10, 10])[-1])
    assert torch.equal(*ends)


def test_two_streams_of_one_decoder_do_not_meet():
    decoder, latents = tiny_audio_decoder(), latents_of(40, batch=2)
    one, other = AudioStream(decoder), AudioStream(decoder)
    apart = torch.cat(stream(AudioStream(decoder), latents[:1], [20, 20]), dim=1)
    parts = []
    for part in latents.split(20, dim=1):
        parts.append(one.push(part[:1]))
        other.push(part[1:])
    parts.append(one.push(latents[:1, :0], last=True))
    together = torch.cat(parts, dim=1)
    assert together.shape == apart.shape
    torch.testing.assert_close(together[:, : 32 * RATE], apart[:, : 32 * RATE])


def test_a_finished_stream_takes_no_more():
    pushes = AudioStream(tiny_audio_decoder())
    pushes.push(latents_of(3), last=True)
    with pytest.raises(RequestError, match="has ended"):
        pushes.push(latents_of(3))


def test_latents_that_do_not_fit_are_refused_before_anything_is_remembered():
    pushes = AudioStream(tiny_audio_decoder())
    pushes.push(latents_of(10))
    with pytest.raises(ShapeError, match=r"\[1, latents, 4\]"):
        pushes.push(latents_of(5, batch=2))
    with pytest.raises(ShapeError, match=r"Found: \(1, 5, 3\)"):
        pushes.push(latents_of(5), ahead=latents_of(5)[..., :3])
    assert pushes.push(latents_of(5), last=True).shape[1] == 13 * RATE


@pytest.mark.parametrize(
    "settings", [{"hold_back": -1}, {"history": 20}, {"crossfade": -1}, {"context": -3}]
)
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(RequestError, match="history to at least hold_back"):
        AudioStream(tiny_audio_decoder(), **settings)
